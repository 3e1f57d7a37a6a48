"""What a CTC beam search is told and what it finds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class BeamConfig(Config):
    """How the beam search weighs and prunes. Scores are natural logarithms.

    Attributes:
        beam: places in the beam.
        places: what takes one: a prefix, with its paths that end in a blank and those that do not (``prefixes``; Hannun et
            al. 2014), or each of the two on its own (``states``, as in pyctcdecode and flashlight).
        merge: whether the paths of a prefix are added up (``sum``) or the best counts alone (``max``).
        token_prune: symbols of a frame below this log-probability are not tried (the best always is).
        beam_prune: hypotheses so far below the best are dropped.
        lm_weight: of the language model's log-probability.
        word_bonus: added for each word, so that a language model does not make texts short.
        oov: added to the language score of each word that the language model does not know.
        oov_part: what an unfinished word costs, as long as no known word begins so; more than six letters cost more.
        hot_weight: added for each hot word; an unfinished one has its part of it.

    Raises:
        ConfigError: if a number is out of range.
    """

    beam: int = 50
    places: Literal["prefixes", "states"] = "prefixes"
    merge: Literal["sum", "max"] = "sum"
    token_prune: float = -5.0
    beam_prune: float = -10.0
    lm_weight: float = 0.5
    word_bonus: float = 0.0
    oov: float = -10.0 * math.log(10.0)
    oov_part: float = -10.0
    hot_weight: float = 10.0

    def __post_init__(self) -> None:
        if self.beam < 1:
            raise ConfigError(f"A beam has at least one place, found {self.beam}.")
        for name in ("token_prune", "beam_prune", "oov", "oov_part"):
            if not getattr(self, name) <= 0:
                raise ConfigError(f"{name} is a log-probability, at most 0, found {getattr(self, name)}.")
        for name in ("lm_weight", "word_bonus", "hot_weight", "oov", "oov_part"):
            if not math.isfinite(getattr(self, name)):
                raise ConfigError(f"{name} must be a finite number, found {getattr(self, name)}.")
        if self.lm_weight < 0:
            raise ConfigError(f"lm_weight must not be negative, found {self.lm_weight}.")


@dataclass(frozen=True)
class WordSpan:
    """A word of a hypothesis.

    Attributes:
        text: the word.
        first, last: the frames of its first and its last symbol, on the best path of the hypothesis; both included.
        confidence: 0 to 1: the geometric mean, over its symbols, of the highest probability that each has in its frames.
    """

    text: str
    first: int
    last: int
    confidence: float


@dataclass(frozen=True)
class Beam:
    """One hypothesis.

    Attributes:
        text: the transcript.
        tokens: its symbols; delimiters that would change nothing in the text are left out.
        frames: first and last frame of each symbol, on the best path.
        words: the words with their frames; symbols, where symbols are words.
        score: ``acoustic + lm_weight * language + bonus``.
        acoustic: log-probability of what was heard.
        language: log-probability of the words, unweighted; 0 without a language model.
        bonus: of words and hot words; what unfinished ones are credited with while a stream is not finished.
        whole: False if what was heard last is no word of the lexicon, and so is left out of the text; no hypothesis in the
            beam ended in one that is.
    """

    text: str
    tokens: tuple[int, ...]
    frames: tuple[tuple[int, int], ...]
    words: tuple[WordSpan, ...]
    score: float
    acoustic: float
    language: float
    bonus: float
    whole: bool = True
