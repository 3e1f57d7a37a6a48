"""Ways to spoil a picture, as batched tensor operations: what a model that knows real pictures should notice.

``image_BCHW`` is float in 0..1. Noise and blur are those of Hendrycks & Dietterich 2019 (severity 3 of noise and impulse
noise; the blur is that of their version for 32 pixels at its strongest); the shuffles keep every pixel's value.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from intermodal.core.errors import DataError

Corruption = Callable[[Tensor, torch.Generator], Tensor]
NOISE, IMPULSES, BLUR, PATCHES = 0.18, 0.09, 1.0, 4


def gaussian_noise(image_BCHW: Tensor, generator: torch.Generator) -> Tensor:
    """Add normal noise of standard deviation 0.18 to every value."""
    drawn = torch.randn(image_BCHW.shape, generator=generator).to(image_BCHW)
    return (image_BCHW + NOISE * drawn).clamp(0, 1)


def salt_and_pepper(image_BCHW: Tensor, generator: torch.Generator) -> Tensor:
    """Make 9 % of the pixels black or white."""
    batch, _, height, width = image_BCHW.shape
    drawn = torch.rand(batch, 1, height, width, generator=generator).to(image_BCHW)
    salted = torch.where(drawn < IMPULSES / 2, torch.ones_like(image_BCHW), image_BCHW)
    return torch.where(drawn > 1 - IMPULSES / 2, torch.zeros_like(image_BCHW), salted)


def blur(image_BCHW: Tensor, generator: torch.Generator) -> Tensor:
    """Blur with a Gaussian of a standard deviation of one pixel; the border is continued."""
    del generator
    place = torch.arange(-3, 4, dtype=image_BCHW.dtype, device=image_BCHW.device)
    weight = torch.exp(-(place**2) / (2 * BLUR**2))
    channels = image_BCHW.shape[1]
    kernel = (weight / weight.sum()).repeat(channels, 1, 1)
    padded = F.pad(image_BCHW, (3, 3, 3, 3), mode="replicate")
    across = F.conv2d(padded, kernel.unsqueeze(2), groups=channels)
    return F.conv2d(across, kernel.unsqueeze(3), groups=channels).clamp(0, 1)


def patch_shuffle(image_BCHW: Tensor, generator: torch.Generator) -> Tensor:
    """Cut each picture into 4 x 4 patches and put them in a random order.

    Raises:
        DataError: if the sides are no multiples of four.
    """
    batch, channels, height, width = image_BCHW.shape
    if height % PATCHES or width % PATCHES:
        raise DataError(f"Pictures of {height} x {width} cannot be cut into {PATCHES} x {PATCHES} equal patches.")
    tall, wide = height // PATCHES, width // PATCHES
    cut = image_BCHW.reshape(batch, channels, PATCHES, tall, PATCHES, wide).permute(0, 2, 4, 1, 3, 5)
    patches = _shuffled(cut.reshape(batch, PATCHES**2, channels, tall, wide), generator)
    whole = patches.reshape(batch, PATCHES, PATCHES, channels, tall, wide).permute(0, 3, 1, 4, 2, 5)
    return whole.reshape(image_BCHW.shape)


def pixel_shuffle(image_BCHW: Tensor, generator: torch.Generator) -> Tensor:
    """Put the pixels of each picture in a random order."""
    batch, channels, height, width = image_BCHW.shape
    pixels = image_BCHW.permute(0, 2, 3, 1).reshape(batch, height * width, channels)
    return _shuffled(pixels, generator).reshape(batch, height, width, channels).permute(0, 3, 1, 2)


def invert(image_BCHW: Tensor, generator: torch.Generator) -> Tensor:
    """Turn every colour into its complement."""
    del generator
    return 1 - image_BCHW


def _shuffled(items: Tensor, generator: torch.Generator) -> Tensor:
    """Return ``(B, N, ...)`` with the N items of each of B in an order of its own."""
    order = torch.rand(items.shape[:2], generator=generator).argsort(1).to(items.device)
    return torch.stack([row[places] for row, places in zip(items, order, strict=True)])


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": gaussian_noise,
    "salt_and_pepper": salt_and_pepper,
    "blur": blur,
    "patch_shuffle": patch_shuffle,
    "pixel_shuffle": pixel_shuffle,
    "invert": invert,
}
"""Each corruption by its name."""
