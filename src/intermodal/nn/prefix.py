"""From one vector to a few vectors in the place of tokens: the mapping networks of prefix captioners (Mokady et al. 2021).

B vectors   D their width   P vectors of a prefix   E width of the language decoder   K places that the vector is
spread over
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from intermodal.nn.transformer import MLP, Attention, Block, Transformer


class PrefixMLP(nn.Module):
    """Two linear layers with a hyperbolic tangent between; the hidden one is half as wide as the whole prefix.

    Args:
        dim: D.
        prefix: P.
        width: E.
    """

    def __init__(self, dim: int, prefix: int, width: int) -> None:
        super().__init__()
        self.prefix = prefix
        hidden = max(prefix * width // 2, 1)
        self.layers = nn.Sequential(nn.Linear(dim, hidden), nn.Tanh(), nn.Linear(hidden, prefix * width))

    def forward(self, vector_BD: Tensor) -> Tensor:
        """Return prefixes ``(B, P, E)``."""
        return self.layers(vector_BD).unflatten(1, (self.prefix, -1))


class PrefixTransformer(nn.Module):
    """The vector spread over K places, learnt constants, and a transformer over both (Mokady 2021, section 3).

    The constants' places are the prefix. It suits a decoder that is frozen, which no small network steers.

    Args:
        dim: D.
        prefix: P, the number of constants.
        width: E, a multiple of ``heads``.
        spread: K.
        depth: blocks.
        heads: attention heads.
    """

    def __init__(self, dim: int, prefix: int, width: int, *, spread: int, depth: int, heads: int) -> None:
        super().__init__()
        self.spread = spread
        self.spreading = nn.Linear(dim, spread * width)
        self.constants = nn.Parameter(torch.randn(prefix, width) * width**-0.5)
        blocks = [Block(width, Attention(width, heads), MLP(width, 2 * width, "gelu")) for _ in range(depth)]
        self.transformer = Transformer(blocks)

    def forward(self, vector_BD: Tensor) -> Tensor:
        """Return prefixes ``(B, P, E)``."""
        spread_BKE = self.spreading(vector_BD).unflatten(1, (self.spread, -1))
        constants_BPE = self.constants.expand(len(vector_BD), -1, -1)
        return self.transformer(torch.cat([spread_BKE, constants_BPE], 1))[:, self.spread :]
