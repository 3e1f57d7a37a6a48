"""Augmentations as batched tensor operations: one call changes a whole batch, each picture in its own way.

``image_BCHW`` is float in 0..1 on any device. The parameters are drawn on the CPU from an explicit generator,
so the same seed gives the same pictures on every device and however a batch is divided over processes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from intermodal.core.config import Config


@dataclass(frozen=True, kw_only=True)
class ImageAugment(Config):
    """Random geometry and colour for training pictures.

    Attributes:
        flip: probability of a left-right flip.
        rotate: largest rotation, degrees either way.
        scale: smallest and largest zoom, as a factor of the picture's side (below 1: the picture becomes
            smaller).
        translate: largest shift, as a share of the side.
        brightness, contrast, saturation: largest relative change.
        hue: largest rotation of the colour circle, as a share of the full turn.
        grey: probability of losing all colour.
    """

    flip: float = 0.0
    rotate: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    translate: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    grey: float = 0.0

    def draw(self, batch: int, generator: torch.Generator) -> Tensor:
        """Draw the parameters of ``batch`` pictures: uniform numbers, shape ``(batch, 10)``, on the CPU."""
        return torch.rand(batch, 10, generator=generator)

    def apply(self, image_BCHW: Tensor, uniform_BP: Tensor) -> Tensor:
        """Change pictures as the numbers of :meth:`draw` say; values stay in 0..1, the border is continued.

        What happens to a picture depends on its own row of numbers alone, to the last bit, so a batch may be
        cut into any parts: parameters are computed in float64, and nothing is summed over the batch.
        """
        u = uniform_BP.double().cpu()
        return self._colour(self._geometry(image_BCHW, u), u)

    def _geometry(self, image: Tensor, u: Tensor) -> Tensor:
        """Sample the picture on a flipped, rotated, zoomed and shifted grid; all in one interpolation."""
        if not (self.flip or self.rotate or self.translate or self.scale != (1.0, 1.0)):
            return image
        height, width = image.shape[2:]
        flip = torch.where(u[:, 0] < self.flip, -1.0, 1.0)
        angle = (2 * u[:, 1] - 1) * math.radians(self.rotate)
        low, high = math.log(self.scale[0]), math.log(self.scale[1])
        zoom = torch.exp(low + (high - low) * u[:, 2])
        shift = (2 * u[:, 3:5] - 1) * (2 * self.translate)
        cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
        tall = height / width  # the grid runs over -1..1 on both axes, whatever the sides: this keeps angles right
        rows = (flip * cos, -flip * sin * tall, shift[:, 0], sin / tall, cos, shift[:, 1])
        xx, xy, x0, yx, yy, y0 = (r.to(image).view(-1, 1, 1) for r in rows)
        x = ((torch.arange(width).to(image) * 2 + 1) / width - 1).view(1, 1, -1)
        y = ((torch.arange(height).to(image) * 2 + 1) / height - 1).view(1, -1, 1)
        grid = torch.stack([xx * x + xy * y + x0, yx * x + yy * y + y0], dim=3)
        return F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)

    def _colour(self, image: Tensor, u: Tensor) -> Tensor:
        def factor(column: int, strength: float) -> Tensor:
            return (1 + (2 * u[:, column] - 1) * strength).view(-1, 1, 1, 1)

        if self.hue:
            image = rotate_hue(image, (2 * u[:, 8] - 1) * self.hue)
        if self.saturation or self.grey:
            keep = factor(7, self.saturation)
            keep = torch.where((u[:, 9] < self.grey).view(-1, 1, 1, 1), 0.0, keep).to(image)
            grey = luma(image)
            image = grey + (image - grey) * keep
        if self.contrast:
            # In two steps: one sum over a whole picture is divided differently by different numbers of
            # threads.
            mean = luma(image).mean(dim=3, keepdim=True).mean(dim=2, keepdim=True)
            image = mean + (image - mean) * factor(6, self.contrast).to(image)
        if self.brightness:
            image = image * factor(5, self.brightness).to(image)
        return image.clamp(0, 1)


LUMA = (0.299, 0.587, 0.114)
_TO_YIQ = np.array([LUMA, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)])
_FROM_YIQ = np.linalg.inv(_TO_YIQ)


def luma(image_BCHW: Tensor) -> Tensor:
    """Return the brightness of RGB pictures (ITU-R BT.601 weights), shape ``(B, 1, H, W)``."""
    red, green, blue = image_BCHW.split(1, dim=1)
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue


def rotate_hue(image_BCHW: Tensor, turns_B: Tensor) -> Tensor:
    """Turn the colour circle of RGB pictures by a share of a full turn, in the YIQ plane (luma is kept)."""
    angle = turns_B.double().cpu() * (2 * math.pi)
    cos, sin = torch.cos(angle), torch.sin(angle)
    one, zero = torch.ones_like(cos), torch.zeros_like(cos)
    turn = torch.stack(
        [
            torch.stack([one, zero, zero], 1),
            torch.stack([zero, cos, -sin], 1),
            torch.stack([zero, sin, cos], 1),
        ],
        1,
    )
    matrix = (torch.from_numpy(_FROM_YIQ) @ turn @ torch.from_numpy(_TO_YIQ)).to(image_BCHW)[..., None, None]
    red, green, blue = image_BCHW.split(1, dim=1)
    # Sums written out: a matrix product may add up in another order in a batch of another size.
    return matrix[:, :, 0] * red + matrix[:, :, 1] * green + matrix[:, :, 2] * blue
