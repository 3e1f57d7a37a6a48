"""The U-Net of diffusion: a picture with noise and its time to what of it is noise.

Down through levels of half the height and width each, and up again, every block on the way up reading what the block on the
way down left (Ronneberger et al. 2015; Ho et al. 2020, appendix B; Nichol & Dhariwal 2021). A level is a few residual blocks
that are told the time, each with attention after it where the configuration says so: of the map to itself, or, with a
context, to itself and then to the context (Rombach et al. 2022). One composition covers diffusers' UNet2DModel and the
UNet2DConditionModel of Stable Diffusion 1 and 2.

    B batch   C channels   H, W height and width   D width of the time embedding   S tokens of a context   E its width
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from intermodal.core.errors import DataError
from intermodal.nn.autoencoder import normed_silu
from intermodal.nn.linear import quicken
from intermodal.nn.timestep import TimeEmbedding
from intermodal.nn.unet_parts import Double, Halve, TimedBlock, UNetConfig, attention

__all__ = ["UNet", "UNetConfig"]

Context = tuple[Tensor | None, Tensor | None]


class Stage(nn.Module):
    """The blocks of one level, with attention after each or none; called on the way down.

    Args:
        sizes: channels that each block takes and gives.
        level: 0 the finest.
        config: of the network.
        attends: attention after each block.
        resample: what leads to the next level.
    """

    def __init__(
        self,
        sizes: Sequence[tuple[int, int]],
        level: int,
        config: UNetConfig,
        *,
        attends: bool,
        resample: nn.Module | None,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(TimedBlock(before, after, config) for before, after in sizes)
        self.attentions = nn.ModuleList(
            attention(config.channels[level], level, config) for _ in range(len(sizes) if attends else 0)
        )
        self.resample = resample

    def run(self, index: int, x_BCHW: Tensor, time_BD: Tensor, context: Context) -> Tensor:
        """Return the map after one block and its attention."""
        x_BCHW = self.blocks[index](x_BCHW, time_BD)
        return self.attentions[index](x_BCHW, *context) if len(self.attentions) else x_BCHW

    def forward(self, x_BCHW: Tensor, time_BD: Tensor, context: Context) -> list[Tensor]:
        """Return the maps after each block, and the one that enters the next level."""
        left = []
        for i in range(len(self.blocks)):
            x_BCHW = self.run(i, x_BCHW, time_BD, context)
            left.append(x_BCHW)
        return left if self.resample is None else [*left, self.resample(x_BCHW, time_BD)]


class UpStage(Stage):
    """The same on the way up, where each block reads what one on the way down left."""

    def forward(self, x_BCHW: Tensor, time_BD: Tensor, context: Context, left: list[Tensor]) -> Tensor:  # type: ignore[override]
        """Return the map that enters the next level; the last maps of ``left`` are taken from it."""
        for i in range(len(self.blocks)):
            x_BCHW = self.run(i, torch.cat((x_BCHW, left.pop()), 1), time_BD, context)
        if self.resample is None:
            return x_BCHW
        return self.resample(x_BCHW, time_BD, (left[-1].shape[2], left[-1].shape[3]))


class Middle(nn.Module):
    """Two blocks at the coarsest level, with attention between them or none."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        channels, level, scale = config.channels[-1], len(config.channels) - 1, config.mid_scale
        self.block1, self.block2 = (TimedBlock(channels, channels, config, scale=scale) for _ in range(2))
        groups = config.groups if config.mid_norm_groups is None else config.mid_norm_groups
        self.attention = (
            attention(channels, level, config, groups=groups, scale=scale) if config.mid_attention else None
        )

    def forward(self, x_BCHW: Tensor, time_BD: Tensor, context: Context) -> Tensor:
        """Return a map of the same size."""
        x_BCHW = self.block1(x_BCHW, time_BD)
        if self.attention is not None:
            x_BCHW = self.attention(x_BCHW, *context)
        return self.block2(x_BCHW, time_BD)


def way_down(config: UNetConfig) -> nn.ModuleList:
    """Return the stages on the way down, the finest first."""
    widths, stages = config.channels, nn.ModuleList()
    for level, (before, width) in enumerate(zip((widths[0], *widths[:-1]), widths, strict=True)):
        sizes = [(before if i == 0 else width, width) for i in range(config.blocks)]
        leads: nn.Module | None = None
        if level < len(widths) - 1:
            halves = config.resample == "conv"
            leads = Halve(width, config.down_padding) if halves else TimedBlock(width, width, config, resample="down")
        stages.append(Stage(sizes, level, config, attends=level in config.attention, resample=leads))
    return stages


