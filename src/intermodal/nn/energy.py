"""Energy networks: one number for a picture or a point, low where the data are.

All activations are smooth (SiLU): samplers follow the gradient of the energy in its input, and that of a ReLU network
jumps (Du & Mordatch 2019, section 3). There is no normalisation over the batch, so the energy of a sample does not depend
on its neighbours.

    B batch   C channels   H, W height and width in pixels   D dimensions of a point
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvEnergyConfig(Config):
    """What a :class:`ConvEnergy` is built from.

    Attributes:
        image_size: height and width in pixels; a multiple of ``2 ** len(channels)``.
        channels: of each stage. The first begins with a 4 x 4 convolution of stride 2, the others with a mean over 2 x 2
            pixels.
        blocks: residual blocks in each stage.
        spectral_norm: bound every convolution's largest singular value by one (Miyato et al. 2018), which bounds the
            slope of the energy.

    Raises:
        ConfigError: if a size does not fit.
    """

    image_size: int = 32
    channels: tuple[int, ...] = (32, 64, 128)
    blocks: int = 1
    spectral_norm: bool = False

    def __post_init__(self) -> None:
        if not self.channels or min(self.channels) < 1 or self.blocks < 1:
            raise ConfigError(
                f"ConvEnergy: every stage needs channels and blocks, found {self.channels}, {self.blocks}."
            )
        step = 2 ** len(self.channels)
        if self.image_size < step or self.image_size % step:
            raise ConfigError(f"ConvEnergy: image_size must be a multiple of {step}, found {self.image_size}.")

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of one input, ``(C, H, W)``."""
        return 3, self.image_size, self.image_size

    def flops(self) -> int:
        """Return the forward floating-point operations of one picture (a multiply-add is two)."""
        area, before = self.image_size**2 // 4, self.channels[0]
        total = 2 * area * 48 * before
        for width in self.channels:
            total += 2 * area * (before * width if before != width else 0)
            total += 2 * area * 9 * (before * width + width * width + (self.blocks - 1) * 2 * width * width)
            area, before = area // 4, width
        return total


class ResidualBlock(nn.Module):
    """``x + conv(silu(conv(silu(x))))``; where the channels change, x passes a 1 x 1 convolution."""

    def __init__(self, before: int, after: int, normed: bool) -> None:
        super().__init__()
        self.first = _normed(nn.Conv2d(before, after, 3, padding=1), normed)
        self.second = _normed(nn.Conv2d(after, after, 3, padding=1), normed)
        self.skip = nn.Identity() if before == after else _normed(nn.Conv2d(before, after, 1, bias=False), normed)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return a map of the same size."""
        return self.skip(x_BCHW) + self.second(F.silu(self.first(F.silu(x_BCHW))))


class ConvEnergy(nn.Module):
    """Residual convolutions over a picture, pooled to one number.

    Args:
        config: the sizes.
    """

    def __init__(self, config: ConvEnergyConfig) -> None:
        super().__init__()
        first, normed = config.channels[0], config.spectral_norm
        self.stem = _normed(nn.Conv2d(3, first, 4, stride=2, padding=1), normed)
        stages: list[nn.Module] = []
        before = first
        for stage, width in enumerate(config.channels):
            stages += [nn.AvgPool2d(2)] if stage else []
            stages += [ResidualBlock(before if i == 0 else width, width, normed) for i in range(config.blocks)]
            before = width
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(before, 1)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Return energies ``(B,)``, float32 also under autocast, of pictures with values in about -1..1."""
        map_BCHW = F.silu(self.stages(self.stem(image_BCHW)))
        pooled_BC = map_BCHW.to(self.head.weight.dtype).sum((2, 3))  # float32 also under autocast
        with torch.autocast(pooled_BC.device.type, enabled=False):
            return self.head(pooled_BC).squeeze(1)


def _normed(layer: nn.Module, normed: bool) -> nn.Module:
    return spectral_norm(layer) if normed else layer


