"""Where words look, as a picture: the attention of each word of a text over the places of an image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from intermodal.core.errors import DataError
from intermodal.evaluate.speech_pictures import DPI, INK, literal, rendered

CELL = 1.15
"""Inches of one small picture."""
COLUMNS = 8
SHOWN = 192
"""Pixels to which an image is enlarged, so that its own pixels stay sharp."""


def draw_looking(rows: Sequence[tuple[Image.Image, Sequence[str], np.ndarray]], grid: tuple[int, int]) -> Image.Image:
    """Return images, each beside one copy for every word, bright where the word looks.

    A word's weights are shown beside the mean over all words of its text: what every word looks at says little about one. A
    place that gets twice the mean or more is fully bright, one that gets nothing is dark.

    Args:
        rows: an image, the words of a text, and for each word the weights over places, ``(words, places)``, at least 0.
        grid: rows and columns of places, which lie row after row.

    Raises:
        DataError: if there is nothing to draw, or weights do not fit the words and the grid.
    """
    if not rows:
        raise DataError("Nothing to draw: no picture with words.")
    lines = [math.ceil(len(words) / COLUMNS) for _, words, _ in rows]
    figure = Figure(figsize=(CELL * (COLUMNS + 1), (CELL + 0.22) * sum(lines)), dpi=DPI)
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(sum(lines), COLUMNS + 1, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    top = 0
    for (image, words, looks_NS), count in zip(rows, lines, strict=True):
        if looks_NS.shape != (len(words), grid[0] * grid[1]):
            raise DataError(f"Weights of {looks_NS.shape} do not fit {len(words)} words and {grid} places.")
        shown = image.convert("RGB").resize((SHOWN, SHOWN), Image.Resampling.NEAREST)
        axes[top, 0].imshow(shown)
        mean = np.maximum(looks_NS.mean(0), 1e-12)
        for i, word in enumerate(words):
            axis = axes[top + i // COLUMNS, 1 + i % COLUMNS]
            axis.imshow(lit(shown, (looks_NS[i] / mean).reshape(grid)))
            axis.set_title(literal(word), fontsize=8, color=INK, pad=2)
        top += count
    figure.subplots_adjust(
        left=0.005, right=0.995, bottom=0.01, top=1 - 0.2 / ((CELL + 0.22) * sum(lines)), hspace=0.25
    )
    figure.subplots_adjust(wspace=0.04)
    return rendered(canvas)


def lit(image: Image.Image, share: np.ndarray) -> np.ndarray:
    """Return an image, uint8 ``(H, W, 3)``, dark where ``share`` (rows, columns) is 0, as it is from 2 on."""
    size = (image.width, image.height)
    light = Image.fromarray((np.clip(share / 2, 0, 1) * 255).astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)
    weight = 0.15 + 0.85 * np.asarray(light, np.float32)[..., None] / 255
    return (np.asarray(image, np.float32) * weight).astype(np.uint8)
