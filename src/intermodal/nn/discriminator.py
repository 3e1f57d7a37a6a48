"""The patch discriminator: a convolutional network that calls every patch of a picture real or made (Isola et al. 2017).

B batch   C channels   H, W height and width in pixels   h, w height and width of the map of patches
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from torch import Tensor, nn

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError

KERNEL = 4
SLOPE = 0.2
WIDEST = 8
"""The channels double from layer to layer, up to so many times those of the first."""
INIT_STD = 0.02

Norm = Literal["group", "batch", "none"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PatchDiscriminatorConfig(Config):
    """What a :class:`PatchDiscriminator` is built from; the defaults are those of VQGAN, but for the norm.

    Attributes:
        channels: of the first layer; a multiple of ``groups`` with the group norm.
        layers: convolutions of stride 2. Three see patches of 70 pixels, two 34, one 16.
        norm: after every convolution but the first and the last: ``group`` (Wu & He 2018), which judges each picture alone,
            ``batch``, as published, or ``none``.
        groups: of the group norm.
        in_channels: C.

    Raises:
        ConfigError: if a number does not fit.
    """

    channels: int = 64
    layers: int = 3
    norm: Norm = "group"
    groups: int = 8
    in_channels: int = 3

    def __post_init__(self) -> None:
        if min(self.channels, self.layers, self.groups, self.in_channels) < 1:
            raise ConfigError("Discriminator: channels, layers and groups must be at least 1.")
        if self.norm not in ("group", "batch", "none"):
            raise ConfigError(f"Discriminator: norm must be group, batch or none, found {self.norm!r}.")
        if self.norm == "group" and self.channels % self.groups:
            raise ConfigError(
                f"Discriminator: channels must be a multiple of the {self.groups} groups, found {self.channels}."
            )

    @property
    def strides(self) -> tuple[int, ...]:
        """Of the convolutions, first to last."""
        return (2,) * self.layers + (1, 1)

    @property
    def patch(self) -> int:
        """Pixels of a side of what one score sees."""
        side = 1
        for stride in reversed(self.strides):
            side = (side - 1) * stride + KERNEL
        return side

    def map_shape(self, height: int, width: int) -> tuple[int, int]:
        """Return the shape ``(h, w)`` of the scores of pictures of this size.

        Raises:
            DataError: if the pictures are too small for a single score.
        """
        sides = [height, width]
        for stride in self.strides:
            sides = [(side + 2 - KERNEL) // stride + 1 for side in sides]
        if min(sides) < 1:
            raise DataError(
                f"The discriminator halves a picture {self.layers} times and finds no patch in {height} x {width} pixels: "
                "take larger pictures or fewer discriminator layers."
            )
        return sides[0], sides[1]


class PatchDiscriminator(nn.Module):
    """Scores of the patches of pictures, high where they look real (Isola et al. 2017, section 3.2.2 and appendix 6.1.2).

    Weights are drawn from a normal distribution of standard deviation 0.02, those of the norms around one.

    Args:
        config: the sizes.
    """

    def __init__(self, config: PatchDiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        before, last = config.in_channels, len(config.strides) - 1
        for i, stride in enumerate(config.strides):
            after = 1 if i == last else config.channels * min(2**i, WIDEST)
            normed = 0 < i < last and config.norm != "none"
            layers.append(nn.Conv2d(before, after, KERNEL, stride=stride, padding=1, bias=not normed))
            if normed:
                grouped = config.norm == "group"
                layers.append(nn.GroupNorm(config.groups, after) if grouped else nn.BatchNorm2d(after))
            if i < last:
                layers.append(nn.LeakyReLU(SLOPE))
            before = after
        self.layers = nn.Sequential(*layers)
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=INIT_STD)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
            elif isinstance(layer, nn.GroupNorm | nn.BatchNorm2d):
                nn.init.normal_(layer.weight, mean=1.0, std=INIT_STD)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Return scores ``(B, 1, h, w)``, of any value, of pictures ``(B, C, H, W)`` in -1..1.

        Raises:
            DataError: if the pictures have another number of channels or are too small.
        """
        if image_BCHW.dim() != 4 or image_BCHW.shape[1] != self.config.in_channels:
            raise DataError(
                f"The discriminator takes pictures of shape (B, {self.config.in_channels}, H, W), found "
                f"{tuple(image_BCHW.shape)}."
            )
        self.config.map_shape(image_BCHW.shape[2], image_BCHW.shape[3])
        return self.layers(image_BCHW.contiguous(memory_format=torch.channels_last))
