"""What comes out of speech recognition, in plain data: words with times, segments, hypotheses, alignments, emissions.

Times are seconds from the start of the recording; scores are natural logarithms; confidences lie in 0..1.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

MOST_BEAM = 4096
"""The widest beam that may be asked for."""


@dataclass(frozen=True)
class Word:
    """One word (or phone) that was heard.

    Attributes:
        text: as written.
        start, end: in seconds; None where the model does not say.
        confidence: how sure the model is, 0..1; None where it does not say.
    """

    text: str
    start: float | None = None
    end: float | None = None
    confidence: float | None = None


@dataclass(frozen=True)
class Segment:
    """A stretch of a recording with its words: a caption's worth.

    Attributes:
        text: of the whole stretch.
        start, end: in seconds.
        words: with times, where the model gives them.
    """

    text: str
    start: float
    end: float
    words: tuple[Word, ...] = ()


@dataclass(frozen=True)
class Hypothesis:
    """One of the best transcripts, with its scores apart: the source-channel view.

    Attributes:
        text: what was said, by this hypothesis.
        score: what it was ranked by: ``acoustic + lm_weight * language + bonus``.
        acoustic: log-likelihood (or log-posterior) of the sound.
        language: log-probability of the words by the language model, unweighted; 0 without one.
        bonus: of word insertion and hot words.
    """

    text: str
    score: float
    acoustic: float
    language: float = 0.0
    bonus: float = 0.0


@dataclass(frozen=True)
class Transcript:
    """What was said in one recording.

    Attributes:
        text: the best transcript.
        words: with times and confidences, where the model gives them.
        segments: longer stretches, where the model gives them.
        seconds: length of the recording.
        alternatives: the n-best, best first, where they were asked for.
        notes: what is odd about the recording, in words: silence, clipping, another sample rate.
        language: ISO 639-1 code, where the model says it.
    """

    text: str
    words: tuple[Word, ...] = ()
    segments: tuple[Segment, ...] = ()
    seconds: float = 0.0
    alternatives: tuple[Hypothesis, ...] = ()
    notes: tuple[str, ...] = ()
    language: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Alignment:
    """Where in a recording the words of a known text are.

    Attributes:
        words: each word of the text, with times.
        phones: the smaller units (phones, characters), with times; empty where the model has none.
        score: log-probability of the alignment, per frame.
        seconds: length of the recording.
    """

    words: tuple[Word, ...]
    phones: tuple[Word, ...] = ()
    score: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Emissions:
    """What an acoustic model says of each frame.

    Attributes:
        log_probs: float32 ``(T, V)``, natural logarithms; each row's probabilities sum to one.
        symbols: the V symbols' names.
        blank: which of them is CTC's blank; None where there is none.
        frame_seconds: from one frame to the next.
    """

    log_probs: np.ndarray
    symbols: tuple[str, ...]
    blank: int | None
    frame_seconds: float


@dataclass(frozen=True, kw_only=True)
class Transcribing(Config):
    """How a recording is transcribed.

    Attributes:
        beam: hypotheses that are kept; 1 is greedy where the model has no search of its own.
        lm: an n-gram language model, ARPA (also ``.gz``) or the library's binary; None for none.
        lm_weight: of the language model's log-probability beside the acoustic score; None for the model's own choice.
        word_bonus: added for each word; None for the model's own choice.
        lexicon: a file of the words that may occur, one a line (a pronunciation dictionary will do); None for any word.
        hot_words: words or phrases that are favoured.
        hot_weight: how strongly, in natural log units a word.
        n_best: how many alternatives are returned; 1 returns none beside the transcript.
        token_prune: symbols of a frame below this log-probability are not tried (the best always is).
        beam_prune: hypotheses this far below the best are dropped.
        language: of models that know several, an ISO 639-1 code; None lets the model find out.
        task: ``transcribe``, or ``translate`` into English where the model can.

    Raises:
        ConfigError: if a number is out of range or not finite.
    """

    beam: int = 1
    lm: Path | None = None
    lm_weight: float | None = None
    word_bonus: float | None = None
    lexicon: Path | None = None
    hot_words: tuple[str, ...] = field(default=())
    hot_weight: float = 10.0
    n_best: int = 1
    token_prune: float = -5.0
    beam_prune: float = -10.0
    language: str | None = None
    task: Literal["transcribe", "translate"] = "transcribe"

    def __post_init__(self) -> None:
        if not 1 <= self.beam <= MOST_BEAM:
            raise ConfigError(f"A beam is 1 to {MOST_BEAM} wide, found {self.beam}.")
        if not 1 <= self.n_best <= self.beam:
            raise ConfigError(f"n_best is 1 to the beam ({self.beam}), found {self.n_best}.")
        numbers = {
            "lm_weight": self.lm_weight,
            "word_bonus": self.word_bonus,
            "hot_weight": self.hot_weight,
            "token_prune": self.token_prune,
            "beam_prune": self.beam_prune,
        }
        for name, value in numbers.items():
            if value is not None and math.isnan(value):
                raise ConfigError(f"{name} must be a number, found {value}.")
        if self.lm_weight is not None and not 0 <= self.lm_weight < math.inf:
            raise ConfigError(f"lm_weight must be finite and not negative, found {self.lm_weight}.")
        if self.token_prune > 0 or self.beam_prune > 0:
            raise ConfigError(
                f"token_prune and beam_prune are log-probabilities, at most 0; found {self.token_prune} and "
                f"{self.beam_prune}."
            )
