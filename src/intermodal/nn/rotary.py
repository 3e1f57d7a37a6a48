"""Rotary positions: pairs of a vector's values are turned by angles that grow with the position (Su et al. 2021).

The dot product of a turned query and a turned key then depends on how far apart they are, not on where they stand.

    B batch   L positions   K width of one head
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError
from intermodal.nn.transformer import Turn


@dataclasses.dataclass(frozen=True, kw_only=True)
class RotaryConfig(Config):
    """How fast each pair of values turns.

    Attributes:
        theta: pair k of K / 2 turns by ``theta ** (-2 k / K)`` a position.
        factor: stretches a model to longer contexts. 1 leaves the speeds as they are; with ``low`` and ``high``, only
            slow pairs become slower, by this factor (Llama 3.1); without them, all do (positions are interpolated; Chen
            et al. 2023).
        low, high: of Llama 3.1: pairs that turn less than ``low`` times over the original context are slowed down by
            the factor, those that turn more than ``high`` times stay as they are, and those between are blended. None
            for neither.
        original_context: the context of which ``low`` and ``high`` speak.

    Raises:
        ConfigError: if a number is out of range.
    """

    theta: float = 10000.0
    factor: float = 1.0
    low: float | None = None
    high: float | None = None
    original_context: int = 8192

    def __post_init__(self) -> None:
        if self.theta <= 0 or self.factor < 1 or self.original_context < 1:
            raise ConfigError("Rotary positions: theta must be above 0, factor and original_context at least 1.")
        if (self.low is None) != (self.high is None):
            raise ConfigError("Rotary positions: low and high are given together or not at all.")
        if self.low is not None and self.high is not None and not 0 < self.low < self.high:
            raise ConfigError(f"Rotary positions: low must be below high, found {self.low} and {self.high}.")


def speeds(config: RotaryConfig, head_width: int) -> Tensor:
    """Return by how much each pair of values turns at each position, radians, float64 (K / 2)."""
    speed_K = config.theta ** -(torch.arange(0, head_width, 2, dtype=torch.float64) / head_width)
    if config.low is None or config.high is None:
        return speed_K / config.factor
    turns_K = config.original_context * speed_K / (2 * math.pi)
    kept_K = ((turns_K - config.low) / (config.high - config.low)).clamp(0, 1)
    return kept_K * speed_K + (1 - kept_K) * speed_K / config.factor


class Rotary:
    """Cosines and sines of positions, computed once in float64 as far as they were needed.

    Args:
        config: how fast values turn.
        head_width: K, even.

    Raises:
        ConfigError: if K is odd.
    """

    def __init__(self, config: RotaryConfig, head_width: int) -> None:
        if head_width % 2:
            raise ConfigError(
                f"Rotary positions turn pairs of values: the width of a head must be even, found {head_width}."
            )
        self.config, self.head_width = config, head_width
        self._made: Turn | None = None

    def table(self, length: int, like: Tensor) -> Turn:
        """Return cosines and sines of at least ``length`` positions, (N, 1, K) each, of a tensor's type and device."""
        made = self._made
        if made is None or len(made[0]) < length or made[0].dtype != like.dtype or made[0].device != like.device:
            room = 1 << (max(length, 64) - 1).bit_length()
            angle = torch.outer(torch.arange(room, dtype=torch.float64), speeds(self.config, self.head_width))
            cos, sin = angle.cos(), angle.sin()
            parts = torch.cat([cos, cos], 1), torch.cat([-sin, sin], 1)
            cos_LK, sin_LK = (part.unsqueeze(1).to(like.device, like.dtype) for part in parts)
            self._made = made = cos_LK, sin_LK
        return made

    def at(self, place: slice | Tensor, end: int, like: Tensor) -> Turn:
        """Return cosines and sines of some positions.

        Args:
            place: a range of positions, or int64 (B, L).
            end: above the last of them.
            like: has the type and device of what is turned.

        Returns:
            Each (L, 1, K), or (B, L, 1, K).
        """
        cos, sin = self.table(end, like)
        return cos[place], sin[place]
