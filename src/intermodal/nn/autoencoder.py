"""The convolutional autoencoder of latent diffusion and VQGAN: a picture to a map of latents, and back.

Every level halves height and width, but the first; a level is a few residual blocks, each with attention after it where the
configuration says so. One composition covers the two halves of diffusers' AutoencoderKL and VQModel (Rombach et al. 2022,
appendix G; Esser et al. 2021, table 7) and, with few channels and without attention, the networks of our own recipes.

    B batch   C channels   H, W height and width in pixels   h, w height and width of the latent   Z its channels
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.nn.transformer import Attention

EPS = 1e-6
"""What every norm adds to the variance, as published."""
FEW = 256
"""So many places make it worth while to merge doubling and convolution (measured on one core, 512 channels)."""
SMALL = 1024
"""Of fewer places than these torch normalises half precision slowly."""
DOUBLED = ((0.0, 0.0, 1.0), (0.0, 1.0, 1.0), (1.0, 1.0, 0.0), (1.0, 0.0, 0.0))
"""Along one axis: which entries of a kernel of 3 meet the same place of the map that was doubled, turned round."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoencoderConfig(Config):
    """What an :class:`Encoder` and its :class:`Decoder` are built from; the defaults are Stable Diffusion's.

    Attributes:
        channels: of each level, the finest first; each level after the first has half the height and width, so the stride
            is ``2 ** (len(channels) - 1)``. Multiples of ``groups``.
        blocks: residual blocks of a level of the encoder; the decoder has one more.
        latent_channels: Z.
        moments: the encoder gives ``2 Z`` channels, means and then logarithms of variances, instead of Z.
        inner_channels: channels between the 1 x 1 convolution at the latent and the network; None for Z.
        quant_conv: the encoder ends with that 1 x 1 convolution.
        post_quant_conv: the decoder begins with one.
        encoder_attention: levels, 0 the finest, with attention after each block of the encoder.
        decoder_attention: the same of the decoder.
        mid_attention: attention between the two blocks in the middle.
        groups: of every group norm.
        in_channels: C of the encoder's pictures.
        out_channels: C of the decoder's pictures.

    Raises:
        ConfigError: if a number does not fit.
    """

    channels: tuple[int, ...] = (128, 256, 512, 512)
    blocks: int = 2
    latent_channels: int = 4
    moments: bool = False
    inner_channels: int | None = None
    quant_conv: bool = True
    post_quant_conv: bool = True
    encoder_attention: tuple[int, ...] = ()
    decoder_attention: tuple[int, ...] = ()
    mid_attention: bool = True
    groups: int = 32
    in_channels: int = 3
    out_channels: int = 3

    def __post_init__(self) -> None:
        counts = (self.blocks, self.latent_channels, self.inner, self.groups, self.in_channels, self.out_channels)
        if not self.channels or min(counts) < 1:
            raise ConfigError(
                "Autoencoder: there must be at least one level, and every count of blocks, channels and groups must be at "
                f"least 1, found channels={self.channels} and {counts}."
            )
        if any(c < 1 or c % self.groups for c in self.channels):
            raise ConfigError(
                f"Autoencoder: channels must be multiples of the {self.groups} groups, found {self.channels}."
            )
        if not set(self.encoder_attention) | set(self.decoder_attention) <= set(range(len(self.channels))):
            raise ConfigError(
                f"Autoencoder: there are the levels 0 to {len(self.channels) - 1}, attention is asked for at "
                f"{self.encoder_attention} and {self.decoder_attention}."
            )

    @property
    def stride(self) -> int:
        """Pixels between neighbouring places of the latent."""
        return int(2 ** (len(self.channels) - 1))

    @property
    def inner(self) -> int:
        """Channels on the network's side of the 1 x 1 convolutions at the latent."""
        return self.latent_channels if self.inner_channels is None else self.inner_channels

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Return the shape ``(Z, h, w)`` of the latent of a picture of ``height`` and ``width`` pixels.

        Raises:
            DataError: if the stride does not divide them.
        """
        if height < 1 or width < 1 or height % self.stride or width % self.stride:
            raise DataError(
                f"The autoencoder halves a picture {len(self.channels) - 1} times, so height and width must be multiples of "
                f"{self.stride} pixels, found {height} x {width}: resize, crop or pad the picture."
            )
        return self.latent_channels, height // self.stride, width // self.stride


def norm(channels: int, config: AutoencoderConfig) -> nn.GroupNorm:
    """Return the group norm of the network (Wu & He 2018)."""
    return nn.GroupNorm(config.groups, channels, eps=EPS)


def normed(layer: nn.GroupNorm, x_BCHW: Tensor) -> Tensor:
    """Return ``norm(x)``, in float32 where half precision is trained on a CPU, or the map is small there.

    There torch's group norm of bfloat16 numbers is several times slower than that of float32 numbers: backward, and forward
    where a map that is channels-last has fewer than 1,024 places and a group fewer than 16 channels.
    """
    half = x_BCHW.dtype in (torch.bfloat16, torch.float16)
    small = half and x_BCHW.shape[2] * x_BCHW.shape[3] < SMALL and layer.num_channels < 16 * layer.num_groups
    if x_BCHW.device.type == "cpu" and (small or _trains_half(x_BCHW, layer.weight)):
        return F.group_norm(x_BCHW.float(), layer.num_groups, layer.weight.float(), layer.bias.float(), layer.eps)
    return layer(x_BCHW)


def normed_silu(layer: nn.GroupNorm, x_BCHW: Tensor) -> Tensor:
    """Return ``silu(norm(x))``, without a second map in memory where no gradient needs it."""
    y_BCHW = normed(layer, x_BCHW)
    return F.silu(y_BCHW, inplace=not y_BCHW.requires_grad).to(x_BCHW.dtype)


def _trains_half(x_BCHW: Tensor, weight: Tensor) -> bool:
    needs_grad = torch.is_grad_enabled() and (x_BCHW.requires_grad or weight.requires_grad)
    return needs_grad and x_BCHW.dtype in (torch.bfloat16, torch.float16)


class ResidualBlock(nn.Module):
    """``x + conv(silu(norm(conv(silu(norm(x))))))``; where the channels change, x passes a 1 x 1 convolution."""

    def __init__(self, before: int, after: int, config: AutoencoderConfig) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(before, config), nn.Conv2d(before, after, 3, padding=1)
        self.norm2, self.conv2 = norm(after, config), nn.Conv2d(after, after, 3, padding=1)
        self.skip = nn.Identity() if before == after else nn.Conv2d(before, after, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return a map of the same size."""
        y_BCHW = self.conv1(normed_silu(self.norm1, x_BCHW))
        y_BCHW = self.conv2(normed_silu(self.norm2, y_BCHW))
        x_BCHW = self.skip(x_BCHW)
        return x_BCHW + y_BCHW if y_BCHW.requires_grad else y_BCHW.add_(x_BCHW)


