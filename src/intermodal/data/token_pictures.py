"""Visual tokens as pictures that a person can look at: a colour for each code, the principal channels of real numbers.

h, w places of the latent   Q codes at each place   Z channels of real numbers
"""

from __future__ import annotations

import colorsys
import math

import numpy as np
from PIL import Image

from intermodal.core.errors import DataError

_STEPS = tuple(1.2207440846057596**-power for power in (1, 2, 3))
"""Multiples of these, modulo one, lie evenly in a cube however many there are (Roberts 2018, the R3 sequence)."""
_LEAST = 256
"""A picture of tokens has at least so many pixels on its longer side."""


def palette(codes: np.ndarray) -> np.ndarray:
    """Return the colour of each code, uint8 RGB of shape ``(*codes.shape, 3)``: a code has the same in every picture.

    Neighbours in number are far apart in colour. A colour means nothing but the code.
    """
    distinct, place = np.unique(codes, return_inverse=True)
    shades = []
    for code in distinct.tolist():
        hue, saturation, value = ((0.5 + code * step) % 1 for step in _STEPS)
        shades.append(colorsys.hsv_to_rgb(hue, 0.25 + 0.65 * saturation, 0.45 + 0.5 * value))
    return (np.array(shades).reshape(-1, 3) * 255).round().astype(np.uint8)[place.reshape(codes.shape)]


def principal(latent_Zhw: np.ndarray) -> np.ndarray:
    """Return the three principal channels of a latent over its places as red, green and blue, uint8 ``(h, w, 3)``.

    The principal components of the places' vectors, the largest red; each is signed so that its largest weight is positive,
    and fills the range. With fewer than three channels, or where all places are alike, the others are middle grey.
    """
    channels, height, width = latent_Zhw.shape
    vectors = latent_Zhw.reshape(channels, -1).T.astype(np.float64)
    centred = vectors - vectors.mean(0)
    _, scale, axes = np.linalg.svd(centred, full_matrices=False)
    shown = np.full((len(vectors), 3), 0.5)
    for k in range(min(3, len(axes))):
        if scale[k] <= 1e-6 * max(float(np.abs(vectors).max(initial=0.0)), 1e-30):
            break
        score = centred @ axes[k] * np.sign(axes[k][np.abs(axes[k]).argmax()])
        shown[:, k] = (score - score.min()) / (score.max() - score.min())
    return (shown * 255).round().astype(np.uint8).reshape(height, width, 3)


def signed(values: np.ndarray) -> np.ndarray:
    """Return numbers as colours, uint8 ``(*values.shape, 3)``: 0 is white, red is positive, blue is negative."""
    share = values / max(float(np.abs(values).max(initial=0.0)), 1e-12)
    faded = 1 - np.abs(share)
    positive = np.stack([np.ones_like(share), faded, faded], -1)
    negative = np.stack([faded, faded, np.ones_like(share)], -1)
    return (np.where((share >= 0)[..., None], positive, negative) * 255).round().astype(np.uint8)


def token_pictures(latent: np.ndarray, codebook: int | None, least: int = _LEAST) -> list[Image.Image]:
    """Return one picture's latent as pictures, each place a square of pixels: one, or one for each of Q codes at a place.

    Args:
        latent: codes ``(h, w)`` or ``(h, w, Q)``; or real numbers ``(Z, h, w)``, shown by :func:`principal`, or ``(Z,)``,
            shown by :func:`signed` row by row.
        codebook: K; None for real numbers.
        least: pixels of the longer side, at least.

    Raises:
        DataError: if the latent has another shape.
    """
    if codebook is not None and latent.ndim in (1, 2, 3):
        grid = latent[None] if latent.ndim == 1 else latent
        grids = [palette(grid)] if grid.ndim == 2 else [palette(grid[..., q]) for q in range(grid.shape[2])]
    elif codebook is None and latent.ndim == 3:
        grids = [principal(latent)]
    elif codebook is None and latent.ndim == 1:
        columns = math.ceil(math.sqrt(len(latent)))
        cells = np.zeros(-(-len(latent) // columns) * columns, latent.dtype)
        cells[: len(latent)] = latent
        grids = [signed(cells.reshape(-1, columns))]
    else:
        raise DataError(f"A latent of shape {latent.shape} cannot be shown as a picture.")
    return [enlarged(Image.fromarray(grid), least) for grid in grids]


def enlarged(image: Image.Image, least: int = _LEAST) -> Image.Image:
    """Return a small picture with every pixel as a square, so that its longer side has ``least`` pixels or a few more."""
    scale = max(1, math.ceil(least / max(image.size)))
    return image if scale == 1 else image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def side_by_side(pictures: list[Image.Image], gap: int = 8) -> Image.Image:
    """Return pictures in a row on white, each enlarged or reduced to the height of the tallest."""
    height = max(p.height for p in pictures)
    fitted = [
        p if p.height == height else p.resize((round(p.width * height / p.height), height), Image.Resampling.NEAREST)
        for p in pictures
    ]
    sheet = Image.new("RGB", (sum(p.width for p in fitted) + gap * (len(fitted) - 1), height), (255, 255, 255))
    left = 0
    for picture in fitted:
        sheet.paste(picture, (left, 0))
        left += picture.width + gap
    return sheet
