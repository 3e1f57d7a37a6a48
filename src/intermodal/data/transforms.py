"""Augmentations as batched tensor operations: one call changes a whole batch, each picture in its own way.

``image_BCHW`` is float in 0..1 on any device. The parameters are drawn on the CPU from an explicit generator,
so the same seed gives the same pictures on every device and however a batch is divided over processes. With
``views`` above one each picture comes out several times, each time changed in another way: what contrastive
learning without labels is made of (Chen et al. 2020, section 3).

Shapes: B pictures, V views of each, C channels, H height, W width, P numbers that one view depends on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError

_NAMES = (
    *("flip", "rotate", "scale", "x", "y", "brightness", "contrast", "saturation", "hue", "grey"),
    *("area", "ratio", "left", "top", "jitter", "blur", "sigma"),
)
NUMBERS = {name: column for column, name in enumerate(_NAMES)}
"""What each of the P uniform numbers of a view decides, and its column."""

DRAWN_FIRST = 10
"""The first columns are drawn for the whole batch before the others, which came later: their draws are as they were."""

TRUNCATE = 3.0
"""A blur's kernel ends so many standard deviations from its centre, as scipy's and torchvision's users set it."""

CHUNK = 24
"""Pictures changed at a time: few enough that they stay in the processor's cache from one operation to the next."""


@dataclass(frozen=True, kw_only=True)
class ImageAugment(Config):
    """Random geometry, colour and blur for training pictures.

    The order is that of the fields: a crop, a change of geometry, colours, blur. Geometry, the crop included, is one
    bilinear interpolation.

    Attributes:
        flip: probability of a left-right flip.
        rotate: largest rotation, degrees either way.
        scale: smallest and largest zoom, as a factor of the picture's side (below 1: the picture becomes
            smaller).
        translate: largest shift, as a share of the side.
        brightness, contrast, saturation: largest relative change.
        hue: largest rotation of the colour circle, as a share of the full turn.
        grey: probability of losing all colour.
        crop: smallest and largest share of the area that a random crop keeps; None for no crop. The crop is
            resized to the whole picture (Szegedy et al. 2015, section 6).
        ratio: smallest and largest ratio of the crop's width to its height, in pixels.
        jitter: probability that brightness, contrast, saturation and hue change at all.
        blur: probability of a Gaussian blur.
        sigma: smallest and largest standard deviation of the blur, in pixels.
        views: how many versions of each picture there are.

    Raises:
        ConfigError: if a range is empty or outside of what it means, or there is no view.
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
    crop: tuple[float, float] | None = None
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    jitter: float = 1.0
    blur: float = 0.0
    sigma: tuple[float, float] = (0.1, 2.0)
    views: int = 1

    def __post_init__(self) -> None:
        if self.views < 1:
            raise ConfigError(f"augment.views must be at least 1, found {self.views}.")
        if self.crop is not None and not 0 < self.crop[0] <= self.crop[1] <= 1:
            raise ConfigError(
                f"augment.crop must be two shares of the area with 0 < low <= high <= 1, found {self.crop}."
            )
        for name, (low, high) in (("scale", self.scale), ("ratio", self.ratio), ("sigma", self.sigma)):
            if not 0 < low <= high:
                raise ConfigError(f"augment.{name} must be two numbers with 0 < low <= high, found {(low, high)}.")

    def draw(self, batch: int, generator: torch.Generator) -> Tensor:
        """Draw the parameters of ``batch`` pictures: uniform numbers on the CPU.

        Returns:
            Shape ``(batch, P)``, or with several views ``(batch, V, P)``; :data:`NUMBERS` names the columns.
        """
        count = batch * self.views
        first = torch.rand(count, DRAWN_FIRST, generator=generator)
        uniform = torch.cat([first, torch.rand(count, len(NUMBERS) - DRAWN_FIRST, generator=generator)], dim=1)
        return uniform if self.views == 1 else uniform.unflatten(0, (batch, self.views))

    def apply(self, image_BCHW: Tensor, uniform_BP: Tensor) -> Tensor:
        """Change pictures as the numbers of :meth:`draw` say; values stay in 0..1, the border is continued.

        What happens to a picture depends on its own row of numbers alone, to the last bit, so a batch may be
        cut into any parts: parameters are computed in float64, and nothing is summed over the batch.

        Args:
            image_BCHW: float in 0..1; or ``(B, V, C, H, W)``, where the views are V pictures already (of one class),
                each of which is then changed in its own way.
            uniform_BP: what :meth:`draw` returned, ``(B, P)`` or ``(B, V, P)``.

        Returns:
            Shape ``(B, C, H, W)``, or with a view axis in pictures or numbers ``(B, V, C, H, W)``.

        Raises:
            ConfigError: if the pictures have a view axis of another length than :attr:`views`.
        """
        u = uniform_BP.double().cpu()
        views = 1 if u.ndim == 2 else u.shape[1]
        if image_BCHW.ndim == 5 and image_BCHW.shape[1] != views:
            raise ConfigError(
                f"A sample holds {image_BCHW.shape[1]} pictures, but augment.views is {views}: let it be the same number."
            )
        if u.ndim == 2:
            return self._views(image_BCHW.flatten(0, -4), u).view(image_BCHW.shape)
        image = image_BCHW if image_BCHW.ndim == 5 else image_BCHW[:, None].expand(-1, views, -1, -1, -1)
        return self._views(image.flatten(0, 1), u.flatten(0, 1)).unflatten(0, (-1, views))

    def _views(self, image: Tensor, u: Tensor) -> Tensor:
        if image.device.type != "cpu":
            return self._change(image, u)
        pairs = zip(image.split(CHUNK), u.split(CHUNK), strict=True)
        return torch.cat([self._change(pictures, numbers) for pictures, numbers in pairs])

    def _change(self, image: Tensor, u: Tensor) -> Tensor:
        return self._blur(self._colour(self._geometry(image, u), u), u)

    def _geometry(self, image: Tensor, u: Tensor) -> Tensor:
        """Sample the picture on a cropped, flipped, rotated, zoomed and shifted grid; all in one interpolation."""
        if self.crop is None and not (self.flip or self.rotate or self.translate or self.scale != (1.0, 1.0)):
            return image
        height, width = image.shape[2:]
        flip = torch.where(u[:, 0] < self.flip, -1.0, 1.0)
        angle = (2 * u[:, 1] - 1) * math.radians(self.rotate)
        low, high = math.log(self.scale[0]), math.log(self.scale[1])
        zoom = torch.exp(low + (high - low) * u[:, 2])
        shift = (2 * u[:, 3:5] - 1) * (2 * self.translate)
        cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
        tall = height / width  # the grid runs over -1..1 on both axes, whatever the sides: this keeps angles right
        rows: tuple[Tensor, ...] = (flip * cos, -flip * sin * tall, shift[:, 0], sin / tall, cos, shift[:, 1])
        if self.crop is not None:
            rows = self._cropped(rows, u, tall)
        xx, xy, x0, yx, yy, y0 = (r.to(image).view(-1, 1, 1) for r in rows)
        x = ((torch.arange(width).to(image) * 2 + 1) / width - 1).view(1, 1, -1)
        y = ((torch.arange(height).to(image) * 2 + 1) / height - 1).view(1, -1, 1)
        grid = torch.stack([xx * x + xy * y + x0, yx * x + yy * y + y0], dim=3)
        return F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)

    def _cropped(self, rows: tuple[Tensor, ...], u: Tensor, tall: float) -> tuple[Tensor, ...]:
        """Return the rows of the grid's affine map, followed by the map of the whole picture onto its crop."""
        assert self.crop is not None
        area = self.crop[0] + (self.crop[1] - self.crop[0]) * u[:, NUMBERS["area"]]
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        ratio = torch.exp(low + (high - low) * u[:, NUMBERS["ratio"]]) * tall  # of shares of the sides
        across = torch.sqrt(area * ratio).clamp(max=1.0)  # a crop that would be wider than the picture is as wide
        down = torch.sqrt(area / ratio).clamp(max=1.0)
        x0 = (1 - across) * (2 * u[:, NUMBERS["left"]] - 1)
        y0 = (1 - down) * (2 * u[:, NUMBERS["top"]] - 1)
        xx, xy, x1, yx, yy, y1 = rows
        return across * xx, across * xy, across * x1 + x0, down * yx, down * yy, down * y1 + y0

    def _colour(self, image: Tensor, u: Tensor) -> Tensor:
        changed = u[:, NUMBERS["jitter"]] < self.jitter

        def change(column: int, strength: float) -> Tensor:
            return torch.where(changed, (2 * u[:, column] - 1) * strength, 0.0)

        def factor(column: int, strength: float) -> Tensor:
            return (1 + change(column, strength)).view(-1, 1, 1, 1)

        if self.hue:
            image = rotate_hue(image, change(8, self.hue))
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

    def _blur(self, image: Tensor, u: Tensor) -> Tensor:
        chosen = u[:, NUMBERS["blur"]] < self.blur
        if not chosen.any():
            return image
        sigma = self.sigma[0] + (self.sigma[1] - self.sigma[0]) * u[chosen, NUMBERS["sigma"]]
        at = chosen.nonzero()[:, 0].to(image.device)
        radius = math.ceil(TRUNCATE * self.sigma[1])
        return image.index_copy(0, at, gaussian_blur(image.index_select(0, at), sigma, radius))


