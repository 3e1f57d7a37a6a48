"""Quantizers: vectors to codes of a finite set and back, with a gradient that passes through.

Three of them, with one interface. :class:`VectorQuantizer` has a codebook and takes its nearest vector (van den Oord et al.
2017). :class:`ResidualQuantizer` quantizes what is left over, again and again (Zeghidour et al. 2021; Lee et al. 2022).
:class:`FiniteScalarQuantizer` rounds each of a few numbers and needs no codebook (Mentzer et al. 2023).
"""

from __future__ import annotations

from intermodal.nn.quantizers.base import Quantized, Quantizer, straight_through
from intermodal.nn.quantizers.residual import ResidualQuantizer, ResidualQuantizerConfig
from intermodal.nn.quantizers.scalar import FiniteScalarQuantizer, FiniteScalarQuantizerConfig
from intermodal.nn.quantizers.vector import VectorQuantizer, VectorQuantizerConfig

__all__ = [
    "FiniteScalarQuantizer",
    "FiniteScalarQuantizerConfig",
    "Quantized",
    "Quantizer",
    "QuantizerConfig",
    "ResidualQuantizer",
    "ResidualQuantizerConfig",
    "VectorQuantizer",
    "VectorQuantizerConfig",
    "build_quantizer",
    "straight_through",
]

QuantizerConfig = VectorQuantizerConfig | ResidualQuantizerConfig | FiniteScalarQuantizerConfig


def build_quantizer(config: QuantizerConfig) -> Quantizer:
    """Return the quantizer that a configuration is of."""
    if isinstance(config, VectorQuantizerConfig):
        return VectorQuantizer(config)
    if isinstance(config, ResidualQuantizerConfig):
        return ResidualQuantizer(config)
    return FiniteScalarQuantizer(config)
