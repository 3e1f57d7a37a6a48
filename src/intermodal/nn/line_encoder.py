"""A line of text to a sequence of tokens, left to right: convolutions first, then a transformer.

Early convolutions make vision transformers learn from little data (Xiao et al. 2021). Here they also make lines of any
width into tokens without squeezing them: each token stands for a strip of :data:`STRIDE` columns. Nothing depends on
what a line is padded with: what lies behind its end is zero for every layer, and nobody attends to it.

    B lines   H, W height and width in pixels   S tokens, one for each STRIDE columns   D width
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.nn.transformer import block_flops, build_transformer
from intermodal.nn.whisper import sinusoids

STRIDE = 4
"""Columns of pixels from one token to the next."""
STEP = 16
"""Lines are filled up to a multiple of so many columns: the CPU's kernels are built anew for every width that they meet."""
DOWN = 8
"""So many rows of pixels become one before the last is flattened."""


@dataclass(frozen=True, kw_only=True)
class LineConfig(Config):
    """What a :class:`LineEncoder` is built from.

    Attributes:
        height: H, a multiple of 8.
        most_width: the widest line, a multiple of 4.
        channels: of the first convolution; the second has twice, the third four times as many.
        width: D, a multiple of ``heads``.
        depth: blocks.
        heads: attention heads.

    Raises:
        ConfigError: if a number is out of range.
    """

    height: int = 32
    most_width: int = 512
    channels: int = 32
    width: int = 192
    depth: int = 2
    heads: int = 4

    def __post_init__(self) -> None:
        if self.height < DOWN or self.height % DOWN or self.most_width < STRIDE or self.most_width % STRIDE:
            raise ConfigError(
                f"Line encoder: height must be a multiple of {DOWN} and most_width of {STRIDE}, found {self.height} and "
                f"{self.most_width}."
            )
        if min(self.channels, self.heads) < 1 or self.depth < 0 or self.width % self.heads:
            raise ConfigError(f"Line encoder: width must be a multiple of heads, found {self.width} and {self.heads}.")

    @property
    def tokens(self) -> int:
        """The most tokens of a line."""
        return self.most_width // STRIDE

    def flops(self) -> int:
        """Return the forward operations of the widest line (a multiply-add is two)."""
        c, rows, columns = self.channels, self.height // 2, self.most_width // 2
        stem = 18 * rows * columns * c + 18 * (rows // 2) * (columns // 2) * 2 * c * c
        stem += 18 * (rows // 4) * (columns // 2) * 8 * c * c
        join = 2 * self.tokens * (self.height // DOWN) * 4 * c * self.width
        return stem + join + self.depth * block_flops(self.tokens, self.width, 4 * self.width)


class LineEncoder(nn.Module):
    """Three convolutions, a linear layer over each strip, and a transformer over the strips.

    Learnt positions begin as waves as large as what they are added to: with small random ones the strips are a bag of
    letters to who reads them, and a decoder does not learn where to look.

    Args:
        config: sizes.
    """

    def __init__(self, config: LineConfig) -> None:
        super().__init__()
        self.config = config
        c = config.channels
        self.conv1 = nn.Conv2d(1, c, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(c, 2 * c, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(2 * c, 4 * c, 3, stride=(2, 1), padding=1)
        self.join = nn.Linear(4 * c * (config.height // DOWN), config.width)
        self.norm = nn.LayerNorm(config.width)
        self.position_embedding = nn.Parameter(sinusoids(config.tokens, config.width))
        self.transformer = build_transformer(
            config.width, config.depth, config.heads, 4 * config.width, activation="gelu"
        )
        self.post_norm = nn.LayerNorm(config.width)
        for conv in (self.conv1, self.conv2, self.conv3):
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)

    def forward(self, image_B1HW: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens (B, S, D), and which of them are of the line, bool (B, S).

        Args:
            image_B1HW: float (B, 1, H, W): ink from 0 (paper) to 1; columns below 0 are no part of the line.

        Raises:
            DataError: if a line is of another height or wider than ``most_width``.
        """
        config, (height, width) = self.config, image_B1HW.shape[2:]
        if height != config.height or not 0 < width <= config.most_width:
            raise DataError(
                f"The line encoder takes lines {config.height} pixels high and at most {config.most_width} wide, found "
                f"{height} x {width}."
            )
        image_B1HW = F.pad(image_B1HW, (0, min(width + -width % STEP, config.most_width) - width), value=-1.0)
        line_BW = image_B1HW[:, 0, 0] >= 0
        x_BCHW = image_B1HW.clamp(min=0)
        for conv in (self.conv1, self.conv2, self.conv3):
            x_BCHW = F.relu(conv(x_BCHW))
            apart = line_BW.shape[1] // x_BCHW.shape[3]
            x_BCHW = x_BCHW * line_BW[:, None, None, ::apart]
        seen_BS = line_BW[:, ::STRIDE]
        x_BSD = self.norm(self.join(x_BCHW.permute(0, 3, 1, 2).flatten(2)))
        x_BSD = x_BSD + self.position_embedding[: x_BSD.shape[1]]
        return self.post_norm(self.transformer(x_BSD, mask=seen_BS)), seen_BS
