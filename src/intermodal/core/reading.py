"""What is read in a picture: plain data that every reader of text shares."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

Box = tuple[int, int, int, int]
"""Left, top, right and lower edge in pixels; the last two are outside."""


@dataclass(frozen=True)
class Line:
    """A line of text in a picture.

    Attributes:
        text: what it says.
        box: where it stands in the picture.
        log_prob: natural log-probability of its tokens, the end included; None where the model does not say.
        ended: it came to its end by itself, and was not cut.
    """

    text: str
    box: Box
    log_prob: float | None = None
    ended: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {**dataclasses.asdict(self), "box": list(self.box)}


def text_of(lines: list[Line]) -> str:
    """Return the text of a page: a line of it for each line, from top to bottom."""
    return "\n".join(line.text for line in lines)
