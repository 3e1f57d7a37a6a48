"""A page to its lines, by a simple method: what is darker than a threshold is ink, and rows without ink part lines.

1. The threshold is Otsu's: the grey value that parts the pixels into two classes whose means are farthest apart, weighed
   by their sizes (Otsu 1979, equation 18). If the smaller class is the lighter one, the page is light on dark.
2. A row belongs to a line if it has ink: at least :data:`LEAST_INK` pixels, and more than a little of what the fullest
   rows have. Rows in a row are a line; gaps of a few rows (the dot of an i, an accent) do not part it.
3. A line reaches from its first column of ink to its last, and gets a margin.

What it cannot do: pages of several columns, lines that are not level (a slant of more than about half a line's height
over the width joins them), text on photographs. A page whose two classes are hardly apart is blank.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from intermodal.core.reading import Box

LEAST_CONTRAST = 24.0
"""Grey values between ink and paper, below which a page is blank."""
LEAST_INK = 2
"""Pixels of ink in a row of a line."""
LEAST_SHARE = 0.03
"""Of the ink of a full row, how much a row of a line has."""
LEAST_HEIGHT = 5
"""Rows of a line: less is a rule or a speck."""
GAP = 0.12
"""Gaps of so much of a usual line's height do not part a line."""
MARGIN = 0.15
"""Of its height, around each line."""


def otsu(grey: np.ndarray) -> int:
    """Return Otsu's threshold of uint8 grey values: at most it is the darker class.

    Where all values are the same, that value.
    """
    count = np.bincount(grey.ravel(), minlength=256).astype(np.float64)
    below, values = count.cumsum(), (count * np.arange(256)).cumsum()
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = values / below - (values[-1] - values) / above
        between = np.where((below > 0) & (above > 0), below * above * apart**2, -1.0)
    return int(between.argmax()) if between.max() > 0 else int(grey.flat[0])


def ink(image: Image.Image) -> np.ndarray:
    """Return which pixels of a picture are ink, bool (H, W); none of a blank one.

    A picture of black and white alone is smoothed first: its paper may be sprinkled with dots, which stand for grey.
    """
    grey = np.asarray(image.convert("L").filter(ImageFilter.BoxBlur(1)) if image.mode == "1" else image.convert("L"))
    dark = grey <= otsu(grey)
    if dark.all() or float(grey[~dark].mean()) - float(grey[dark].mean()) < LEAST_CONTRAST:
        return np.zeros(grey.shape, bool)
    return dark if dark.mean() <= 0.5 else ~dark


def lines(image: Image.Image) -> list[Box]:
    """Return where the lines of a page stand, from top to bottom; none of a blank page."""
    ink_HW = ink(image)
    row_H = ink_HW.sum(1)
    if not row_H.any():
        return []
    full = float(np.percentile(row_H[row_H > 0], 90))
    bands = _runs(row_H >= max(LEAST_INK, LEAST_SHARE * full))
    usual = float(np.median([bottom - top for top, bottom in bands])) if bands else 0.0
    joined: list[tuple[int, int]] = []
    for top, bottom in bands:
        if joined and top - joined[-1][1] <= GAP * usual:
            joined[-1] = (joined[-1][0], bottom)
        else:
            joined.append((top, bottom))
    height, width = ink_HW.shape
    found: list[Box] = []
    for top, bottom in joined:
        columns = np.flatnonzero(ink_HW[top:bottom].any(0))
        if bottom - top < LEAST_HEIGHT:
            continue
        margin = max(1, round(MARGIN * (bottom - top)))
        left, right = int(columns[0]), int(columns[-1]) + 1
        box = (max(left - margin, 0), max(top - margin, 0), min(right + margin, width), min(bottom + margin, height))
        found.append(box)
    return found


def _runs(there_N: np.ndarray) -> list[tuple[int, int]]:
    """Return where runs of true values begin and end."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], there_N, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
