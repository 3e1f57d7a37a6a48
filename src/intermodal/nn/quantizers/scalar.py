"""Rounding each of a few numbers: codes without a codebook (FSQ; Mentzer et al. 2023).

Shapes: B batch, D dimensions of a vector, N vectors (all places of a batch), L levels of a
number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError
from intermodal.nn.quantizers.base import Quantized, Quantizer, occurrence, straight_through

BOUND = 1e-3
"""By how much a number's range is wider than its levels, as vector-quantize-pytorch has it; the paper's listing makes it as
much narrower. All levels are reached either way; the thresholds between them move by a thousandth."""


@dataclass(frozen=True, kw_only=True)
class FiniteScalarQuantizerConfig(Config):
    """What a :class:`FiniteScalarQuantizer` is made of.

    Attributes:
        levels: how many values each of the D numbers may take, at least 3; there are as many codes as their product. The
            paper's (table 1) are (8, 6, 5) for about 2^8, (8, 5, 5, 5) for 2^10, (7, 5, 5, 5, 5) for 2^12, (8, 8, 8, 6, 5)
            for 2^14, (8, 8, 8, 5, 5, 5) for 2^16.

    Raises:
        ConfigError: if there are none, or one is below 3.
    """

    levels: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.levels or min(self.levels) < 3:
            raise ConfigError(
                f"Finite scalar quantizer: each number needs at least 3 levels, found {self.levels}. (Of two levels, nearly "
                "all of the range would fall to one.)"
            )
        if math.prod(self.levels) >= 2**53:
            raise ConfigError(f"Finite scalar quantizer: the levels {self.levels} make more codes than can be counted.")

    @property
    def dim(self) -> int:
        """D."""
        return len(self.levels)


class FiniteScalarQuantizer(Quantizer):
    """Each number squashed into a range of L levels and rounded (FSQ; Mentzer et al. 2023, section 3 and appendix A).

    No codebook, no loss, and nothing that could collapse: a code is the number that the D rounded values are the digits of,
    the first one counting least. An even L has one level more below zero than above, so that zero is one of them: the range
    lies half a level lower, and the input is shifted so that 0 stays 0. (By the inverse hyperbolic tangent; the paper's
    listing has the tangent, which is 0.1 % less at L = 4 and nearer above.)

    Args:
        config: the levels.
    """

    def __init__(self, config: FiniteScalarQuantizerConfig) -> None:
        super().__init__()
        self.config, self.dim, self.codebook_size = config, config.dim, math.prod(config.levels)

    def _levels(self, like: Tensor) -> Tensor:
        return torch.tensor(self.config.levels, device=like.device)

    # --8<-- [start:fsq]
    def bound(self, z_ND: Tensor) -> Tensor:
        """Return each number squashed into the range of its levels, which are the whole numbers from ``-(L // 2)`` up."""
        level_D = self._levels(z_ND)
        half_D = (level_D - 1).to(z_ND) * (1 + BOUND) / 2
        offset_D = (level_D % 2 == 0).to(z_ND) / 2
        return torch.tanh(z_ND + torch.atanh(offset_D / half_D)) * half_D - offset_D

    def rows(self, z_ND: Tensor, generator: torch.Generator | None) -> Quantized:
        """Quantize vectors; the results lie in -1..1."""
        bounded_ND = self.bound(z_ND)
        digit_ND = bounded_ND.detach().round()
        width_D = self._levels(z_ND) // 2
        codes_N = ((digit_ND.long() + width_D) * self._basis(z_ND)).sum(1)
        # --8<-- [end:fsq]
        codes_N = codes_N.clamp(0, self.codebook_size - 1)  # of numbers that are not finite
        parts = occurrence(torch.bincount(codes_N, minlength=self.codebook_size))
        parts["commitment"] = ((digit_ND - bounded_ND.detach()) / width_D).square().mean()
        return Quantized(straight_through(bounded_ND, digit_ND) / width_D, codes_N, z_ND.new_zeros(()), parts)

    def _basis(self, like: Tensor) -> Tensor:
        """Return what each digit counts for in a code."""
        levels = self.config.levels
        return torch.tensor([math.prod(levels[:i]) for i in range(len(levels))], device=like.device)

    def vectors(self, codes: Tensor) -> Tensor:
        """Return the vectors ``(N, D)``, in -1..1, of codes ``(N,)``."""
        level_D = self._levels(codes)
        digit_ND = codes[:, None] // self._basis(codes) % level_D - level_D // 2
        return digit_ND.float() / (level_D // 2)