class UNet(nn.Module):
    """A network that takes noisy maps and their times.

    Args:
        config: the sizes.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths, last = config.channels, len(config.channels) - 1
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time = self._embedding()
        self.classes: nn.Module | None = None
        if config.classes is not None:
            self.classes = nn.Embedding(config.classes, config.width)
        elif config.class_kind == "time":
            self.classes = self._embedding()
        self.down, self.up = way_down(config), nn.ModuleList()
        left = [widths[0]]  # channels of what the way down leaves for the way up
        for level, width in enumerate(widths):
            left += [width] * (config.blocks + (level < last))
        before = widths[-1]
        self.middle = Middle(config) if config.middle else None
        for level in range(last, -1, -1):
            width = widths[level]
            sizes = [((before if i == 0 else width) + left.pop(), width) for i in range(config.blocks + 1)]
            leads: nn.Module | None = None
            if level > 0 and config.resample == "conv":
                leads = Double(width)
            elif level > 0:
                leads = TimedBlock(width, width, config, resample="up")
            self.up.append(UpStage(sizes, level, config, attends=level in config.ups, resample=leads))
            before = width
        self.norm_out = nn.GroupNorm(config.groups, before, config.eps)
        self.conv_out = nn.Conv2d(before, config.out_channels, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        assert self.conv_out.bias is not None
        nn.init.zeros_(self.conv_out.bias)
        quicken(self)

    def _embedding(self) -> TimeEmbedding:
        config = self.config
        return TimeEmbedding(config.channels[0], config.width, shift=config.time_shift, sine_first=config.sine_first)

    def forward(
        self,
        x_BCHW: Tensor,
        t_B: Tensor,
        classes: Tensor | None = None,
        *,
        context_BSE: Tensor | None = None,
        mask_BS: Tensor | None = None,
    ) -> Tensor:
        """Return the prediction, ``(B, out_channels, H, W)``.

        Args:
            x_BCHW: noisy maps, of any height and width that can be halved between the levels to one place at least.
            t_B: times, any number.
            classes: labels ``(B,)``, times ``(B,)`` or vectors ``(B, D)``, exactly where the network is told something.
            context_BSE: exactly where it reads a context.
            mask_BS: bool, True where the context is to be read.

        Raises:
            DataError: if something is missing, superfluous or of another shape.
        """
        config = self.config
        self._check(x_BCHW, classes, context_BSE)
        context = (context_BSE, mask_BS)
        time_BD = self.time(t_B)
        if classes is not None:
            told_BD = classes if self.classes is None else self.classes(classes)
            time_BD = time_BD + told_BD.to(time_BD.dtype)
        time_BD = F.silu(time_BD)
        x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
        x_BCHW = self.conv_in(2 * x_BCHW - 1 if config.centre else x_BCHW)
        left = [x_BCHW]
        for stage in self.down:
            left += stage(left[-1], time_BD, context)
        x_BCHW = left[-1]
        if self.middle is not None:
            x_BCHW = self.middle(x_BCHW, time_BD, context)
        for stage in self.up:
            x_BCHW = stage(x_BCHW, time_BD, context, left)
        return self.conv_out(normed_silu(self.norm_out, x_BCHW))

    def _check(self, x_BCHW: Tensor, classes: Tensor | None, context_BSE: Tensor | None) -> None:
        config = self.config
        if x_BCHW.dim() != 4 or x_BCHW.shape[1] != config.in_channels:
            raise DataError(
                f"The U-Net takes maps of shape (B, {config.in_channels}, H, W), found {list(x_BCHW.shape)}."
            )
        if min(x_BCHW.shape[2:]) < config.least:
            raise DataError(
                f"The U-Net halves a map {len(config.channels) - 1} times and needs at least {config.least} places on a "
                f"side, found {x_BCHW.shape[2]} x {x_BCHW.shape[3]}."
            )
        told = config.classes is not None or config.class_kind is not None
        if told != (classes is not None):
            raise DataError(
                "This U-Net is told a class beside the time."
                if told
                else "This U-Net is told no class beside the time."
            )
        if (config.context_dim is not None) != (context_BSE is not None):
            raise DataError(
                "This U-Net reads a context." if config.context_dim is not None else "This U-Net reads no context."
            )
        if context_BSE is not None and (context_BSE.dim() != 3 or context_BSE.shape[2] != config.context_dim):
            raise DataError(
                f"The context must have the shape (B, S, {config.context_dim}), found {list(context_BSE.shape)}."
            )
