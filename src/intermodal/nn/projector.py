"""The small network between a backbone's features and the space in which a self-supervised loss compares them.

What is kept for use is what lies before it (Chen et al. 2020, section 4.2: features in front of the projection serve
better than those behind it).

Shapes: N vectors, I width of the features, D width of the projection.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ProjectorConfig(Config):
    """What a :class:`Projector` is built from.

    Attributes:
        hidden_dim: width of each hidden layer.
        output_dim: D.
        layers: linear layers, at least 1; SimCLR has 2 (Chen 2020, section 2.1), VICReg 3 (Bardes 2022, section 4.2).
        norm: ``batch`` puts a batch norm behind each hidden linear layer, as the published code of both does; it
            sees one process's share of the batch. ``none`` treats each row by itself.

    Raises:
        ConfigError: if a number is below 1.
    """

    hidden_dim: int = 512
    output_dim: int = 128
    layers: int = 2
    norm: Literal["batch", "none"] = "batch"

    def __post_init__(self) -> None:
        if min(self.hidden_dim, self.output_dim, self.layers) < 1:
            raise ConfigError(
                "A projector's hidden_dim, output_dim and layers must be at least 1, found "
                f"{self.hidden_dim}, {self.output_dim} and {self.layers}."
            )

    def flops(self, input_dim: int) -> int:
        """Return the forward floating-point operations of one row's matrix products (a multiply-add is two)."""
        widths = [input_dim, *[self.hidden_dim] * (self.layers - 1), self.output_dim]
        return sum(2 * a * b for a, b in itertools.pairwise(widths))


class Projector(nn.Sequential):
    """Linear layers with batch norm and ReLU between them; the last is linear alone.

    Args:
        input_dim: I.
        config: the other widths.
    """

    def __init__(self, input_dim: int, config: ProjectorConfig) -> None:
        parts: list[nn.Module] = []
        width = input_dim
        for _ in range(config.layers - 1):
            batch_norm = config.norm == "batch"
            parts.append(nn.Linear(width, config.hidden_dim, bias=not batch_norm))
            parts += [nn.BatchNorm1d(config.hidden_dim)] if batch_norm else []
            parts.append(nn.ReLU(inplace=True))
            width = config.hidden_dim
        parts.append(nn.Linear(width, config.output_dim, bias=False))
        super().__init__(*parts)

    def forward(self, features_NI: Tensor) -> Tensor:
        """Map ``(N, I)`` to ``(N, D)``, not normalised."""
        return super().forward(features_NI)
