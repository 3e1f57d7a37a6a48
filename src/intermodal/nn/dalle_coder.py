"""The convolutional encoder and decoder of DALL-E's discrete VAE (Ramesh et al. 2021, appendix A.1), and its likelihood.

Both are residual networks without normalisation. A block is four convolutions in a bottleneck, scaled by a small constant,
beside an identity or a 1 x 1 convolution; the encoder halves a map by a maximum over 2 x 2 places, the decoder doubles it by
repeating. The convolutions at the codes, the encoder's last and the decoder's first, look at one place alone and compute in
float32 also under autocast, as in the published code: a temperature of 1/16 magnifies the rounding of the logits 16 times.

The likelihood is the logit-Laplace distribution (appendix A.3): that of the sigmoid of a Laplace variable, whose support is
the open interval of 0 and 1, so that no probability lies where no pixel can be.

    B batch   C channels of a picture   H, W height and width in pixels   D channels of a map   K codes   h, w their places
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError

EPS = 0.1
"""How far pixels are kept from 0 and 1 (Ramesh et al. 2021, equation 3)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DalleCoderConfig(Config):
    """What an encoder and its decoder are built from; the defaults are the published size.

    Attributes:
        codes: K, the size of the codebook.
        channels: C, of a picture.
        hidden: channels of a map at the picture's size; ``multiples`` of it are divided by four in the bottlenecks.
        multiples: of ``hidden``, the channels of each group of blocks; each group but the last halves the map.
        blocks: of each group.
        decoder_hidden: channels that the decoder begins with.
        gain: what a block's four convolutions are multiplied by; None for one over the square of the number of blocks.

    Raises:
        ConfigError: if a size does not fit.
    """

    codes: int = 8192
    channels: int = 3
    hidden: int = 256
    multiples: tuple[int, ...] = (1, 2, 4, 8)
    blocks: int = 2
    decoder_hidden: int = 128
    gain: float | None = None

    def __post_init__(self) -> None:
        if self.codes < 2:
            raise ConfigError(f"DalleCoder: a codebook has at least two codes, found {self.codes}.")
        if min(self.channels, self.blocks, self.decoder_hidden, len(self.multiples)) < 1:
            raise ConfigError("DalleCoder: channels, blocks, decoder_hidden and the groups must be at least 1.")
        if min(self.widths) < 4 or any(width % 4 for width in self.widths):
            raise ConfigError(f"DalleCoder: the channels of every group must be multiples of 4, found {self.widths}.")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the encoder's groups; the decoder's are the same the other way round."""
        return tuple(self.hidden * multiple for multiple in self.multiples)

    @property
    def stride(self) -> int:
        """Pixels between neighbouring codes."""
        return 2 ** (len(self.multiples) - 1)

    @property
    def post_gain(self) -> float:
        """What a block's four convolutions are multiplied by."""
        return 1 / (len(self.multiples) * self.blocks) ** 2 if self.gain is None else self.gain