def gaussian_blur(image_BCHW: Tensor, sigma_B: Tensor, radius: int) -> Tensor:
    """Blur each picture with a Gaussian of its own width, one axis after the other; the border is continued.

    Args:
        image_BCHW: any floating dtype, on any device.
        sigma_B: standard deviations in pixels, above 0.
        radius: the kernel has ``2 * radius + 1`` weights, which sum to one.

    Returns:
        Pictures of the same shape.
    """
    offset = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weight_BK = torch.exp(-0.5 * (offset / sigma_B.double().cpu()[:, None]) ** 2)
    weight_BK = (weight_BK / weight_BK.sum(1, keepdim=True)).to(image_BCHW)
    for dim in (3, 2):
        size = image_BCHW.shape[dim]
        padding = (radius, radius, 0, 0) if dim == 3 else (0, 0, radius, radius)
        padded = F.pad(image_BCHW, padding, mode="replicate")
        # A kernel is symmetric: what lies as far on either side shares a weight. Sums are written out, because a
        # convolution may add up in another order in a batch of another size.
        image_BCHW = padded.narrow(dim, radius, size) * weight_BK[:, radius].view(-1, 1, 1, 1)
        for k in range(1, radius + 1):
            pair = padded.narrow(dim, radius - k, size) + padded.narrow(dim, radius + k, size)
            image_BCHW = image_BCHW.addcmul_(pair, weight_BK[:, radius + k].view(-1, 1, 1, 1))
    return image_BCHW


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
