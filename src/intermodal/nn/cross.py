"""A cross-modal block: the tokens of one modality read those of another, and say where they looked.

B batch   L tokens that read   S tokens that are read   D width   C width of the read tokens   H heads
N sequences after a choice
"""

from __future__ import annotations

import dataclasses

from torch import Tensor, nn

from intermodal.nn.cache import KVCache, LayerCache
from intermodal.nn.transformer import MLP, Activation, Attention, Block


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
        norm_eps: the layer norms' epsilon.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        context_dim: int,
        *,
        hidden: int | None = None,
        activation: Activation = "gelu",
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=norm_eps)
        self.context_norm = nn.LayerNorm(context_dim, eps=norm_eps)
        self.attention = Attention(width, heads, context_dim=context_dim)
        self.norm2 = nn.LayerNorm(width, eps=norm_eps)
        self.mlp = MLP(width, hidden or 4 * width, activation)

    def keys(self, context_BSC: Tensor) -> tuple[Tensor, Tensor]:
        """Return what :meth:`forward` takes in a context's place, for many steps over the same one."""
        return self.attention.keys(self.context_norm(context_BSC))

    def forward(self, x_BLD: Tensor, context: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        """Map (B, L, D) to (B, L, D), reading (B, S, C), or what :meth:`keys` made of it."""
        kept = context if isinstance(context, tuple) else self.keys(context)
        x_BLD = x_BLD + self.attention(self.norm1(x_BLD), kept=kept)
        return x_BLD + self.mlp(self.norm2(x_BLD))

    def weights(self, x_BLD: Tensor, context_BSC: Tensor) -> Tensor:
        """Return where each token looks, (B, H, L, S): the attention's weights, which sum to one over S."""
        return self.attention.weights(self.norm1(x_BLD), self.context_norm(context_BSC))


class DecoderBlock(Block):
    """A pre-norm residual block that attends to what it has written, and to a context.

    ``x + attention(norm1(x))``, then ``x + cross(cross_norm(x), c)``, then ``x + mlp(norm2(x))`` (Vaswani et al. 2017,
    section 3.1, the norms placed as in GPT-2).

    Args:
        width: D, a multiple of ``heads``.
        heads: H.
        context_dim: C.
        hidden: of the MLP.
        activation: of the MLP.
        dropout: of each branch, while training.
        attention_dropout: of the attention weights, while training.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        context_dim: int,
        hidden: int,
        *,
        activation: Activation = "gelu",
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ) -> None:
        attention = Attention(width, heads, causal=True, dropout=attention_dropout)
        super().__init__(width, attention, MLP(width, hidden, activation), dropout=dropout)
        self.cross_norm = nn.LayerNorm(width)
        self.cross = Attention(width, heads, context_dim=context_dim, dropout=attention_dropout)

    def forward(  # type: ignore[override]  # a decoder's block cannot do without its context
        self,
        x_BLD: Tensor,
        context: Tensor | tuple[Tensor, Tensor],
        *,
        mask: Tensor | None = None,
        cache: LayerCache | None = None,
        seen: Tensor | None = None,
    ) -> Tensor:
        """Map (B, L, D) to (B, L, D).

        Args:
            x_BLD: what is written.
            context: (B, S, C), or what ``cross.keys`` made of it.
            mask: of the self-attention, as in :meth:`Attention.forward`.
            cache: of the self-attention.
            seen: which tokens of the context may be read, bool (B, S); None for all.
        """
        x_BLD = x_BLD + self.dropout(self.attention(self.norm1(x_BLD), mask=mask, cache=cache))
        x_BLD = x_BLD + self.dropout(self.read(self.cross_norm(x_BLD), context, seen))
        return x_BLD + self.dropout(self.mlp(self.norm2(x_BLD)))

    def read(self, asked_BLD: Tensor, context: Tensor | tuple[Tensor, Tensor], seen: Tensor | None = None) -> Tensor:
        """Return what the cross-attention alone finds for (B, L, D)."""
        if isinstance(context, tuple):
            return self.cross(asked_BLD, kept=context, mask=seen)
        return self.cross(asked_BLD, context, mask=seen)


class PostNormDecoderBlock(DecoderBlock):
    """A decoder's block whose norms stand behind the branches, as in the first transformer and in BART.

    ``norm1(x + attention(x))``, then ``cross_norm(x + cross(x, c))``, then ``norm2(x + mlp(x))`` (Vaswani et al. 2017,
    section 3.1). The parts and arguments are those of :class:`DecoderBlock`.
    """

    def forward(  # type: ignore[override]  # a decoder's block cannot do without its context
        self,
        x_BLD: Tensor,
        context: Tensor | tuple[Tensor, Tensor],
        *,
        mask: Tensor | None = None,
        cache: LayerCache | None = None,
        seen: Tensor | None = None,
    ) -> Tensor:
        """Map (B, L, D) to (B, L, D); see :meth:`DecoderBlock.forward`."""
        return self.onward(self.written(x_BLD, mask=mask, cache=cache), context, seen)

    def onward(self, x_BLD: Tensor, context: Tensor | tuple[Tensor, Tensor], seen: Tensor | None = None) -> Tensor:
        """Return what the block makes of :meth:`written`: the last two thirds of :meth:`forward`."""
        x_BLD = self.cross_norm(x_BLD + self.dropout(self.read(x_BLD, context, seen)))
        return self.norm2(x_BLD + self.dropout(self.mlp(x_BLD)))

    def written(self, x_BLD: Tensor, *, mask: Tensor | None = None, cache: LayerCache | None = None) -> Tensor:
        """Return what the cross-attention is asked with: the first third of :meth:`forward`."""
        return self.norm1(x_BLD + self.dropout(self.attention(x_BLD, mask=mask, cache=cache)))


@dataclasses.dataclass
class Written:
    """What a decoder remembers: its own keys and values, and those of what it reads, computed once.

    Attributes:
        cache: of the tokens.
        context: keys and values of each block's cross-attention.
        seen: which tokens of the context may be read, bool (B, S); None for all.
    """

    cache: KVCache
    context: list[tuple[Tensor, Tensor]]
    seen: Tensor | None = None

    def reorder(self, rows_N: Tensor) -> None:
        """Replace the sequences by those of these numbers."""
        self.cache.reorder(rows_N)
        self.context = [(k[rows_N], v[rows_N]) for k, v in self.context]
        self.seen = None if self.seen is None else self.seen[rows_N]
