"""A classifier of noisy pictures that is told how noisy they are: the way down of a U-Net, and what it ends in pooled.

So Dhariwal & Nichol 2021 build theirs (section 4), pooled by attention where the map is 8 x 8.

    B batch   C channels   H, W height and width   D width of the time embedding   L places of the last map   K classes
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.nn.autoencoder import normed_silu
from intermodal.nn.timestep import TimeEmbedding
from intermodal.nn.transformer import Attention
from intermodal.nn.unet import Middle, way_down
from intermodal.nn.unet_parts import UNetConfig


@dataclass(frozen=True, kw_only=True)
class NoisyClassifierConfig(Config):
    """What a classifier of noisy pictures is built from.

    Attributes:
        encoder: the way down and the middle; what is said of the way up and of what comes out has no meaning here.
        pool: of the last map: ``attention``, with the mean as its query, or ``mean``.

    Raises:
        ConfigError: if the encoder is to be told more than the time, or there is no such pooling.
    """

    encoder: UNetConfig
    pool: Literal["attention", "mean"] = "attention"

    def __post_init__(self) -> None:
        encoder = self.encoder
        if encoder.context_dim is not None or encoder.classes is not None or encoder.class_kind is not None:
            raise ConfigError("A classifier of noisy pictures is told their time and nothing else.")
        if self.pool not in ("attention", "mean"):
            raise ConfigError(f"A map is pooled by attention or mean, found {self.pool!r}.")


class NoisyClassifier(nn.Module):
    """Noisy pictures and their times to logits of classes.

    Args:
        config: the sizes.
        classes: K.
    """

    def __init__(self, config: NoisyClassifierConfig, classes: int) -> None:
        super().__init__()
        encoder = self.config = config.encoder
        widths, last = encoder.channels, len(encoder.channels) - 1
        self.conv_in = nn.Conv2d(encoder.in_channels, widths[0], 3, padding=1)
        self.time = TimeEmbedding(widths[0], encoder.width, shift=encoder.time_shift, sine_first=encoder.sine_first)
        self.down, before = way_down(encoder), widths[-1]
        self.middle = Middle(encoder) if encoder.middle else None
        self.norm_out = nn.GroupNorm(encoder.groups, before, encoder.eps)
        self.pool: nn.Module = nn.Linear(before, classes)
        if config.pool == "attention":
            self.pool = Attention(before, encoder.heads_of(last), context_dim=before, output_dim=classes)

    def forward(self, x_BCHW: Tensor, t_B: Tensor) -> Tensor:
        """Return logits ``(B, K)``.

        Args:
            x_BCHW: noisy pictures, of any height and width that can be halved between the levels to one place at least.
            t_B: their times, as the denoiser is told them.

        Raises:
            DataError: if the pictures have another number of channels, or are too small.
        """
        config = self.config
        if x_BCHW.dim() != 4 or x_BCHW.shape[1] != config.in_channels or min(x_BCHW.shape[2:]) < config.least:
            raise DataError(
                f"The classifier takes pictures of shape (B, {config.in_channels}, H, W) with at least {config.least} "
                f"places on a side, found {list(x_BCHW.shape)}."
            )
        time_BD = F.silu(self.time(t_B))
        x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
        x_BCHW = self.conv_in(2 * x_BCHW - 1 if config.centre else x_BCHW)
        for stage in self.down:
            x_BCHW = stage(x_BCHW, time_BD, (None, None))[-1]
        if self.middle is not None:
            x_BCHW = self.middle(x_BCHW, time_BD, (None, None))
        x_BLC = normed_silu(self.norm_out, x_BCHW).flatten(2).transpose(1, 2)
        mean_B1C = x_BLC.mean(1, keepdim=True)
        logits_B1K = self.pool(mean_B1C, x_BLC) if isinstance(self.pool, Attention) else self.pool(mean_B1C)
        return logits_B1K[:, 0]
