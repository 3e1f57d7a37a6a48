"""Quantizing what is left over, level by level (Zeghidour et al. 2021; Lee et al. 2022).

Shapes: B batch, D dimensions of a vector, N vectors (all places of a batch), K codes, Q codes at
each place.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.nn.quantizers.base import Quantized, Quantizer, straight_through
from intermodal.nn.quantizers.vector import VectorQuantizer, VectorQuantizerConfig


@dataclass(frozen=True, kw_only=True)
class ResidualQuantizerConfig(Config):
    """What a :class:`ResidualQuantizer` is made of.

    Attributes:
        level: of each level; each has a codebook of its own.
        levels: Q.

    Raises:
        ConfigError: if there is no level, or vectors are to have length 1, which what is left over has not.
    """

    level: VectorQuantizerConfig
    levels: int

    def __post_init__(self) -> None:
        if self.levels < 1:
            raise ConfigError(f"Residual quantizer: there must be at least one level, found {self.levels}.")
        if self.level.cosine:
            raise ConfigError(
                "Residual quantizer: what a level leaves over has no fixed length, so cosine must be False."
            )

    @property
    def dim(self) -> int:
        """D."""
        return self.level.dim


class ResidualQuantizer(Quantizer):
    """Each level quantizes what those before it left over; the sum of the Q vectors is the result.

    Zeghidour et al. 2021, algorithm 1; for pictures Lee et al. 2022. The gradient goes straight through once, whatever Q.

    Args:
        config: the levels.
    """

    def __init__(self, config: ResidualQuantizerConfig) -> None:
        super().__init__()
        self.config, self.dim, self.codebook_size = config, config.dim, config.level.codes
        self.code_shape = (config.levels,)
        self.levels = nn.ModuleList(VectorQuantizer(config.level) for _ in range(config.levels))

    # --8<-- [start:residual]
    def rows(self, z_ND: Tensor, generator: torch.Generator | None) -> Quantized:
        """Quantize vectors level by level; the losses of the levels are added."""
        left_ND, sum_ND, found = z_ND, torch.zeros_like(z_ND), []
        for level in self.levels:
            assert isinstance(level, VectorQuantizer)
            found.append(level.rows(left_ND, generator))
            chosen_ND = found[-1].z.detach()
            left_ND, sum_ND = left_ND - chosen_ND, sum_ND + chosen_ND
        # --8<-- [end:residual]
        parts = {name: torch.stack([q.parts[name] for q in found]).mean() for name in ("perplexity", "used")}
        parts["commitment"] = found[-1].parts["commitment"]
        codes_NQ, loss = torch.stack([q.codes for q in found], 1), torch.stack([q.loss for q in found]).sum()
        return Quantized(straight_through(z_ND, sum_ND), codes_NQ, loss, parts)

    def _places(self, codes: Tensor) -> torch.Size:
        if codes.ndim < 2 or not 1 <= codes.shape[-1] <= self.config.levels:
            raise DataError(
                f"Each place has {self.config.levels} codes, or the first few of them; found {tuple(codes.shape)}."
            )
        return codes.shape[:-1]

    def vectors(self, codes: Tensor) -> Tensor:
        """Return the sums ``(N, D)`` of the vectors of codes ``(N, Q)``, or of the first few of the Q: a coarser result."""
        total: Tensor | None = None
        for level, codes_N in zip(self.levels, codes.unbind(1), strict=False):
            assert isinstance(level, VectorQuantizer)
            chosen_ND = level.vectors(codes_N)
            total = chosen_ND if total is None else total + chosen_ND
        assert total is not None
        return total
