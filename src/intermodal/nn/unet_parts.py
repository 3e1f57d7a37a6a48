"""The parts of a U-Net: its configuration, residual blocks that are told the time, attention, and what leads between levels.

:mod:`~intermodal.nn.unet` puts them together and has the legend of the shapes.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError
from intermodal.nn.autoencoder import Upsample, normed, normed_silu
from intermodal.nn.linear import pointwise
from intermodal.nn.transformer import Attention, GatedMLP

Classes = Literal["label", "time", "vector"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class UNetConfig(Config):
    """What a :class:`UNet` is built from.

    Attributes:
        in_channels: C of the input: the noisy sample's, and those of what is concatenated to it.
        out_channels: C of the output: the sample's, or twice as many with a learnt variance.
        channels: of each level, the finest first; multiples of ``groups``.
        blocks: residual blocks of a level on the way down; on the way up there is one more.
        attention: levels, 0 the finest, with attention after each block on the way down.
        up_attention: the same on the way up; None for the same levels.
        mid_attention: attention between the two blocks in the middle.
        middle: the two blocks in the middle.
        head_width: channels of a head of attention; None for one head of all. Not with ``heads``.
        heads: of attention, one number or one for each level; None to go by ``head_width``.
        context_dim: E of a context that attention reads; None for none, and plain self-attention.
        depth: transformer blocks of each attention with a context.
        linear_projection: whether those are entered and left through linear layers rather than 1 x 1 convolutions.
        groups: of every group norm.
        eps: what every group norm adds to the variance.
        scale_shift: the time scales and shifts the second norm of a block rather than adding to the map before it.
        resample: between levels ``conv`` (a convolution) or ``block`` (a residual block that pools or doubles).
        down_padding: of the convolution between levels: 1 on every side, or 0: one row and column below and to the right.
        dropout: share of a residual block's inner map that is zeroed while training.
        mid_scale: what the middle's blocks and attention divide their sums by.
        mid_norm_groups: groups of the norm before the middle's attention, None for ``groups``, 0 for no norm.
        time_width: D; None for four times the finest level's channels.
        time_shift: see :func:`~intermodal.nn.timestep.sinusoid`.
        sine_first: see there.
        classes: how many classes there are to be told, as labels; None for none.
        class_kind: what is told beside the time: a ``label``, another ``time`` (such as a noise level of conditioning), or a
            ``vector`` of D numbers; None for nothing but what ``classes`` asks.
        centre: take pictures from 0..1 to -1..1 first.

    Raises:
        ConfigError: if a number does not fit.
    """

    in_channels: int = 3
    out_channels: int = 3
    channels: tuple[int, ...] = (64, 128, 256, 256)
    blocks: int = 2
    attention: tuple[int, ...] = (2, 3)
    up_attention: tuple[int, ...] | None = None
    mid_attention: bool = True
    middle: bool = True
    head_width: int | None = 64
    heads: int | tuple[int, ...] | None = None
    context_dim: int | None = None
    depth: int = 1
    linear_projection: bool = False
    groups: int = 32
    eps: float = 1e-5
    scale_shift: bool = False
    resample: Literal["conv", "block"] = "conv"
    down_padding: int = 1
    dropout: float = 0.0
    mid_scale: float = 1.0
    mid_norm_groups: int | None = None
    time_width: int | None = None
    time_shift: float = 0.0
    sine_first: bool = False
    classes: int | None = None
    class_kind: Classes | None = None
    centre: bool = False

    def __post_init__(self) -> None:
        if (
            not self.channels
            or min(self.in_channels, self.out_channels, self.blocks, self.groups, self.depth, *self.channels) < 1
        ):
            raise ConfigError("U-Net: there must be at least one level, and every count must be at least 1.")
        if any(c % self.groups for c in self.channels):
            raise ConfigError(f"U-Net: channels must be multiples of the {self.groups} groups, found {self.channels}.")
        levels = set(range(len(self.channels)))
        if not set(self.attention) | set(self.ups) <= levels:
            raise ConfigError(
                f"U-Net: there are the levels 0 to {len(self.channels) - 1}, attention is asked for at "
                f"{self.attention} and {self.ups}."
            )
        if isinstance(self.heads, tuple) and len(self.heads) != len(self.channels):
            raise ConfigError(f"U-Net: {len(self.channels)} levels need as many numbers of heads, found {self.heads}.")
        if self.down_padding not in (0, 1) or not 0 <= self.dropout < 1 or self.mid_scale <= 0 or self.eps <= 0:
            raise ConfigError(
                "U-Net: down_padding must be 0 or 1, dropout from 0 to below 1, mid_scale and eps above 0."
            )
        if self.classes is not None and self.class_kind not in (None, "label"):
            raise ConfigError("U-Net: a number of classes goes with labels, not with another kind.")
        if self.class_kind == "label" and self.classes is None:
            raise ConfigError("U-Net: labels need the number of classes.")
        for level in sorted(set(self.attention) | set(self.ups)) + [len(self.channels) - 1] * self.mid_attention:
            if self.channels[level] % self.heads_of(level):
                raise ConfigError(
                    f"U-Net: {self.channels[level]} channels cannot be shared among heads, by head_width="
                    f"{self.head_width} and heads={self.heads}."
                )

    @property
    def ups(self) -> tuple[int, ...]:
        """Levels with attention on the way up."""
        return self.attention if self.up_attention is None else self.up_attention

    @property
    def least(self) -> int:
        """The fewest places on a side that a map may have, so that it can be halved between the levels."""
        return 1 if self.resample == "conv" and self.down_padding else 2 ** (len(self.channels) - 1)

    @property
    def width(self) -> int:
        """D."""
        return 4 * self.channels[0] if self.time_width is None else self.time_width

    def heads_of(self, level: int) -> int:
        """Return the heads of attention at a level; 0 channels a head are refused by the check of the configuration."""
        if self.heads is not None:
            return max(self.heads[level] if isinstance(self.heads, tuple) else self.heads, 1)
        channels = self.channels[level]
        if self.head_width is None:
            return 1
        if self.head_width < 1 or channels % self.head_width:
            raise ConfigError(f"U-Net: {channels} channels are no multiple of the {self.head_width} of a head.")
        return channels // self.head_width


class TimedBlock(nn.Module):
    """A residual block that is told the time: ``x + conv(silu(norm(conv(silu(norm(x))) + time)))``.

    Args:
        before: channels of the input.
        after: channels of the output.
        config: of the network.
        resample: ``down`` pools pairs of rows and columns, ``up`` doubles them, after the first norm.
        scale: the sum is divided by it.
    """

    def __init__(
        self,
        before: int,
        after: int,
        config: UNetConfig,
        *,
        resample: Literal["down", "up"] | None = None,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.resample, self.scale, self.scale_shift = resample, scale, config.scale_shift
        self.norm1 = nn.GroupNorm(config.groups, before, config.eps)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.time = nn.Linear(config.width, after * (2 if config.scale_shift else 1))
        self.norm2 = nn.GroupNorm(config.groups, after, config.eps)
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        self.skip = nn.Identity() if before == after else nn.Conv2d(before, after, 1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x_BCHW: Tensor, time_BD: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Return a map of the same size, or resampled (up to ``size``).

        Args:
            x_BCHW: the map.
            time_BD: the embedding of the time, its SiLU taken.
            size: height and width to double to, one less than twice where a level had an odd size.
        """
        y_BCHW = normed_silu(self.norm1, x_BCHW)
        if self.resample == "down":
            x_BCHW, y_BCHW = (F.avg_pool2d(v, 2) for v in (x_BCHW, y_BCHW))
        elif self.resample == "up":
            x_BCHW, y_BCHW = (double(v, size) for v in (x_BCHW, y_BCHW))
        y_BCHW, time_BC11 = self.conv1(y_BCHW), self.time(time_BD)[:, :, None, None]
        if self.scale_shift:
            scale_BC11, shift_BC11 = time_BC11.chunk(2, 1)
            y_BCHW = F.silu(torch.addcmul(shift_BC11, normed(self.norm2, y_BCHW).to(y_BCHW.dtype), 1 + scale_BC11))
        else:
            y_BCHW = normed_silu(self.norm2, y_BCHW + time_BC11)
        y_BCHW = self.conv2(self.dropout(y_BCHW))
        if isinstance(self.skip, nn.Conv2d):
            x_BCHW = pointwise(self.skip, x_BCHW)
        return total(x_BCHW, y_BCHW, self.scale)


