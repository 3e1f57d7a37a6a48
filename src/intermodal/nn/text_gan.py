"""A generator of pictures from noise and a text, and a discriminator that judges both the picture and its match to the text.

The generator is StyleGAN2's (Karras et al. 2020) without noise inside: noise and text become one style, which scales the
channels before every convolution. The discriminator is a residual network that ends in a projection (Miyato & Koyama 2018):
one number says whether the picture is real, and the product with the text's vector whether it is the text's.

    B batch   C channels   H, W height and width in pixels   Z numbers of noise   E width of the text's vector
    W width of a style   F features of a picture
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
from intermodal.core.errors import ConfigError, DataError
from intermodal.nn.energy import ResidualBlock

COARSEST = 4
"""Pixels of a side of the map that the generator begins with and the discriminator ends with."""
SLOPE = 0.2
EPS = 1e-8


def levels_of(side: int, channels: int, most: int) -> tuple[int, ...]:
    """Return the channels of maps of 4, 8, 16... pixels up to ``side``: ``channels`` at the finest, else twice the next."""
    count = int(math.log2(side // COARSEST)) + 1
    return tuple(min(most, channels * 2**level) for level in reversed(range(count)))


def _check(who: str, side: int, smallest: int, *numbers: int) -> None:
    if side < smallest or side & (side - 1):
        raise ConfigError(f"{who}: image_size must be a power of two of at least {smallest}, found {side}.")
    if min(numbers) < 1:
        raise ConfigError(f"{who}: channels and widths must be at least 1.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextGeneratorConfig(Config):
    """What a :class:`TextGenerator` is built from.

    Attributes:
        image_size: pixels of a side, a power of two of at least 8.
        noise: Z.
        width: W, of a style and the layers that make it.
        channels: of the finest map; each coarser one has twice as many.
        most: channels, at most.

    Raises:
        ConfigError: if a size does not fit.
    """

    image_size: int = 32
    noise: int = 64
    width: int = 128
    channels: int = 24
    most: int = 96

    def __post_init__(self) -> None:
        _check("Generator", self.image_size, 2 * COARSEST, self.noise, self.width, self.channels, self.most)

    @property
    def levels(self) -> tuple[int, ...]:
        """Channels of the maps, the coarsest first."""
        return levels_of(self.image_size, self.channels, self.most)


class ModulatedConv(nn.Module):
    """A 3 x 3 convolution whose input channels a style scales, and whose output is brought back to unit size.

    StyleGAN2 scales the weights for each picture, ``w'_oik = s_i w_oik / sqrt(sum_ik (s_i w_oik)^2 + eps)`` (Karras et al.
    2020, equations 1 to 3). To scale the channels before and after one convolution of the whole batch is the same.

    Args:
        before, after: channels.
        width: W.
    """

    def __init__(self, before: int, after: int, width: int) -> None:
        super().__init__()
        self.style = nn.Linear(width, before)
        nn.init.ones_(self.style.bias)
        self.weight = nn.Parameter(torch.randn(after, before, 3, 3) / math.sqrt(9 * before))
        self.bias = nn.Parameter(torch.zeros(after))

    # --8<-- [start:modulated]
    def forward(self, x_BCHW: Tensor, style_BW: Tensor) -> Tensor:
        """Return the map ``(B, after, H, W)``, before any activation."""
        scale_BI = self.style(style_BW).to(self.weight.dtype)
        square_OI = self.weight.square().sum((2, 3))
        unit_BO = torch.rsqrt(
            (scale_BI.square()[:, None] * square_OI).sum(2) + EPS
        )  # no matmul: autocast would round it
        y_BCHW = F.conv2d(x_BCHW * scale_BI[..., None, None].to(x_BCHW), self.weight, padding=1)
        return y_BCHW * unit_BO[..., None, None].to(y_BCHW) + self.bias[:, None, None].to(y_BCHW)

    # --8<-- [end:modulated]


class TextGenerator(nn.Module):
    """Pictures from noise and the vectors of texts; see the module's text.

    From level to level the map is doubled and passes two convolutions, and each level adds its part of the picture to the
    doubled picture of the last (Karras et al. 2020, section 4.1, the generator with skips).

    Args:
        config: the sizes.
        text_width: E.
    """

    def __init__(self, config: TextGeneratorConfig, text_width: int) -> None:
        super().__init__()
        self.config = config
        levels, width = config.levels, config.width
        self.told = nn.Linear(text_width, width)
        self.drawn = nn.Linear(config.noise, width)
        self.mapping = nn.Sequential(
            nn.Linear(2 * width, width), nn.LeakyReLU(SLOPE), nn.Linear(width, width), nn.LeakyReLU(SLOPE)
        )
        self.start = nn.Parameter(torch.randn(levels[0], COARSEST, COARSEST))
        self.first = ModulatedConv(levels[0], levels[0], width)
        pairs = list(itertools.pairwise(levels))
        self.ups = nn.ModuleList(ModulatedConv(before, after, width) for before, after in pairs)
        self.seconds = nn.ModuleList(ModulatedConv(after, after, width) for _, after in pairs)
        self.to_picture = nn.ModuleList(nn.Conv2d(channels, 3, 1) for channels in levels)

    def forward(self, noise_BZ: Tensor, text_BE: Tensor) -> Tensor:
        """Return pictures ``(B, 3, H, W)`` in -1..1, float32 also under autocast.

        Args:
            noise_BZ: unit normal.
            text_BE: the texts' vectors.
        """
        style_BW = self.style(noise_BZ, text_BE)
        x_BCHW = self.start.expand(len(noise_BZ), -1, -1, -1).contiguous(memory_format=torch.channels_last)
        x_BCHW = self.first(x_BCHW, style_BW)
        picture_BCHW = self.to_picture[0](active(x_BCHW)).to(self.start.dtype)
        for up, second, to_picture in zip(self.ups, self.seconds, self.to_picture[1:], strict=True):
            x_BCHW = up(doubled(active(x_BCHW)), style_BW)
            x_BCHW = second(active(x_BCHW), style_BW)
            picture_BCHW = doubled(picture_BCHW) + to_picture(active(x_BCHW)).to(self.start.dtype)
        return picture_BCHW.tanh()

    def style(self, noise_BZ: Tensor, text_BE: Tensor) -> Tensor:
        """Return the styles ``(B, W)`` of noise and texts; neither can outshout the other, for both have unit size."""
        size = (self.config.width,)
        parts = [F.rms_norm(self.drawn(noise_BZ), size), F.rms_norm(self.told(text_BE), size)]
        return self.mapping(torch.cat(parts, 1))


def doubled(x_BCHW: Tensor) -> Tensor:
    """Return a map of twice the height and width; what is between is interpolated, so that no grid is left behind."""
    return F.interpolate(x_BCHW, scale_factor=2.0, mode="bilinear", align_corners=False)


def active(x: Tensor) -> Tensor:
    """Return a leaky ReLU that keeps the size of unit normal numbers."""
    return F.leaky_relu(x, SLOPE) * math.sqrt(2 / (1 + SLOPE**2))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextDiscriminatorConfig(Config):
    """What a :class:`TextDiscriminator` is built from.

    Attributes:
        image_size: pixels of a side, a power of two of at least 8.
        channels: of the map of half the picture's side; each coarser one has twice as many.
        most: channels, at most.
        features: F.
        spectral_norm: bound the largest singular value of every layer by one (Miyato et al. 2018).

    Raises:
        ConfigError: if a size does not fit.
    """

    image_size: int = 32
    channels: int = 48
    most: int = 192
    features: int = 256
    spectral_norm: bool = False

    def __post_init__(self) -> None:
        _check("Discriminator", self.image_size, 2 * COARSEST, self.channels, self.most, self.features)

    @property
    def levels(self) -> tuple[int, ...]:
        """Channels of the maps, the finest first."""
        return levels_of(self.image_size // 2, self.channels, self.most)[::-1]


class TextDiscriminator(nn.Module):
    """Scores of pictures and texts, high where a picture looks real and is the text's (Miyato & Koyama 2018, equation 4).

    The score is ``psi(phi(x)) + <phi(x), V c> / sqrt(F)``, with phi(x) the F features of a picture and c the text's vector.

    Args:
        config: the sizes.
        text_width: E.
    """

    def __init__(self, config: TextDiscriminatorConfig, text_width: int) -> None:
        super().__init__()
        self.config = config
        levels, normed = config.levels, config.spectral_norm
        self.stem = nn.Conv2d(3, levels[0], 4, stride=2, padding=1)
        layers: list[nn.Module] = [ResidualBlock(levels[0], levels[0], normed)]
        for before, after in itertools.pairwise(levels):
            layers += [nn.AvgPool2d(2), ResidualBlock(before, after, normed)]
        self.blocks = nn.Sequential(*layers)
        self.features = nn.Linear(levels[-1] * COARSEST**2, config.features)
        self.realism = nn.Linear(config.features, 1)
        self.match = nn.Linear(text_width, config.features, bias=False)
        outer = (self.stem, self.features, self.realism, self.match)
        for layer in outer if normed else ():
            spectral_norm(layer)
        for module in () if normed else self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):  # with torch's own first weights a picture shrinks to nothing
                nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)

    def phi(self, image_BCHW: Tensor) -> Tensor:
        """Return the features ``(B, F)`` of pictures ``(B, 3, H, W)``.

        Raises:
            DataError: if the pictures have another size.
        """
        side = self.config.image_size
        if image_BCHW.shape[1:] != (3, side, side):
            raise DataError(
                f"The discriminator takes pictures of shape (B, 3, {side}, {side}), found {tuple(image_BCHW.shape)}."
            )
        map_BCHW = F.silu(self.blocks(self.stem(image_BCHW.contiguous(memory_format=torch.channels_last))))
        return F.silu(self.features(map_BCHW.flatten(1)))

    # --8<-- [start:projection]
    def score(self, phi_BF: Tensor, text_BE: Tensor) -> Tensor:
        """Return scores of pictures' features and texts' vectors, ``(B,)``: one pass over a picture serves several texts.

        Args:
            phi_BF: features, or ``(B, 1, F)`` with several texts.
            text_BE: as many texts' vectors, or ``(B, K, E)`` for scores ``(B, K)``.
        """
        product_B = (phi_BF * self.match(text_BE)).sum(-1) / math.sqrt(self.config.features)
        return self.realism(phi_BF).squeeze(-1) + product_B

    # --8<-- [end:projection]

    def forward(self, image_BCHW: Tensor, text_BE: Tensor) -> Tensor:
        """Return scores ``(B,)``, of any value, of pictures and texts' vectors."""
        return self.score(self.phi(image_BCHW), text_BE)
