"""A cross-modal block: the tokens of one modality read those of another, and say where they looked.

B batch   L tokens that read   S tokens that are read   D width   C width of the read tokens   H heads
"""

from __future__ import annotations

from torch import Tensor, nn

from intermodal.nn.transformer import MLP, Activation, Attention


class CrossBlock(nn.Module):
    """A pre-norm residual block of cross-attention, ``x + attention(norm1(x), norm(c))``, then ``x + mlp(norm2(x))``.

    Vaswani et al. 2017, section 3.2.3, between two modalities as in ViLBERT's co-attention (Lu et al. 2019, section 2.2) and
    ALBEF's multimodal encoder (Li et al. 2021, section 3.1).

    Args:
        width: D, a multiple of ``heads``.
        heads: H.
        context_dim: C.
        hidden: of the MLP; None for ``4 * width``.
        activation: of the MLP.
    """

    def __init__(
        self, width: int, heads: int, context_dim: int, *, hidden: int | None = None, activation: Activation = "gelu"
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.context_norm = nn.LayerNorm(context_dim)
        self.attention = Attention(width, heads, context_dim=context_dim)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLP(width, hidden or 4 * width, activation)

    def forward(self, x_BLD: Tensor, context_BSC: Tensor) -> Tensor:
        """Map (B, L, D) to (B, L, D), reading (B, S, C)."""
        x_BLD = x_BLD + self.attention(self.norm1(x_BLD), self.context_norm(context_BSC))
        return x_BLD + self.mlp(self.norm2(x_BLD))

    def weights(self, x_BLD: Tensor, context_BSC: Tensor) -> Tensor:
        """Return where each token looks, (B, H, L, S): the attention's weights, which sum to one over S."""
        return self.attention.weights(self.norm1(x_BLD), self.context_norm(context_BSC))