class DalleEncoder(nn.Module):
    """Pictures to the logits of a code at every place.

    Args:
        config: the sizes.
    """

    def __init__(self, config: DalleCoderConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = nn.Conv2d(config.channels, config.hidden, 7, padding=3)
        self.groups = _groups(config, (config.hidden, *config.widths), (3, 3, 3, 1))
        self.head = FullConv(config.widths[-1], config.codes, 1)
        _initialise(self)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Return logits ``(B, K, h, w)``, float32 also under autocast, of pictures with values in about 0..1.

        A side that is no multiple of the stride is rounded down, since each halving leaves out a last odd row.

        Raises:
            DataError: if the pictures have another number of channels or are smaller than the stride.
        """
        channels, *size = image_BCHW.shape[1:]
        if channels != self.config.channels or min(size) < self.config.stride:
            raise DataError(
                f"The encoder takes pictures of {self.config.channels} channels and at least {self.config.stride} pixels a "
                f"side, found {channels} channels and {size[0]} x {size[1]}."
            )
        map_BDHW = self.stem(image_BCHW)
        for number, group in enumerate(self.groups):
            map_BDHW = group(F.max_pool2d(map_BDHW, 2) if number else map_BDHW)
        return self.head(F.relu(map_BDHW))


class DalleDecoder(nn.Module):
    """Codes, or a mixture of them at every place, to two numbers for every value of a picture.

    Args:
        config: the sizes.
    """

    def __init__(self, config: DalleCoderConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = FullConv(config.codes, config.decoder_hidden, 1)
        self.groups = _groups(config, (config.decoder_hidden, *reversed(config.widths)), (1, 3, 3, 3))
        self.head = nn.Conv2d(config.hidden * config.multiples[0], 2 * config.channels, 1)
        _initialise(self)

    def forward(self, mixture_BKhw: Tensor) -> tuple[Tensor, Tensor]:
        """Return location and log-scale, each float32 ``(B, C, H, W)``, of weights of the codes that sum to one."""
        return self._pictures(self.stem(mixture_BKhw))

    def of_codes(self, codes_Bhw: Tensor) -> tuple[Tensor, Tensor]:
        """Return what :meth:`forward` does for int64 codes, by looking up the columns of its first convolution."""
        columns_KD, bias_D = self.stem.weight[:, :, 0, 0].T, self.stem.bias
        assert bias_D is not None
        return self._pictures((F.embedding(codes_Bhw, columns_KD) + bias_D).movedim(-1, 1))

    def _pictures(self, map_BDhw: Tensor) -> tuple[Tensor, Tensor]:
        for number, group in enumerate(self.groups):
            map_BDhw = group(F.interpolate(map_BDhw, scale_factor=2, mode="nearest") if number else map_BDhw)
        location, log_scale = self.head(F.relu(map_BDhw)).to(self.stem.weight.dtype).chunk(2, dim=1)
        return location, log_scale


class BottleneckBlock(nn.Module):
    """``identity(x) + gain * conv(relu(conv(relu(conv(relu(conv(relu(x))))))))``, in a quarter of the channels.

    Args:
        before, after: channels of the input and the output; where they differ, identity is a 1 x 1 convolution.
        gain: a small constant, so that many blocks are stable at the start.
        kernels: sizes of the four convolutions.
    """

    def __init__(self, before: int, after: int, gain: float, kernels: tuple[int, int, int, int]) -> None:
        super().__init__()
        inner = after // 4
        widths = itertools.pairwise((before, inner, inner, inner, after))
        self.gain = gain
        self.identity = nn.Identity() if before == after else nn.Conv2d(before, after, 1)
        self.convs = nn.ModuleList(
            nn.Conv2d(i, o, kernel, padding=kernel // 2) for (i, o), kernel in zip(widths, kernels, strict=True)
        )

    def forward(self, x_BDHW: Tensor) -> Tensor:
        """Return a map of the same size."""
        residual = x_BDHW
        for conv in self.convs:
            residual = conv(F.relu(residual))
        return self.identity(x_BDHW) + self.gain * residual


class FullConv(nn.Conv2d):
    """A convolution that computes in its weights' precision, also under autocast."""

    def forward(self, x_BDHW: Tensor) -> Tensor:
        """Return the map."""
        with torch.autocast(x_BDHW.device.type, enabled=False):
            return super().forward(x_BDHW.to(self.weight.dtype))


def map_pixels(image: Tensor) -> Tensor:
    """Return values in 0..1 mapped to 0.1..0.9, where the likelihood is defined (Ramesh et al. 2021, equation 3)."""
    return (1 - 2 * EPS) * image + EPS


def unmap_pixels(image: Tensor) -> Tensor:
    """Return the inverse of :func:`map_pixels`, bounded to 0..1."""
    return ((image - EPS) / (1 - 2 * EPS)).clamp(0, 1)


# --8<-- [start:likelihood]
def logit_laplace_log_prob(x: Tensor, location: Tensor, log_scale: Tensor) -> Tensor:
    """Return the log-density of the logit-Laplace distribution in nats (Ramesh et al. 2021, equation 2).

    Args:
        x: values strictly between 0 and 1.
        location: mu, the logit of the median, any shape that x can be broadcast with.
        log_scale: ln b.
    """
    log_x, log_rest = x.log(), torch.log1p(-x)
    distance = (log_x - log_rest - location).abs() * torch.exp(-log_scale)
    return -math.log(2) - log_scale - log_x - log_rest - distance


# --8<-- [end:likelihood]


def _groups(config: DalleCoderConfig, widths: tuple[int, ...], kernels: tuple[int, int, int, int]) -> nn.ModuleList:
    """Return the groups of blocks whose channels go through ``widths``."""
    return nn.ModuleList(
        nn.Sequential(
            *(
                BottleneckBlock(after if block else before, after, config.post_gain, kernels)
                for block in range(config.blocks)
            )
        )
        for before, after in itertools.pairwise(widths)
    )


def _initialise(module: nn.Module) -> None:
    """Draw the weights of all convolutions with variance one over their inputs, as the published code does; no biases."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=layer.weight[0].numel() ** -0.5)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
