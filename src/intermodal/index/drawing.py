"""Drawing as command line, page and API share it: who can, a drawing that is watched while it runs, the best of many."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from PIL import Image

from intermodal.core.capabilities import Completes, Draws, Interpolates
from intermodal.core.drawing import MOST_SEED, Drawing, Glimpse
from intermodal.core.errors import DataError
from intermodal.core.progress import Progress
from intermodal.data.trajectories import Moment, Trajectory
from intermodal.index.embedding import offering


def draws(model: object, need: str) -> Draws:
    """Return ``model`` as one that draws in steps, or raise a ConfigError that says what lacks."""
    return offering(model, "draw", need)


def interpolates(model: object, need: str) -> Interpolates:
    """Return ``model`` as one that interpolates, or raise a ConfigError that says what lacks."""
    return offering(model, "interpolate", need)


def completes(model: object, need: str) -> Completes:
    """Return ``model`` as one that goes on with pictures, or raise a ConfigError that says what lacks."""
    return offering(model, "complete", need)


def settings(model: object, given: dict[str, Any], need: str) -> Drawing | None:
    """Return how a model is to draw: its own settings but for those given; None for a model that does not draw in steps.

    Raises:
        ConfigError: if settings are given to a model that does not draw in steps, or are out of range.
    """
    if not given and not isinstance(model, Draws):
        return None
    return draws(model, need).drawing.replace(**given)


def seeds_from(seed: int, count: int) -> list[int]:
    """Return ``count`` seeds from ``seed`` on.

    Raises:
        DataError: if one is below 0 or above 2^63 - 1.
    """
    if not 0 <= seed <= MOST_SEED - count + 1:
        raise DataError(f"Seeds go from 0 to {MOST_SEED}; the first of {count} was to be {seed}.")
    return list(range(seed, seed + count))


class Steps:
    """Tells progress of a drawing; a :data:`~intermodal.core.drawing.Watcher`.

    Args:
        count: how many pictures are drawn.
        report: told.
        also: a further watcher.
    """

    def __init__(self, count: int, report: Progress, also: Trajectory | None = None) -> None:
        self._count, self._report, self._also = count, report, also
        self._before = self._batch = 0

    def __call__(self, glimpse: Glimpse) -> None:
        """Count the step."""
        if glimpse.done == 0:
            self._before += self._batch
            self._batch = glimpse.count
        share = (self._before + self._batch * glimpse.done / glimpse.steps) / max(self._count, 1)
        pictures = "a picture" if self._count == 1 else f"{self._count:,} pictures"
        self._report(f"drawing {pictures} in {glimpse.steps:,} steps", min(share, 1.0))
        if self._also is not None:
            self._also(glimpse)


class Stopped(Exception):
    """A drawing was stopped by the person who asked for it."""


def live(
    model: Draws,
    prompts: Sequence[str | None],
    seeds: Sequence[int],
    drawing: Drawing,
    *,
    trajectory: Trajectory,
    stop: threading.Event,
) -> Iterator[tuple[Moment, list[Image.Image]]]:
    """Draw in a thread and yield each moment that ``trajectory`` keeps, and the pictures as they are then said to become.

    The last is of the finished pictures, unless ``stop`` was set; the drawing then ends at the next step. It is set as
    well when whoever iterates goes away.

    Raises:
        IntermodalError: what the model says of a wrong prompt or setting.
    """
    seen: queue.Queue[tuple[Moment, list[Image.Image]] | BaseException | None] = queue.Queue()

    def watch(glimpse: Glimpse) -> None:
        if stop.is_set():
            raise Stopped
        if (moment := trajectory.look(glimpse)) is not None:
            seen.put((moment, trajectory.now()))

    def work() -> None:
        try:
            pictures = model.draw(prompts, seeds, drawing, watch=watch)
            seen.put((trajectory.end(pictures)[-1], pictures))
            seen.put(None)
        except Stopped:
            seen.put(None)
        except BaseException as error:  # noqa: BLE001 - handed to the thread that asked
            seen.put(error)

    thread = threading.Thread(target=work, name="drawing", daemon=True)
    thread.start()
    try:
        while (found := seen.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            yield found
    finally:
        stop.set()
        thread.join()
