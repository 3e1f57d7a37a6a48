"""Training by an engine that the method brings, in a run like any other: metrics, checkpoints, SIGTERM, resuming.

``train.steps`` divides the engine's whole work into equal steps, so that logging, evaluations and checkpoints come as often
as in the ordinary loop. One process trains; the engine may use several threads.
"""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from accelerate import PartialState

from intermodal.core.errors import ConfigError, TrainingError
from intermodal.methods.base import Method
from intermodal.recipes.base import Recipe
from intermodal.train.base import Training
from intermodal.train.folder import Run
from intermodal.train.meter import Meter


class NativeTrainer(Training):
    """Trains one recipe in one run's folder by the method's own engine.

    Args:
        recipe: what to train.
        run: where; if it holds checkpoints, training goes on from the newest.
        quiet: print nothing.

    Raises:
        ConfigError: if several processes were started, or the folder holds another recipe's run.
        DataError: if the data is not there or does not have what the method needs.
        MissingExtraError: if the engine's compiler is not installed.
    """

    def __init__(self, recipe: Recipe, run: Run, quiet: bool = False) -> None:
        if PartialState().num_processes > 1:
            raise ConfigError(
                f"The method {recipe.method} trains itself on the threads of one process: start one process, or set "
                "train.native=False."
            )
        self.device = torch.device("cpu")
        super().__init__(recipe, run, is_main=True, quiet=quiet)
        self.method: Method = recipe.build()
        self.run.start(recipe)
        self.engine = recipe.engine(self.method, self.run.path, self.progress.stage)
        try:
            self._resume()
        except BaseException:
            self.engine.close()
            raise

    def _on_what(self) -> str:
        return f"{self.engine.about}, {self.config.steps} steps"

    def _new_meter(self) -> Meter:
        return Meter(0.0, 0.0)

    def _share(self, step: int) -> int:
        """Return how many samples lie before a step."""
        return self.engine.samples * step // self.config.steps

    def _train(self) -> None:
        last = time.monotonic(), time.process_time()
        try:
            while self.step < self.config.steps and not self._stop:
                values = self.engine.step(self.step)
                if not math.isfinite(values["loss"]):
                    raise TrainingError(
                        f"The loss is {values['loss']} at step {self.step}: training stopped, the last checkpoint stands. "
                        "Try a lower optim.lr."
                    )
                self.step += 1
                self.meter.step(self._share(self.step) - self._share(self.step - 1))
                last = self._timed(last)
                epoch = int(values.pop("epoch"))
                self._after_step(values, epoch)
            self.save()
        finally:
            self.engine.close()

    def state(self) -> dict[str, Any]:
        """Return all that the next step depends on."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "engine": self.engine.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state` returned.

        Raises:
            ConfigError: if the data is no longer what the run began with.
        """
        self.engine.load_state(state["engine"])
        self.step, self.seconds, self.cpu_seconds = state["step"], state["seconds"], state["cpu_seconds"]

    def _summary(self) -> dict[str, Any]:
        engine = self.engine
        return {**super()._summary(), "data": engine.data, "samples": engine.samples, "work": engine.about}
