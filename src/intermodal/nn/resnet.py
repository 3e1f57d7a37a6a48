"""CLIP's modified ResNet (Radford et al. 2021, section 2.4).

Three things differ from a ResNet: the stem has three convolutions, a stride is an average pool before a
convolution (which blurs before it subsamples, Zhang 2019), and the last pooling is attention with the mean as
its query. Where the pooled features themselves are used, with no shared space to project into, the last pooling can be
the plain mean (``pool="mean"``), as in a ResNet (He et al. 2016), or none (``pool="flat"``): the last map as one vector,
which keeps where things are. For small pictures there can be fewer stages.

    B batch   C channels   H, W height and width in pixels   L positions of the last map   D width of the last
    map
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.nn.transformer import Attention

EXPANSION = 4
STEM_STRIDE = 4
STRIDE = 32
"""Pixels between neighbouring positions of the last map of four stages."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNetConfig(Config):
    """What a :class:`ModifiedResNet` is built from.

    Attributes:
        image_size: pixels, one number for a square or (height, width); multiples of the stride, which is 32 with four
            stages, 16 with three, 8 with two.
        layers: blocks of each stage; RN50 has (3, 4, 6, 3).
        width: channels of the first stage's inner convolutions, even; the last map of four stages has
            ``32 * width``, that of three 16, of two 8 times as many.
        heads: heads of the attention pooling, a divisor of the last map's channels; published models use ``width //
            2``.
        output_dim: width of the pooled output: attention pooling projects into the shared space by itself. With
            another pooling 0, the width that it has.
        pool: ``attention`` (CLIP), ``mean`` or ``flat``.

    Raises:
        ConfigError: if a size does not fit.
    """

    image_size: int | tuple[int, int]
    layers: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    heads: int = 1
    output_dim: int = 0
    pool: Literal["attention", "mean", "flat"] = "attention"

    def __post_init__(self) -> None:
        if not 1 <= len(self.layers) <= 4 or min(self.layers) < 1:
            raise ConfigError(f"ResNet: layers must be one to four numbers of at least 1, found {self.layers}.")
        if any(s < self.stride or s % self.stride for s in self.size):
            raise ConfigError(f"ResNet: image_size must be a multiple of {self.stride}, found {self.image_size}.")
        if self.width < 2 or self.width % 2 or self.heads < 1 or self.features % self.heads:
            raise ConfigError(
                f"ResNet: width must be even and 32 * width a multiple of heads, found {self.width} and {self.heads}."
            )
        if self.pool == "attention" and self.output_dim < 1:
            raise ConfigError(f"ResNet: attention pooling needs an output_dim of at least 1, found {self.output_dim}.")
        if self.output_dim not in (0, self.pooled_dim):
            raise ConfigError(
                f"ResNet: pool={self.pool!r} gives {self.pooled_dim} numbers: leave output_dim out, found {self.output_dim}."
            )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the picture in pixels."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size

    @property
    def features(self) -> int:
        """D: channels of the last map."""
        return EXPANSION * self.width * 2 ** (len(self.layers) - 1)

    @property
    def stride(self) -> int:
        """Pixels between neighbouring positions of the last map."""
        return STEM_STRIDE * 2 ** (len(self.layers) - 1)

    @property
    def pooled_dim(self) -> int:
        """Width of the pooled output."""
        return {"attention": self.output_dim, "mean": self.features, "flat": self.tokens * self.features}[self.pool]

    @property
    def tokens(self) -> int:
        """L: positions of the last map."""
        return (self.size[0] // self.stride) * (self.size[1] // self.stride)

    def flops(self) -> int:
        """Return the forward floating-point operations of one picture (a multiply-add is two)."""
        area = (self.size[0] // 2) * (self.size[1] // 2)
        half = self.width // 2
        total = 2 * area * 9 * (3 * half + half * half + half * self.width)
        area //= 4
        channels = self.width
        for stage, blocks in enumerate(self.layers):
            inner = self.width * 2**stage
            outer = EXPANSION * inner
            for block in range(blocks):
                after = area // 4 if stage > 0 and block == 0 else area
                total += 2 * (area * channels * inner + area * 9 * inner * inner + after * inner * outer)
                if block == 0:
                    total += 2 * after * channels * outer
                area, channels = after, outer
        if self.pool != "attention":
            return total
        d, keys = self.features, self.tokens + 1
        return total + 2 * d * d + 4 * keys * d * d + 4 * keys * d + 2 * d * self.output_dim


class Bottleneck(nn.Module):
    """A residual block of 1x1, 3x3 and 1x1 convolutions, strided by an average pool (He et al. 2016, fig. 5).

    Args:
        channels: channels of the input.
        inner: channels of the 3x3 convolution; four times as many come out.
        stride: 1 or 2.
    """

    def __init__(self, channels: int, inner: int, stride: int) -> None:
        super().__init__()
        outer = EXPANSION * inner
        self.stride = stride
        self.conv1, self.bn1 = nn.Conv2d(channels, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = nn.Conv2d(inner, inner, 3, padding=1, bias=False), nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = nn.Conv2d(inner, outer, 1, bias=False), nn.BatchNorm2d(outer)
        if stride > 1 or channels != outer:
            conv = nn.Conv2d(channels, outer, 1, bias=False)
            self.skip: nn.Module = nn.Sequential(conv, nn.BatchNorm2d(outer))
        else:
            self.skip = nn.Identity()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, 4 inner, H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x_BCHW)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        if self.stride > 1:
            y, x_BCHW = F.avg_pool2d(y, self.stride), F.avg_pool2d(x_BCHW, self.stride)
        return F.relu(self.bn3(self.conv3(y)) + self.skip(x_BCHW), inplace=True)


class ModifiedResNet(nn.Module):
    """CLIP's modified ResNet with attention pooling.

    Args:
        config: sizes.
    """

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        half = width // 2
        self.conv1, self.bn1 = nn.Conv2d(3, half, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(half)
        self.conv2, self.bn2 = nn.Conv2d(half, half, 3, padding=1, bias=False), nn.BatchNorm2d(half)
        self.conv3, self.bn3 = nn.Conv2d(half, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        channels = width
        self.stages = nn.ModuleList()
        for stage, blocks in enumerate(config.layers):
            inner = width * 2**stage
            stride = 2 if stage > 0 else 1
            first = Bottleneck(channels, inner, stride)
            channels = EXPANSION * inner
            others = (Bottleneck(channels, inner, 1) for _ in range(blocks - 1))
            self.stages.append(nn.Sequential(first, *others))
        if config.pool == "attention":
            self.position_embedding = nn.Parameter(channels**-0.5 * torch.randn(config.tokens + 1, channels))
            self.pool = Attention(channels, config.heads, context_dim=channels, output_dim=config.output_dim)
            for layer in (self.pool.q, self.pool.kv, self.pool.out):
                nn.init.normal_(layer.weight, std=channels**-0.5)
        for module in self.modules():
            if isinstance(module, Bottleneck):
                nn.init.zeros_(module.bn3.weight)  # each block starts as the identity

    def forward(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Embed pictures.

        Args:
            image_BCHW: float, normalised as the model's processor does, shape (B, 3, H, W) of the configured
                size.

        Returns:
            The pooled output, shape (B, output_dim), and the last map flattened to tokens, shape (B, L, D).

        Raises:
            DataError: if the pictures are not of the configured size.
        """
        tokens_BLD = self.maps(image_BCHW).flatten(2).transpose(1, 2)
        if self.config.pool == "mean":
            return tokens_BLD.mean(1), tokens_BLD
        if self.config.pool == "flat":
            return tokens_BLD.flatten(1), tokens_BLD
        x_BLD = torch.cat([tokens_BLD.mean(1, keepdim=True), tokens_BLD], dim=1) + self.position_embedding
        return self.pool(x_BLD[:, :1], x_BLD)[:, 0], tokens_BLD

    def maps(self, image_BCHW: Tensor, stages: int | None = None) -> Tensor:
        """Return the map behind the first ``stages`` stages, by default all: (B, D, H', W').

        Raises:
            DataError: as :meth:`forward`.
        """
        size = self.config.size
        if image_BCHW.dim() != 4 or tuple(image_BCHW.shape[1:]) != (3, *size):
            raise DataError(
                f"The ResNet takes pictures of shape (B, 3, {size[0]}, {size[1]}), "
                f"found {tuple(image_BCHW.shape)}: use the model's image processor."
            )
        x = F.relu(self.bn1(self.conv1(image_BCHW)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        x = F.avg_pool2d(F.relu(self.bn3(self.conv3(x)), inplace=True), 2)
        for stage in [*self.stages][:stages]:
            x = stage(x)
        return x
