"""What every way of training shares: a run's folder, progress, metrics, health, evaluations, checkpoints, terminations.

A subclass opens the data and the method, and takes the steps: :class:`intermodal.train.loop.Trainer` by autograd,
:class:`intermodal.train.native.NativeTrainer` by an engine that the method brings.
"""

from __future__ import annotations

import datetime
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch

from intermodal.core.version import __version__
from intermodal.methods.base import Method
from intermodal.recipes.base import Recipe
from intermodal.train.folder import MetricsWriter, Run
from intermodal.train.meter import Meter, hardware
from intermodal.train.progress import TrainProgress, clock
from intermodal.train.state import random_state, set_random_state


class Training:
    """Trains one recipe in one run's folder.

    Attributes:
        method: what is trained.
        step: how many steps are done.
        seconds, cpu_seconds: of training, over all parts of a run that was interrupted.
        is_main: whether this process writes.
    """

    method: Method
    meter: Meter
    device: torch.device

    def __init__(self, recipe: Recipe, run: Run, *, is_main: bool, quiet: bool) -> None:
        self.recipe, self.config = recipe, recipe.train
        self.is_main = is_main
        self.run = run
        self.progress = TrainProgress(self.config.steps, quiet=quiet or not is_main)
        self.progress.say(f"Preparing {recipe.name} ...")
        self.step = 0
        self.seconds = self.cpu_seconds = 0.0
        self.writer: MetricsWriter | None = None
        self._stop = False
        self._warned: set[str] = set()

    @property
    def parameters(self) -> int:
        """How many numbers are learnt."""
        return sum(p.numel() for p in self.method.parameters())

    def fit(self) -> bool:
        """Train to the last step; return False if a SIGTERM ended it early (all is saved then).

        Raises:
            TrainingError: if the loss is no longer a number.
        """
        self.progress.say(
            f"Training {self.recipe.method} ({self.parameters / 1e6:.1f} M parameters) on {self._on_what()}, in "
            f"{self.run.path}"
        )
        if self.is_main:
            self.run.truncate_metrics(self.step)
        self.meter = self._new_meter()
        self.writer = MetricsWriter(self.run) if self.is_main else None
        try:
            with self.progress, self._terminations():
                self._train()
        finally:
            if self.writer is not None:
                self.writer.close()
        finished = self.step >= self.config.steps
        if self.is_main:
            self.run.write_summary({**self._summary(), "status": "finished" if finished else "stopped"})
        took = clock(self.seconds)
        if finished:
            self.progress.say(f"Trained {self.step} steps in {took}.")
        else:
            self.progress.say(f"Stopped at step {self.step} after {took}; the same command goes on from here.")
        return finished

    def _on_what(self) -> str:
        """Say how much of what it is trained on."""
        raise NotImplementedError

    def _new_meter(self) -> Meter:
        raise NotImplementedError

    def _train(self) -> None:
        """Take the steps that are left, then save."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """Return all that the next step depends on."""
        raise NotImplementedError

    def judged(self) -> Method:
        """Return the model that is judged and saved."""
        return self.method

    def _meet(self) -> None:
        """Wait for the other processes, if there are any."""

    def _resume(self) -> None:
        """Go on from the newest checkpoint, if there is one."""
        state = self.run.latest_state()
        if state is not None:
            self.load_state(state)
            self.progress.say(f"Resuming {self.run.path} at step {self.step} of {self.config.steps}.")

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state` returned."""
        raise NotImplementedError

    def _timed(self, last: tuple[float, float]) -> tuple[float, float]:
        """Add the time since ``last`` to the account; return the time now (wall and processor)."""
        now = time.monotonic(), time.process_time()
        self.seconds += now[0] - last[0]
        self.cpu_seconds += now[1] - last[1]
        return now

    def _after_step(self, values: dict[str, float], epoch: int) -> None:
        """Log, judge and save where it is time to."""
        config, step = self.config, self.step
        if step % config.log_every == 0 or step == config.steps:
            figures = {**values, **self.meter.read(self.device), "epoch": epoch}
            self._log("train", {**figures, "seconds": self.seconds, "cpu_seconds": self.cpu_seconds})
            self.progress.step(step, figures)
            self._report_health()
        if config.eval_every and step % config.eval_every == 0 and step < config.steps:
            self._evaluate()
        if step % config.checkpoint_every == 0 and step < config.steps:
            self.save()

    def _report_health(self) -> None:
        if self.step <= self.recipe.optim.warmup:  # every network looks ill before it has learnt anything
            return
        for warning in self.method.health():
            kind = re.sub(r"[\d.]+", "#", warning)  # the same warning with another figure is the same warning
            if kind not in self._warned:
                self._warned.add(kind)
                self.progress.say(f"Warning: {warning}")
                self._log("health", {"warning": warning})

    def _evaluate(self) -> None:
        if self.is_main:
            generators = random_state()
            model = self.judged()
            model.eval()
            result = self.recipe.evaluate(model, "validation", self.progress.stage)
            self._log("eval", dict(result.metrics))
            name, value = next(iter(result.metrics.items()))
            self.progress.say(f"step {self.step}: {name} {value:.3f} on the validation split")
            set_random_state(generators)
        self._meet()
        self.method.train()
        self.meter.reset()

    def save(self) -> None:
        """Write a checkpoint to resume from, and the model as it is."""
        state = self.state()
        if self.is_main:
            self.run.save_state(self.step, state, self.config.keep)
            self.judged().save(self.run.model_path)
        self._meet()

    def _log(self, kind: str, values: dict[str, Any]) -> None:
        if self.writer is not None:
            self.writer.write(kind, self.step, values)

    def _summary(self) -> dict[str, Any]:
        """Return what the run's summary says, but for how it ended."""
        return {
            "recipe": self.recipe.name,
            "method": self.recipe.method,
            "steps": self.step,
            "parameters": self.parameters,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "hardware": hardware(self.device),
            "torch": torch.__version__,
            "intermodal": __version__,
            "date": datetime.date.today().isoformat(),
        }

    @contextmanager
    def _terminations(self) -> Iterator[None]:
        """Let SIGTERM end training after the current step, with everything saved."""

        def stop(number: int, frame: FrameType | None) -> None:
            self._stop = True

        try:
            before = signal.signal(signal.SIGTERM, stop)
        except ValueError:  # not in the main thread (a notebook's worker, the page): signals are not ours to take
            yield
            return
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)
