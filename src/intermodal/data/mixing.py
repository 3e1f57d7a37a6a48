"""Mixed pictures: two of a batch become one, and the loss asks for both classes in their shares.

Mixup adds them (Zhang et al. 2018, equation 1); CutMix puts a rectangle of one onto the other (Yun et al. 2019, equation 2).
Random erasing puts noise onto a rectangle of some (Zhong et al. 2020, section 3), which changes no class.

    B pictures   C channels   H, W height and width
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError

ERASED, LONGEST = (0.02, 0.33), 10 / 3
"""Smallest and largest share of a picture that is erased, and how many times as long as wide (or wide as long) at most."""


@dataclass(frozen=True, kw_only=True)
class Mixing(Config):
    """How a batch is mixed; with both on, each batch is mixed in one way, drawn with equal chances.

    Attributes:
        mixup: both parameters of the Beta distribution of mixup's share; 0 for no mixup.
        cutmix: the same for CutMix.
        erase: probability that a rectangle of a picture, 2 to 33 % of its area, is noise.

    Raises:
        ConfigError: if one is below 0, or a probability above 1.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    erase: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.erase <= 1:
            raise ConfigError(f"Mixing: erase is a probability, found {self.erase}.")
        if self.mixup < 0 or self.cutmix < 0:
            raise ConfigError(f"Mixing: mixup and cutmix must be at least 0, found {self.mixup} and {self.cutmix}.")

    def __bool__(self) -> bool:
        return bool(self.mixup or self.cutmix or self.erase)

    def mix(self, image_BCHW: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Mix each picture with another one of the batch.

        Args:
            image_BCHW: prepared pictures.
            generator: on the CPU; decides which pictures meet and how.

        Returns:
            The mixed pictures; the number ``(B,)`` of the other picture in each; and the share ``(B,)`` that each keeps of
            itself, 1 where nothing was mixed.
        """
        batch, _, height, width = image_BCHW.shape
        rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
        other_B = torch.from_numpy(rng.permutation(batch)).to(image_BCHW.device)
        cut = bool(self.cutmix) and (not self.mixup or rng.random() < 0.5)
        alpha = self.cutmix if cut else self.mixup
        if not alpha:
            return self._erased(image_BCHW, rng), other_B, torch.ones(batch, device=image_BCHW.device)
        share_B = torch.from_numpy(rng.beta(alpha, alpha, batch))
        if cut:
            inside_BHW = _rectangles(share_B, height, width, rng)
            share_B = 1 - inside_BHW.double().mean((1, 2))
            inside = inside_BHW[:, None].to(image_BCHW.device)
            mixed = torch.where(inside, image_BCHW[other_B], image_BCHW)
        else:
            kept = share_B.to(image_BCHW)[:, None, None, None]
            mixed = kept * image_BCHW + (1 - kept) * image_BCHW[other_B]
        return self._erased(mixed, rng), other_B, share_B.to(image_BCHW.device, torch.float32)

    def _erased(self, image_BCHW: Tensor, rng: np.random.Generator) -> Tensor:
        """Return pictures of which some have a rectangle of normal noise, somewhere inside."""
        if not self.erase:
            return image_BCHW
        batch, _, height, width = image_BCHW.shape
        chosen_B = torch.from_numpy(rng.random(batch) < self.erase)
        area_B = rng.uniform(*ERASED, batch)
        ratio_B = np.exp(rng.uniform(-math.log(LONGEST), math.log(LONGEST), batch))
        place = rng.random((2, batch))
        sides = []
        for length, share_B, at_B in (
            (height, np.sqrt(area_B * ratio_B), place[0]),
            (width, np.sqrt(area_B / ratio_B), place[1]),
        ):
            long_B = np.minimum(np.ceil(share_B * length), length)
            low_B = torch.from_numpy(np.floor(at_B * (length - long_B + 1)))[:, None]
            pixel = torch.arange(length)
            sides.append((pixel >= low_B) & (pixel < low_B + torch.from_numpy(long_B)[:, None]))
        inside_BHW = chosen_B[:, None, None] & sides[0][:, :, None] & sides[1][:, None, :]
        noise = torch.from_numpy(rng.standard_normal(image_BCHW.shape, np.float32)).to(image_BCHW)
        return torch.where(inside_BHW[:, None].to(image_BCHW.device), noise, image_BCHW)


def _rectangles(share_B: Tensor, height: int, width: int, rng: np.random.Generator) -> Tensor:
    """Return rectangles that cover ``1 - share`` of the picture where they lie inside it, bool ``(B, H, W)``."""
    part_B = (1 - share_B).sqrt()
    centre = torch.from_numpy(rng.random((2, len(share_B))))
    sides = []
    for place, length in zip(centre, (height, width), strict=True):
        low = ((place - part_B / 2) * length).round().clamp(0, length)
        high = ((place + part_B / 2) * length).round().clamp(0, length)
        at = torch.arange(length)
        sides.append((at >= low[:, None]) & (at < high[:, None]))
    return sides[0][:, :, None] & sides[1][:, None, :]
