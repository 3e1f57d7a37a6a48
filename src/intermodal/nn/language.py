"""A language model of the last few words: the network of Bengio et al. 2003, and with no hidden layer the log-bilinear one.

The words before a place are embedded, each position by its own matrix, summed, and compared with every word of the
vocabulary by a dot product and a bias (Mnih & Hinton 2007, equations 1 to 3; Bengio et al. 2003, section 2).

    B batch   L words of a text   D width   V words of the vocabulary   K candidates
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class WordModelConfig(Config):
    """What a :class:`WordModel` is built from.

    Attributes:
        vocab_size: V.
        context: how many words before a place are seen.
        width: D, of the words' vectors.
        hidden: of the hidden layer; 0 leaves it out, which is the log-bilinear model.
        pad_id: fills up before the first word, and stands for no word at all.

    Raises:
        ConfigError: if a size does not fit.
    """

    vocab_size: int
    context: int = 5
    width: int = 128
    hidden: int = 256
    pad_id: int = 0

    def __post_init__(self) -> None:
        if min(self.vocab_size, self.context, self.width) < 1 or self.hidden < 0:
            raise ConfigError("WordModel: vocab_size, context and width must be at least 1, hidden at least 0.")
        if not 0 <= self.pad_id < self.vocab_size:
            raise ConfigError(f"WordModel: pad_id {self.pad_id} is no word of a vocabulary of {self.vocab_size}.")

    def flops(self) -> int:
        """Return the forward floating-point operations of one place, without the comparison with words."""
        first = self.hidden or self.width
        return 2 * self.context * self.width * first + 2 * self.hidden * self.width


class WordModel(nn.Module):
    """Predicts, at every place of a text, a vector that the right word's vector should resemble.

    Args:
        config: the sizes.
    """

    def __init__(self, config: WordModelConfig) -> None:
        super().__init__()
        self.config = config
        first = config.hidden or config.width
        self.before = nn.Embedding(config.vocab_size, config.width)
        self.mix = nn.Linear(config.context * config.width, first)
        self.hidden = nn.Linear(config.hidden, config.width) if config.hidden else nn.Identity()
        self.words = nn.Embedding(config.vocab_size, config.width)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        nn.init.normal_(self.before.weight, std=config.width**-0.5)
        nn.init.normal_(self.words.weight, std=0.1 * config.width**-0.5)

    def forward(self, tokens_BL: Tensor) -> Tensor:
        """Return a vector for the word *after* each of the places, ``(B, L, D)``; it has seen this one and those before."""
        span = self.config.context
        padded = F.pad(tokens_BL, (span - 1, 0), value=self.config.pad_id)
        windows_BLC = padded.unfold(1, span, 1)
        mixed = self.mix(self.before(windows_BLC).flatten(2))
        return self.hidden(F.silu(mixed)) if self.config.hidden else mixed

    def logits(self, state_ND: Tensor) -> Tensor:
        """Return the scores of all words, ``(N, V)``, for vectors ``(N, D)``."""
        return F.linear(state_ND, self.words.weight, self.bias)

    def scores_of(self, state_ND: Tensor, word_N: Tensor) -> Tensor:
        """Return the score of one word each, ``(N,)``."""
        return (state_ND * self.words(word_N)).sum(-1) + self.bias[word_N]

    def scores_among(self, state_BLD: Tensor, word_BK: Tensor) -> Tensor:
        """Return the scores of K words that all places of a text share, ``(B, L, K)``."""
        return state_BLD @ self.words(word_BK).transpose(1, 2) + self.bias[word_BK].unsqueeze(1)