@dataclasses.dataclass(frozen=True, kw_only=True)
class MLPEnergyConfig(Config):
    """What an :class:`MLPEnergy` is built from.

    Attributes:
        dim: D, of a point.
        width: of the hidden layers.
        depth: hidden layers.
        waves: so many octaves of sines and cosines of each coordinate are put beside it, the slowest of period 8: a
            network of few smooth layers learns fine detail of a plane slowly without them (Tancik et al. 2020).
        prior: standard deviation of the Gaussian that the network's energy is added to, so that ``exp(-E)`` has a finite
            integral wherever the network is bounded by less than a parabola; None for the network alone.

    Raises:
        ConfigError: if a size does not fit.
    """

    dim: int = 2
    width: int = 128
    depth: int = 3
    waves: int = 0
    prior: float | None = 4.0

    def __post_init__(self) -> None:
        if min(self.dim, self.width, self.depth, self.waves + 1) < 1 or (self.prior is not None and self.prior <= 0):
            raise ConfigError(
                "MLPEnergy: dim, width and depth must be at least 1, waves at least 0, and prior above 0."
            )

    @property
    def shape(self) -> tuple[int]:
        """The shape of one input, ``(D,)``."""
        return (self.dim,)

    def flops(self) -> int:
        """Return the forward floating-point operations of one point."""
        return 2 * self.width * (self.features + (self.depth - 1) * self.width + 1)

    @property
    def features(self) -> int:
        """Numbers that the first layer takes."""
        return self.dim * (1 + 2 * self.waves)


class MLPEnergy(nn.Module):
    """Fully connected layers over a point, plus the energy of a wide Gaussian.

    Args:
        config: the sizes.
    """

    def __init__(self, config: MLPEnergyConfig) -> None:
        super().__init__()
        sizes = [config.features, *[config.width] * config.depth]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(sizes):
            layers += [nn.Linear(before, after), nn.SiLU()]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(config.width, 1)
        self.prior, self.waves = config.prior, config.waves

    def forward(self, point_BD: Tensor) -> Tensor:
        """Return energies ``(B,)`` of points, in the points' own precision also under autocast."""
        with torch.autocast(point_BD.device.type, enabled=False):
            energy_B = self.head(self.layers(self._features(point_BD))).squeeze(1)
            if self.prior is not None:
                energy_B = energy_B + point_BD.square().sum(1) / (2 * self.prior**2)
            return energy_B

    def _features(self, point_BD: Tensor) -> Tensor:
        turns = [math.pi / 4 * 2**octave * point_BD for octave in range(self.waves)]
        return torch.cat([point_BD, *(wave(turn) for turn in turns for wave in (torch.sin, torch.cos))], 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuadraticEnergyConfig(Config):
    """What a :class:`QuadraticEnergy` is built from.

    Attributes:
        dim: D, of a point.

    Raises:
        ConfigError: if it is below 1.
    """

    dim: int = 2

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ConfigError(f"QuadraticEnergy: dim must be at least 1, found {self.dim}.")

    @property
    def shape(self) -> tuple[int]:
        """The shape of one input, ``(D,)``."""
        return (self.dim,)

    def flops(self) -> int:
        """Return the forward floating-point operations of one point."""
        return 2 * self.dim**2


class QuadraticEnergy(nn.Module):
    """The unnormalised Gaussian of Gutmann & Hyvarinen 2010, section 3.1: ``E(x) = |L^T (x - mean)|^2 / 2``.

    The precision matrix is ``L L^T`` with L lower triangular; mean and L are learnt, the normaliser is not part of it.

    Args:
        config: the size.
    """

    def __init__(self, config: QuadraticEnergyConfig) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(config.dim))
        self.factor = nn.Parameter(torch.eye(config.dim))

    def forward(self, point_BD: Tensor) -> Tensor:
        """Return energies ``(B,)`` of points."""
        with torch.autocast(point_BD.device.type, enabled=False):
            return ((point_BD - self.mean) @ self.factor.tril()).square().sum(1) / 2

    def log_normaliser(self) -> Tensor:
        """Return the logarithm of the integral of ``exp(-E)``, which is known here: a scalar."""
        dim = len(self.mean)
        log_det = self.factor.diagonal().abs().log().sum()
        return dim / 2 * torch.log(torch.tensor(2 * torch.pi, dtype=log_det.dtype)) - log_det


EnergyConfig = ConvEnergyConfig | MLPEnergyConfig | QuadraticEnergyConfig


def build_energy(config: EnergyConfig) -> ConvEnergy | MLPEnergy | QuadraticEnergy:
    """Return the network that a configuration describes."""
    if isinstance(config, ConvEnergyConfig):
        return ConvEnergy(config)
    return MLPEnergy(config) if isinstance(config, MLPEnergyConfig) else QuadraticEnergy(config)