class AttentionBlock(nn.Module):
    """``x + attention(norm(x))`` over all places of a map, with one head."""

    def __init__(self, channels: int, config: AutoencoderConfig) -> None:
        super().__init__()
        self.norm = norm(channels, config)
        self.attention = Attention(channels, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return a map of the same size."""
        y_BCHW = normed(self.norm, x_BCHW).to(x_BCHW.dtype)
        y_BLC = self.attention(y_BCHW.flatten(2).transpose(1, 2))
        return x_BCHW + y_BLC.transpose(1, 2).unflatten(2, x_BCHW.shape[2:])


class Downsample(nn.Module):
    """A 3 x 3 convolution of stride 2, with one row and column of zeros added below and to the right only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return a map of half the height and width."""
        return self.conv(F.pad(x_BCHW, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Every place doubled in height and width, then a 3 x 3 convolution.

    Doubling makes neighbours equal, so 5 of 9 products of the convolution are avoidable: it is one transposed convolution of
    stride 2 whose 4 x 4 kernel holds sums of the 3 x 3 kernel's entries. The two ways differ by rounding only. The second is
    taken where it was measured to be the faster: on a CPU, but for few places, where making the kernel costs more than it
    saves, and for training in half precision, whose transposed convolutions have a slow backward pass.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return a map of twice the height and width."""
        many = x_BCHW.numel() >= FEW * x_BCHW.shape[1]
        if x_BCHW.device.type == "cpu" and many and not _trains_half(x_BCHW, self.conv.weight):
            return F.conv_transpose2d(x_BCHW, self.kernel(), self.conv.bias, stride=2, padding=1)
        return self.conv(F.interpolate(x_BCHW, scale_factor=2.0, mode="nearest"))

    def kernel(self) -> Tensor:
        """Return the kernel ``(C, C, 4, 4)`` of the transposed convolution that does both."""
        weight_IO9 = self.conv.weight.transpose(0, 1).flatten(2)
        once_43 = torch.tensor(DOUBLED, dtype=weight_IO9.dtype, device=weight_IO9.device)
        with torch.autocast(weight_IO9.device.type, enabled=False):
            return (weight_IO9 @ torch.kron(once_43, once_43).T).unflatten(2, (4, 4))


class Level(nn.Module):
    """The blocks of one resolution, with attention after each or none, and what leads to the next resolution."""

    def __init__(
        self,
        before: int,
        after: int,
        config: AutoencoderConfig,
        *,
        blocks: int,
        attends: bool,
        resample: nn.Module | None,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ResidualBlock(before if i == 0 else after, after, config) for i in range(blocks))
        self.attentions = nn.ModuleList(AttentionBlock(after, config) for _ in range(blocks if attends else 0))
        self.resample = nn.Identity() if resample is None else resample

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return a map at the next resolution."""
        for i, block in enumerate(self.blocks):
            x_BCHW = block(x_BCHW)
            if len(self.attentions):
                x_BCHW = self.attentions[i](x_BCHW)
        return self.resample(x_BCHW)


class Middle(nn.Module):
    """Two blocks at the coarsest resolution, with attention between them or none."""

    def __init__(self, channels: int, config: AutoencoderConfig) -> None:
        super().__init__()
        self.block1, self.block2 = ResidualBlock(channels, channels, config), ResidualBlock(channels, channels, config)
        self.attention = AttentionBlock(channels, config) if config.mid_attention else nn.Identity()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return a map of the same size."""
        return self.block2(self.attention(self.block1(x_BCHW)))


class Encoder(nn.Module):
    """Pictures to maps of latents, or of their means and log-variances.

    Args:
        config: the sizes.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        outputs = 2 if config.moments else 1
        before, last = config.channels[0], len(config.channels) - 1
        self.conv_in = nn.Conv2d(config.in_channels, before, 3, padding=1)
        self.levels = nn.ModuleList()
        for i, width in enumerate(config.channels):
            down = Downsample(width) if i < last else None
            attends = i in config.encoder_attention
            self.levels.append(Level(before, width, config, blocks=config.blocks, attends=attends, resample=down))
            before = width
        self.middle = Middle(before, config)
        self.norm_out = norm(before, config)
        inner, latent = outputs * config.inner, outputs * config.latent_channels
        self.conv_out = nn.Conv2d(before, inner if config.quant_conv else latent, 3, padding=1)
        self.quant_conv = nn.Conv2d(inner, latent, 1) if config.quant_conv else nn.Identity()

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Encode pictures.

        Args:
            image_BCHW: float, normalised as the model's processor does; height and width multiples of the stride.

        Returns:
            ``(B, Z, h, w)``, or ``(B, 2 Z, h, w)`` with ``moments``: Z means, then Z logarithms of variances.

        Raises:
            DataError: if the pictures have another number of channels or another size.
        """
        if image_BCHW.dim() != 4 or image_BCHW.shape[1] != self.config.in_channels:
            raise DataError(
                f"The encoder takes pictures of shape (B, {self.config.in_channels}, H, W), found "
                f"{tuple(image_BCHW.shape)}: use the model's image processor."
            )
        self.config.latent_shape(*image_BCHW.shape[2:])
        x_BCHW = self.conv_in(image_BCHW.contiguous(memory_format=torch.channels_last))
        for level in self.levels:
            x_BCHW = level(x_BCHW)
        return self.quant_conv(self.conv_out(normed_silu(self.norm_out, self.middle(x_BCHW))))


class Decoder(nn.Module):
    """Maps of latents to pictures.

    Args:
        config: the sizes.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        before, last = config.channels[-1], len(config.channels) - 1
        self.post_quant_conv = (
            nn.Conv2d(config.latent_channels, config.inner, 1) if config.post_quant_conv else nn.Identity()
        )
        self.conv_in = nn.Conv2d(
            config.inner if config.post_quant_conv else config.latent_channels, before, 3, padding=1
        )
        self.middle = Middle(before, config)
        self.levels = nn.ModuleList()
        for i in range(last, -1, -1):
            width = config.channels[i]
            up = Upsample(width) if i > 0 else None
            attends = i in config.decoder_attention
            self.levels.append(Level(before, width, config, blocks=config.blocks + 1, attends=attends, resample=up))
            before = width
        self.norm_out = norm(before, config)
        self.conv_out = nn.Conv2d(before, config.out_channels, 3, padding=1)

    def forward(self, latent_BZhw: Tensor) -> Tensor:
        """Decode latents.

        Args:
            latent_BZhw: float, shape (B, Z, h, w), of any height and width.

        Returns:
            Pictures ``(B, C, H, W)``, of any value: nothing bounds them.

        Raises:
            DataError: if the latents have another number of channels.
        """
        if latent_BZhw.dim() != 4 or latent_BZhw.shape[1] != self.config.latent_channels or not latent_BZhw.numel():
            raise DataError(
                f"The decoder takes latents of shape (B, {self.config.latent_channels}, h, w), found "
                f"{tuple(latent_BZhw.shape)}: they were made by another model."
            )
        x_BCHW = self.conv_in(self.post_quant_conv(latent_BZhw.contiguous(memory_format=torch.channels_last)))
        x_BCHW = self.middle(x_BCHW)
        for level in self.levels:
            x_BCHW = level(x_BCHW)
        return self.conv_out(normed_silu(self.norm_out, x_BCHW))
