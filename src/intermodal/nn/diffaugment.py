"""Augmentation that a gradient passes through: what lets a discriminator learn from few pictures (Zhao et al. 2020).

Real and drawn pictures are changed alike before the discriminator sees them. It cannot learn the few real ones by heart, and
since the generator's gradient passes through the change, the generator does not learn to draw changed pictures.

Nothing is kept to the range of pixels and every change is linear in the picture, so that second derivatives exist.

    B batch   C channels   H, W height and width in pixels   P numbers that one picture's changes depend on
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError

NUMBERS = ("brightness", "saturation", "contrast", "down", "right", "top", "left")
"""What each of the P uniform numbers of a picture decides."""


@dataclass(frozen=True, kw_only=True)
class DiffAugment(Config):
    """Changes of pictures in -1..1, in the order of the fields; the defaults are the paper's (appendix A).

    Attributes:
        brightness: largest value that is added or taken off.
        saturation: largest relative change of the distance to grey, the mean of the channels.
        contrast: largest relative change of the distance to the picture's mean.
        translate: largest shift, as a share of the side, in whole pixels; what comes in is 0, the middle of the range.
        cutout: side of a square that is set to 0, as a share of the picture's; part of it may lie outside.

    Raises:
        ConfigError: if a share is out of 0..1.
    """

    brightness: float = 0.5
    saturation: float = 1.0
    contrast: float = 0.5
    translate: float = 0.125
    cutout: float = 0.5

    def __post_init__(self) -> None:
        shares = (self.brightness, self.saturation, self.contrast, self.translate, self.cutout)
        if not all(0 <= share <= 1 for share in shares):
            raise ConfigError(f"DiffAugment: brightness, saturation and so on go from 0 to 1, found {shares}.")

    def draw(self, batch: int, generator: torch.Generator) -> Tensor:
        """Return what decides the changes of ``batch`` pictures: uniform numbers ``(batch, P)`` on the CPU."""
        return torch.rand(batch, len(NUMBERS), generator=generator)

    # --8<-- [start:apply]
    def apply(self, image_BCHW: Tensor, uniform_BP: Tensor) -> Tensor:
        """Return changed pictures ``(B, C, H, W)``, of any range, each changed as its own row of numbers says."""
        u = dict(zip(NUMBERS, uniform_BP.to(image_BCHW).unbind(1), strict=True))
        light, colour, contrast = (u[name].sub(0.5).mul(2).view(-1, 1, 1, 1) for name in NUMBERS[:3])
        x_BCHW = image_BCHW + self.brightness * light
        grey_B1HW = x_BCHW.mean(1, keepdim=True)
        x_BCHW = grey_B1HW + (x_BCHW - grey_B1HW) * (1 + self.saturation * colour)
        mean_B111 = x_BCHW.mean((1, 2, 3), keepdim=True)
        x_BCHW = mean_B111 + (x_BCHW - mean_B111) * (1 + self.contrast * contrast)
        return self._cut(self._shifted(x_BCHW, u), u)

    # --8<-- [end:apply]

    def _shifted(self, x_BCHW: Tensor, u: dict[str, Tensor]) -> Tensor:
        for axis, name in ((2, "down"), (3, "right")):
            side = x_BCHW.shape[axis]
            most = round(self.translate * side)
            if not most:
                continue
            shift_B1 = torch.floor(u[name] * (2 * most + 1)).long().clamp(max=2 * most)[:, None] - most
            place_BS = torch.arange(side, device=x_BCHW.device) - shift_B1
            inside_BS = ((place_BS >= 0) & (place_BS < side)).to(x_BCHW)
            place_BS = place_BS.clamp(0, side - 1)
            shape = (-1, 1, side, 1) if axis == 2 else (-1, 1, 1, side)
            x_BCHW = x_BCHW.gather(axis, place_BS.view(shape).expand_as(x_BCHW)) * inside_BS.view(shape)
        return x_BCHW

    def _cut(self, x_BCHW: Tensor, u: dict[str, Tensor]) -> Tensor:
        height, width = x_BCHW.shape[2:]
        if not self.cutout:
            return x_BCHW
        hit: list[Tensor] = []
        for side, name in ((height, "top"), (width, "left")):
            size = round(self.cutout * side)
            centre_B1 = torch.floor(u[name] * (side + 1 - size % 2)).long()[:, None]
            place_S = torch.arange(side, device=x_BCHW.device)
            hit.append((place_S >= centre_B1 - size // 2) & (place_S < centre_B1 - size // 2 + size))
        return x_BCHW * ~(hit[0][:, None, :, None] & hit[1][:, None, None, :])
