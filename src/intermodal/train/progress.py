"""What a person sees while a run trains: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class TrainProgress:
    """Shows stages and steps; on a terminal as a bar with the time left, in a log as a line every ``seconds``.

    Args:
        steps: steps in all.
        quiet: print nothing (ranks other than the first; tests).
        seconds: between two plain lines.
    """

    def __init__(self, steps: int, quiet: bool = False, seconds: float = 15.0) -> None:
        self.console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self.steps, self.seconds = steps, seconds
        self._start = time.monotonic()
        self._first: int | None = None
        self._last = 0.0
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """Print one line, now."""
        self.console.print(text, markup=False)

    def step(self, step: int, figures: dict[str, float]) -> None:
        """Show that ``step`` steps are done, and the newest figures."""
        if self._first is None:
            self._first, self._start = step, time.monotonic()
        text = describe(figures)
        if self.console.is_terminal:
            if self._task is None:
                self._task = self._bar.add_task("training", total=self.steps, figures="")
            self._bar.update(self._task, completed=step, figures=text)
            return
        now = time.monotonic()
        if now - self._last >= self.seconds or step == self.steps:
            self._last = now
            self.say(f"step {step}/{self.steps}{self._left(step, now)}  {text}")

    def _left(self, step: int, now: float) -> str:
        done = step - (self._first or 0)
        if done <= 0 or step >= self.steps:
            return ""
        return f", {clock((now - self._start) / done * (self.steps - step))} left"

    def stage(self, what: str, share: float) -> None:
        """Show what is done beside training, such as judging, and how far it is."""
        if self.console.is_terminal:
            if self._task is not None:
                self._bar.update(self._task, figures=f"{what} {share:.0%}")
            return
        now = time.monotonic()
        if now - self._last >= self.seconds:
            self._last = now
            self.say(f"{what}: {share:.0%}")


def describe(figures: dict[str, float]) -> str:
    """Return the figures of one line of metrics in a person's words."""
    parts = []
    if "loss" in figures:
        parts.append(f"loss {figures['loss']:.3f}")
    if "samples_per_second" in figures:
        parts.append(f"{figures['samples_per_second']:.0f}/s")
    if "data_wait" in figures:
        parts.append(f"data wait {figures['data_wait']:.0%}")
    if "mfu" in figures:
        parts.append(f"MFU {figures['mfu']:.0%}")
    if "memory_mb" in figures:
        parts.append(f"{figures['memory_mb'] / 1000:.1f} GB")
    return "  ".join(parts)


def clock(seconds: float) -> str:
    """Return a duration such as ``3 min 20 s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
