"""The networks of a contrastive captioner (Yu et al. 2022): attentional poolers, and a text decoder in two halves.

The first half reads the text alone, with a class token at its end that sees all of it; the second half goes on from the
first one's tokens and reads the picture as well.

B batch   L tokens of a text   D width   S tokens of a picture   C their width   Q queries   V tokens that are known
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from intermodal.core.errors import DataError
from intermodal.nn.cache import KVCache
from intermodal.nn.cross import CrossBlock
from intermodal.nn.text import TextConfig
from intermodal.nn.transformer import Attention, Transformer, build_transformer

Kept = Sequence[tuple[Tensor, Tensor]]
"""Keys and values of a picture's tokens, for each block that reads it."""


class AttentionalPooler(nn.Module):
    """Learnt queries that attend to a picture's tokens, and take their place (Yu et al. 2022, section 3.2).

    Args:
        width: D of what comes out, a multiple of ``heads``.
        heads: attention heads.
        context_dim: C.
        queries: Q.
        norm_eps: the layer norms' epsilon.
    """

    def __init__(self, width: int, heads: int, context_dim: int, queries: int, norm_eps: float = 1e-5) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(queries, width))
        self.query_norm = nn.LayerNorm(width, eps=norm_eps)
        self.context_norm = nn.LayerNorm(context_dim, eps=norm_eps)
        self.attention = Attention(width, heads, context_dim=context_dim)

    def forward(self, tokens_BSC: Tensor) -> Tensor:
        """Map (B, S, C) to (B, Q, D)."""
        return self.attention(self._queries(tokens_BSC), self.context_norm(tokens_BSC))

    def weights(self, tokens_BSC: Tensor) -> Tensor:
        """Return where each query looks, (B, H, Q, S), which sums to one over S."""
        return self.attention.weights(self._queries(tokens_BSC), self.context_norm(tokens_BSC))

    def _queries(self, tokens_BSC: Tensor) -> Tensor:
        return self.query_norm(self.query).expand(len(tokens_BSC), -1, -1)


class UnimodalDecoder(nn.Module):
    """The half that reads the text alone (Yu et al. 2022, section 3.2): causal, a class token behind the last place.

    Args:
        config: sizes; the class token comes on top of ``context_length``.
        shifted: mask what the class token may see one place too far right, as open_clip's published weights were trained:
            it then sees one place of the padding, and of a text without padding not its last token.
    """

    def __init__(self, config: TextConfig, *, shifted: bool = False) -> None:
        super().__init__()
        self.config, self.shifted = config, shifted
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.class_token = nn.Parameter(torch.empty(config.width))
        self.position_embedding = nn.Parameter(torch.empty(config.context_length + 1, config.width))
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        for parameter in (self.class_token, self.position_embedding):
            nn.init.normal_(parameter, std=0.01)
        self.transformer = _causal(config, config.depth)
        self.final_norm = nn.LayerNorm(config.width, eps=config.norm_eps)

    def forward(self, tokens_BL: Tensor, real_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Read texts.

        Args:
            tokens_BL: int64, shape (B, L), padded at the end.
            real_BL: bool, which of them are not padding.

        Returns:
            The class token's vector after the final norm, (B, D), and the texts' tokens, before it, (B, L, D).

        Raises:
            DataError: if the texts are longer than ``context_length``.
        """
        self._check(tokens_BL, 0)
        length = tokens_BL.shape[1]
        last_B1D = self.class_token.expand(len(tokens_BL), 1, -1)
        x_BLD = torch.cat([self.token_embedding(tokens_BL), last_B1D], 1) + self.position_embedding[: length + 1]
        one_B1 = real_BL.new_ones(len(real_BL), 1)
        mask_BL = torch.cat([one_B1, real_BL] if self.shifted else [real_BL, one_B1], 1)
        x_BLD = self.transformer(x_BLD, mask=mask_BL)
        return self.final_norm(x_BLD[:, -1]), x_BLD[:, :-1]

    def tokens(self, tokens_BL: Tensor, cache: KVCache, start: int) -> Tensor:
        """Return the tokens' vectors as :meth:`forward` does, of texts without padding that go on from a cache.

        Args:
            tokens_BL: int64, shape (B, L).
            cache: what was read before.
            start: the place of the first of them (which a half without blocks does not remember).

        Raises:
            DataError: if there are more than ``context_length`` with those of the cache.
        """
        self._check(tokens_BL, start)
        end = start + tokens_BL.shape[1]
        return self.transformer(self.token_embedding(tokens_BL) + self.position_embedding[start:end], cache=cache)

    def _check(self, tokens_BL: Tensor, before: int) -> None:
        most = self.config.context_length
        if tokens_BL.dim() != 2 or not before < before + tokens_BL.shape[1] <= most:
            raise DataError(
                f"The text decoder takes tokens of shape (B, L), at most {most} with the {before} that it has read, found "
                f"{tuple(tokens_BL.shape)}: shorten the texts, or use the model's text processor."
            )


class MultimodalDecoder(nn.Module):
    """The half that reads text and picture: causal blocks, each before one that looks at the picture.

    Args:
        config: sizes, depth and vocabulary.
        context_dim: C.
    """

    def __init__(self, config: TextConfig, context_dim: int) -> None:
        super().__init__()
        self.config = config
        width, eps = config.width, config.norm_eps
        self.transformer = _causal(config, config.depth)
        self.cross = nn.ModuleList(
            CrossBlock(
                width, config.heads, context_dim, hidden=config.hidden, activation=config.activation, norm_eps=eps
            )
            for _ in range(config.depth)
        )
        self.final_norm = nn.LayerNorm(width, eps=eps)
        self.head = nn.Linear(width, config.vocab_size, bias=False)
        nn.init.normal_(self.head.weight, std=width**-0.5)

    def keys(self, image_BSC: Tensor) -> Kept:
        """Return what the blocks keep of a picture's tokens, for many steps over the same picture."""
        return [self._cross(i).keys(image_BSC) for i in range(len(self.cross))]

    def forward(self, x_BLD: Tensor, image: Tensor | Kept, cache: KVCache | None = None) -> Tensor:
        """Return vectors (B, L, D) after the final norm, which :attr:`head` turns into logits of the next token.

        Args:
            x_BLD: the first half's tokens.
            image: a picture's tokens (B, S, C), or what :meth:`keys` made of them.
            cache: what was read before.
        """
        for i, block in enumerate(self.transformer.blocks):
            x_BLD = block(x_BLD) if cache is None else block(x_BLD, cache=cache.layers[i])
            x_BLD = self._cross(i)(x_BLD, image if isinstance(image, Tensor) else image[i])
        return self.final_norm(x_BLD)

    def weights(self, x_BLD: Tensor, image_BSC: Tensor) -> Tensor:
        """Return where each place of the text looks in each block, (B, blocks, H, L, S), which sums to one over S."""
        found = []
        for i, block in enumerate(self.transformer.blocks):
            x_BLD = block(x_BLD)
            found.append(self._cross(i).weights(x_BLD, image_BSC))
            x_BLD = self._cross(i)(x_BLD, image_BSC)
        return torch.stack(found, 1)

    def _cross(self, number: int) -> CrossBlock:
        block = self.cross[number]
        assert isinstance(block, CrossBlock)
        return block


def _causal(config: TextConfig, depth: int) -> Transformer:
    return build_transformer(
        config.width,
        depth,
        config.heads,
        config.hidden,
        activation=config.activation,
        norm_eps=config.norm_eps,
        causal=True,
    )
