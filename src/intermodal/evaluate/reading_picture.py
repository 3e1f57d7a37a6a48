"""Where a reader looks, as a picture: the line, and below it a row for each token that is read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from intermodal.core.errors import DataError
from intermodal.evaluate.speech_pictures import DPI, INK, literal, rendered

WIDTH = 8.0
ROW = 0.19
"""Inches of a token's row."""


def draw_reading(rows: Sequence[tuple[Image.Image, Sequence[str], np.ndarray]]) -> Image.Image:
    """Return lines of text, each above a map of where the decoder looked, left to right, for every token it read.

    Args:
        rows: the picture of a line, the tokens, and the weights over the picture's places ``(tokens, rows, columns)``, at
            least 0; those of a column are added, and each token's largest is black.

    Raises:
        DataError: if there is nothing to draw, or weights do not fit the tokens.
    """
    if not rows or any(not len(words) for _, words, _ in rows):
        raise DataError("Nothing to draw: no line with tokens.")
    heights = [
        part for image, words, _ in rows for part in (WIDTH * image.height / image.width, ROW * len(words) + 0.15)
    ]
    figure = Figure(figsize=(WIDTH, sum(heights)), dpi=DPI)
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(len(heights), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    for number, (image, words, look_NRC) in enumerate(rows):
        if len(look_NRC) != len(words):
            raise DataError(f"Weights of {len(look_NRC)} tokens do not fit {len(words)}.")
        line, below = axes[2 * number], axes[2 * number + 1]
        line.imshow(image.convert("L"), cmap="gray", aspect="auto", interpolation="nearest")
        line.axis("off")
        look_NC = look_NRC.sum(1)
        below.imshow(look_NC / np.maximum(look_NC.max(1, keepdims=True), 1e-12), cmap="Greys", aspect="auto")
        below.set_yticks(range(len(words)), [literal(word if word.strip() else "\u2423") for word in words])
        below.tick_params(labelsize=8, colors=INK, length=0)
        below.set_xticks([])
    figure.subplots_adjust(left=0.05, right=0.995, top=0.99, bottom=0.01, hspace=0.06)
    return rendered(canvas)
