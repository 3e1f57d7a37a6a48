"""The colour of most of a picture in one word, by a stated rule: what a question about colours is answered by.

Pixels that are nearly white are background and left out. Each other pixel has one of eleven names (the basic colour terms
of English, Berlin & Kay 1969) by its hue, saturation and value. The most frequent name is the picture's colour if it has at
least :data:`SHARE` of the pixels and :data:`AHEAD` times as many as the next; else none is.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

NAMES = ("black", "grey", "white", "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")
SHARE, AHEAD = 0.35, 1.3
FEW = 0.02
"""A picture with fewer pixels that are no background has no colour, as a share of all."""
BACKGROUND = 243
"""A pixel all of whose channels are above this is background."""
HUES = ((14, "red"), (38, "orange"), (68, "yellow"), (165, "green"), (258, "blue"), (300, "purple"), (345, "pink"))
"""Names of hues up to these degrees; above the last, red."""


def main_colour(image: Image.Image) -> str | None:
    """Return one of :data:`NAMES`, or None where no colour is that of most of the picture."""
    rgb_NC = np.asarray(image.convert("RGB"), np.float32).reshape(-1, 3)
    count = len(rgb_NC)
    rgb_NC = rgb_NC[rgb_NC.min(1) <= BACKGROUND]
    if len(rgb_NC) < FEW * count:
        return None
    most = np.sort(np.bincount(named(rgb_NC), minlength=len(NAMES)))[::-1]
    if most[0] < SHARE * len(rgb_NC) or most[0] < AHEAD * most[1]:
        return None
    return NAMES[int(np.bincount(named(rgb_NC), minlength=len(NAMES)).argmax())]


def named(rgb_NC: np.ndarray) -> np.ndarray:
    """Return the number in :data:`NAMES` of each colour ``(N, 3)``, channels from 0 to 255."""
    high, low = rgb_NC.max(1), rgb_NC.min(1)
    span = np.maximum(high - low, 1e-6)
    red, green, blue = rgb_NC.T
    sixth = np.where(
        high == red,
        (green - blue) / span % 6,
        np.where(high == green, (blue - red) / span + 2, (red - green) / span + 4),
    )
    hue, value, saturation = 60 * sixth, high / 255, (high - low) / np.maximum(high, 1e-6)
    ends = [end for end, _ in HUES]
    names = np.array([NAMES.index(name) for _, name in HUES] + [NAMES.index("red")])
    found = names[np.searchsorted(ends, hue)]
    dark = (value < 0.7) & (saturation > 0.25) & ((hue < 45) | (hue >= 345))
    found = np.where(dark, NAMES.index("brown"), found)
    plain = np.where(value > 0.85, NAMES.index("white"), NAMES.index("grey"))
    found = np.where(saturation < 0.15, plain, found)
    return np.where(value < 0.22, NAMES.index("black"), found)
