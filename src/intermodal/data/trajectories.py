"""How pictures came about: moments of a drawing, collected while it runs, as a strip and as an animation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from intermodal.core.drawing import Glimpse
from intermodal.core.errors import DataError
from intermodal.data.images import contact_sheet
from intermodal.data.token_pictures import enlarged

MOMENTS = 48
"""How many moments of a drawing are kept, at most."""
COLUMNS, ROWS = 9, 4
"""Moments and pictures that a strip shows, at most; the finished pictures come on top."""
PICTURES = 16
"""Pictures that an animation shows, at most."""
SECONDS, HELD, FRAME = 3.0, 2000, (40, 200)
"""An animation's length; milliseconds for which its end stays; the least and the most milliseconds of a frame."""
CELL, GAP, SPACE, FONT = 64, 2, 10, 12
INK = (70, 78, 92)


@dataclass(frozen=True)
class Moment:
    """What was to be seen before a step.

    Attributes:
        done: steps before it; equal to ``steps`` at the end.
        steps: how many there are.
        noise: share of the noisy pictures' variance that is noise.
        noisy: the noisy pictures.
        becoming: what they were said to become.
    """

    done: int
    steps: int
    noise: float
    noisy: list[Image.Image]
    becoming: list[Image.Image]


@dataclass
class Trajectory:
    """Collects moments, evenly spread over the steps; a :data:`~intermodal.core.drawing.Watcher`.

    Attributes:
        kept: how many moments are kept, at most.
        pictures: of how many pictures, at most: of those that are drawn first.
        side: pictures are kept no larger than this; None keeps them as they are.
        moments: what has been seen; where pictures are drawn in several batches, a moment is that of all of them.
    """

    kept: int = MOMENTS
    pictures: int = PICTURES
    side: int | None = None
    moments: list[Moment] = field(default_factory=list)
    _finished: list[Image.Image] = field(default_factory=list)
    _last: list[Image.Image] = field(default_factory=list)

    def __call__(self, glimpse: Glimpse) -> None:
        """Look, if it is one of the moments to keep."""
        self.look(glimpse)

    def look(self, glimpse: Glimpse) -> Moment | None:
        """Return what is to be seen, if it is one of the moments to keep."""
        if glimpse.done == 0:
            self._finished += self._last
            self._last = []
        free, wanted = self.pictures - len(self._finished), evenly(self.kept, glimpse.steps)
        if free <= 0 or glimpse.done not in wanted:
            return None
        noisy, self._last = self._small(glimpse.noisy()[:free]), self._small(glimpse.pictures()[:free])
        place = wanted.index(glimpse.done)
        if place == len(self.moments):
            self.moments.append(Moment(glimpse.done, glimpse.steps, glimpse.noise, [], []))
        self.moments[place].noisy.extend(noisy)
        self.moments[place].becoming.extend(self._last)
        return self.moments[place]

    def now(self) -> list[Image.Image]:
        """Return what all pictures that were begun are said to become."""
        return [*self._finished, *self._last]

    def end(self, pictures: Sequence[Image.Image]) -> list[Moment]:
        """Return the moments with that of the finished pictures at the end.

        Raises:
            DataError: if nothing was seen.
        """
        if not self.moments:
            raise DataError("Nothing was drawn in steps, so there is nothing to show of how it came about.")
        shown = self._small(pictures[: self.pictures])
        steps = self.moments[0].steps
        return [*self.moments, Moment(steps, steps, 0.0, shown, shown)]

    def _small(self, pictures: Sequence[Image.Image]) -> list[Image.Image]:
        found = [picture.copy() for picture in pictures]
        for picture in found:
            if self.side is not None:
                picture.thumbnail((self.side, self.side))
        return found


def evenly(count: int, of: int) -> list[int]:
    """Return at most ``count`` numbers of 0 ... ``of - 1``, evenly spread, the first and the last among them."""
    if of <= count:
        return list(range(of))
    return [round(i * (of - 1) / max(count - 1, 1)) for i in range(count)]


def strip(moments: Sequence[Moment]) -> Image.Image:
    """Return moments side by side: of each picture the noisy one above, and what it was said to become below.

    Args:
        moments: of :meth:`Trajectory.end`; some of them are chosen, evenly spread, and the end.
    """
    *before, end = moments
    chosen = [*(before[i] for i in evenly(COLUMNS, len(before))), end]
    rows = min(len(end.noisy), ROWS)
    pairs = [
        contact_sheet(
            [enlarged(p, CELL) for p in (*(m.noisy[row] for m in chosen), *(m.becoming[row] for m in chosen))],
            GAP,
            len(chosen),
        )
        for row in range(rows)
    ]
    font = ImageFont.load_default(FONT)
    names, sides = [*(f"step {m.done}" for m in chosen[:-1]), "the picture"], ("with noise", "becomes")
    left, top = max(round(font.getlength(side)) for side in sides) + 10, FONT + 8
    width, height = pairs[0].size
    found = Image.new("RGB", (left + width, top + rows * (height + SPACE) - SPACE), (255, 255, 255))
    draw = ImageDraw.Draw(found)
    for number, name in enumerate(names):
        draw.text((left + (number + 0.5) * width / len(names), top / 2), name, INK, font, anchor="mm")
    for row, pair in enumerate(pairs):
        y = top + row * (height + SPACE)
        found.paste(pair, (left, y))
        for number, side in enumerate(sides):
            draw.text((left - 6, y + (number + 0.5) * height / 2), side, INK, font, anchor="rm")
    return found


def frames(moments: Sequence[Moment]) -> list[Image.Image]:
    """Return what the pictures were said to become at each moment, all pictures of a moment as one."""
    least = [4 * CELL if len(m.becoming) == 1 else 2 * CELL for m in moments]
    return [contact_sheet([enlarged(p, size) for p in m.becoming]) for m, size in zip(moments, least, strict=True)]


def save_animation(pictures: Sequence[Image.Image], path: Path, *, held: int = HELD) -> None:
    """Write pictures of one size as an animated GIF that begins again and again.

    Args:
        pictures: at least one.
        path: the file.
        held: milliseconds for which the last one stays.
    """
    least, most = FRAME
    each = 10 * round(min(max(1000 * SECONDS / len(pictures), least), most) / 10)  # the format counts in hundredths
    times = [each] * (len(pictures) - 1) + [max(held, each)]
    first, *others = pictures
    first.save(path, "GIF", save_all=True, append_images=others, duration=times, loop=0, disposal=1)
