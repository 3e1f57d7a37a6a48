"""DALL-E's transformer: one sequence of a text and then the codes of a picture (Ramesh et al. 2021, section 2.2).

Codes are the tokens 0 to K - 1, those of texts K to K + V - 1: no token is both. Behind the end of a text stand tokens
that say no more than this, another for each place: ``K + V + place``. The last place of the text says what the first
code is.

    B sequences   T places of a text   L codes of a picture   D width   K codes that there are   V tokens of texts
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from intermodal.nn.causal import INIT_STD, CausalConfig, CausalTransformer
from intermodal.nn.transformer import block_flops


def joint_sizes(*, codes: int, words: int, text_length: int, grid: Sequence[int]) -> dict[str, int]:
    """Return what a :class:`~intermodal.nn.causal.CausalConfig` says of K codes, V words, T places and a picture's shape.

    The last code of a picture is never read.
    """
    return {
        "vocab_size": codes + words + text_length,
        "outputs": codes + words,
        "context_length": text_length + math.prod(grid) - 1,
    }


class TextCodesTransformer(CausalTransformer):
    """A causal transformer over texts and codes, with a vector for each row and each column of the picture.

    Its weights are drawn as those of its base are.

    Args:
        config: with the sizes of :func:`joint_sizes`.
        codes: K.
        grid: the shape of a picture's codes, whose places are read in order: rows and columns (h, w), or with several codes
            at each place (h, w, Q). Each axis has embeddings of its own, which are added up.
    """

    def __init__(self, config: CausalConfig, *, codes: int, grid: Sequence[int]) -> None:
        super().__init__(config)
        self.codes, self.grid = codes, tuple(grid)
        self.text_length = config.context_length + 1 - math.prod(grid)
        self.words = (config.outputs or config.vocab_size) - codes
        self.position_embedding = nn.Parameter(torch.empty(self.text_length, config.width))
        self.axis_embeddings = nn.ParameterList(nn.Parameter(torch.empty(size, config.width)) for size in grid)
        for table in (self.position_embedding, *self.axis_embeddings):
            nn.init.normal_(table, std=INIT_STD)

    # --8<-- [start:sequence]
    def sequence(self, text_BT: Tensor, ended_BT: Tensor) -> Tensor:
        """Return texts as tokens of the sequence, ``(B, T)``.

        Args:
            text_BT: token ids, 0 to V - 1.
            ended_BT: bool, True behind the end of each text.
        """
        place_T = torch.arange(self.text_length, device=text_BT.device)
        return self.codes + torch.where(ended_BT, self.words + place_T, text_BT)

    def positions(self, start: int, end: int) -> Tensor:
        """Return the vectors (end - start, D): of a text's places, then of a picture's, each the sum over its axes."""
        axes = [
            table.view(*(-1 if i == k else 1 for i in range(len(self.grid))), self.config.width)
            for k, table in enumerate(self.axis_embeddings)
        ]
        picture_LD = functools.reduce(torch.add, axes).expand(*self.grid, -1).flatten(0, -2)
        return torch.cat([self.position_embedding, picture_LD])[start:end]

    def code_logits(self, x_BLD: Tensor) -> Tensor:
        """Return logits (..., K) of codes."""
        return F.linear(x_BLD, self.head.weight[: self.codes])

    def word_logits(self, x_BLD: Tensor) -> Tensor:
        """Return logits (..., V) of a text's tokens."""
        return F.linear(x_BLD, self.head.weight[self.codes :])

    def both_logits(self, tokens_BT: Tensor, codes_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits ``(B, T - 1, V)`` of a text's tokens from the second on, and ``(B, L, K)`` of all codes.

        Args:
            tokens_BT: what :meth:`sequence` returns.
            codes_BL: 0 to K - 1.
        """
        x_BSD = self.hidden(torch.cat([tokens_BT, codes_BL[:, :-1]], 1))
        return self.word_logits(x_BSD[:, : self.text_length - 1]), self.code_logits(x_BSD[:, self.text_length - 1 :])

    # --8<-- [end:sequence]

    def flops(self) -> int:
        """Return the forward floating-point operations of one whole sequence (a multiply-add is two)."""
        config, places = self.config, math.prod(self.grid)
        last = 2 * config.width * ((self.text_length - 1) * self.words + places * self.codes)
        return config.depth * block_flops(config.context_length, config.width, config.hidden) + last