class SelfAttention(nn.Module):
    """``x + attention(norm(x))`` over all places of a map."""

    def __init__(self, channels: int, heads: int, config: UNetConfig, *, groups: int, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.norm = nn.GroupNorm(groups, channels, config.eps) if groups else nn.Identity()
        self.attention = Attention(channels, heads)
        nn.init.zeros_(self.attention.out.weight)

    def forward(self, x_BCHW: Tensor, context_BSE: Tensor | None = None, mask_BS: Tensor | None = None) -> Tensor:
        """Return a map of the same size; a context is not read."""
        y_BCHW = normed(self.norm, x_BCHW).to(x_BCHW.dtype) if isinstance(self.norm, nn.GroupNorm) else x_BCHW
        y_BLC = self.attention(y_BCHW.flatten(2).transpose(1, 2))
        return total(x_BCHW, y_BLC.transpose(1, 2).unflatten(2, x_BCHW.shape[2:]), self.scale)


class ContextBlock(nn.Module):
    """A pre-norm block of self-attention, cross-attention to a context, and a gated MLP (Rombach et al. 2022, figure 3)."""

    def __init__(self, width: int, heads: int, context_dim: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.attention = Attention(width, heads, input_bias=False)
        self.cross = Attention(width, heads, context_dim=context_dim, input_bias=False)
        self.mlp = GatedMLP(width, 4 * width)

    def forward(self, x_BLC: Tensor, context_BSE: Tensor, mask_BS: Tensor | None) -> Tensor:
        """Map (B, L, C) to (B, L, C)."""
        x_BLC = x_BLC + self.attention(self.norm1(x_BLC))
        x_BLC = x_BLC + self.cross(self.norm2(x_BLC), context_BSE, mask=mask_BS)
        return x_BLC + self.mlp(self.norm3(x_BLC))


class ContextAttention(nn.Module):
    """Transformer blocks over all places of a map, which read a context: ``x + leave(blocks(enter(norm(x))))``."""

    def __init__(self, channels: int, heads: int, config: UNetConfig) -> None:
        super().__init__()
        assert config.context_dim is not None
        self.norm = nn.GroupNorm(config.groups, channels, 1e-6)
        self.linear = config.linear_projection
        make = nn.Linear if self.linear else lambda a, b: nn.Conv2d(a, b, 1)
        self.enter, self.leave = make(channels, channels), make(channels, channels)
        self.blocks = nn.ModuleList(ContextBlock(channels, heads, config.context_dim) for _ in range(config.depth))
        nn.init.zeros_(self.leave.weight)

    def forward(self, x_BCHW: Tensor, context_BSE: Tensor | None = None, mask_BS: Tensor | None = None) -> Tensor:
        """Return a map of the same size."""
        assert context_BSE is not None
        y_BCHW = normed(self.norm, x_BCHW).to(x_BCHW.dtype)
        if isinstance(self.enter, nn.Conv2d):
            y_BCHW = pointwise(self.enter, y_BCHW)
        y_BLC = y_BCHW.flatten(2).transpose(1, 2)
        if self.linear:
            y_BLC = self.enter(y_BLC)
        for block in self.blocks:
            y_BLC = block(y_BLC, context_BSE, mask_BS)
        if self.linear:
            y_BLC = self.leave(y_BLC)
        y_BCHW = y_BLC.transpose(1, 2).unflatten(2, x_BCHW.shape[2:])
        if isinstance(self.leave, nn.Conv2d):
            y_BCHW = pointwise(self.leave, y_BCHW)
        return total(x_BCHW, y_BCHW, 1)


class Halve(nn.Module):
    """A 3 x 3 convolution of stride 2."""

    def __init__(self, channels: int, padding: int) -> None:
        super().__init__()
        self.padding = padding
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=padding)

    def forward(self, x_BCHW: Tensor, time_BD: Tensor) -> Tensor:
        """Return a map of half the height and width, rounded up (with no padding of its own: down)."""
        return self.conv(x_BCHW if self.padding else F.pad(x_BCHW, (0, 1, 0, 1)))


class Double(Upsample):
    """Every place doubled in height and width, then a 3 x 3 convolution."""

    def forward(self, x_BCHW: Tensor, time_BD: Tensor | None = None, size: tuple[int, int] | None = None) -> Tensor:
        """Return a map of twice the height and width, or of ``size``."""
        if size is None or size == (2 * x_BCHW.shape[2], 2 * x_BCHW.shape[3]):
            return super().forward(x_BCHW)
        return self.conv(double(x_BCHW, size))


def attention(
    channels: int, level: int, config: UNetConfig, *, groups: int | None = None, scale: float = 1.0
) -> SelfAttention | ContextAttention:
    """Return the attention of a level, with a context or without."""
    heads = config.heads_of(level)
    if config.context_dim is not None:
        return ContextAttention(channels, heads, config)
    return SelfAttention(channels, heads, config, groups=config.groups if groups is None else groups, scale=scale)


def total(x_BCHW: Tensor, y_BCHW: Tensor, scale: float) -> Tensor:
    """Return ``(x + y) / scale``, in the memory of y, which nothing else reads, where no gradient needs it."""
    apart = x_BCHW.requires_grad or y_BCHW.requires_grad or x_BCHW.dtype != y_BCHW.dtype
    sum_BCHW = x_BCHW + y_BCHW if apart else y_BCHW.add_(x_BCHW)
    return sum_BCHW if scale == 1 else sum_BCHW / scale


def double(x_BCHW: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Return a map with every place doubled in height and width, or as near to it as ``size`` says."""
    if size is None:
        return F.interpolate(x_BCHW, scale_factor=2.0, mode="nearest")
    return F.interpolate(x_BCHW, size=size, mode="nearest")
