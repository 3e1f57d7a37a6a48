"""From a CTC model's emissions to transcripts with word times and confidences: what every method that emits so shares.

Shapes: T frames, V symbols.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from intermodal.core.errors import ConfigError
from intermodal.core.transcript import Alignment, Emissions, Hypothesis, Transcribing, Transcript, Word
from intermodal.data.lexicon import read_words
from intermodal.data.transcripts import Case
from intermodal.decode.ctc import Beam, BeamConfig, BeamDecoder
from intermodal.decode.ctc_words import Alphabet
from intermodal.decode.ngram import NGram, read_ngram
from intermodal.losses.ctc import ctc_align


class Greedy:
    """The best path's text (Graves et al. 2006, section 3.2), grown as frames come: the best symbol of each, repeats merged.

    Args:
        symbols: the V symbols' names.
        blank: which says nothing.
        delimiter: the symbol between words; None where units that begin words are marked (BPE).
        frame_seconds: from one frame to the next.
    """

    def __init__(self, symbols: Sequence[str], blank: int, delimiter: str | None, frame_seconds: float) -> None:
        self.alphabet = Alphabet.of(symbols, blank, delimiter)
        self.frame_seconds = frame_seconds
        self.tokens: list[int] = []
        self.frames: list[list[int]] = []
        self.peaks: list[float] = []
        self.score, self._seen, self._before = 0.0, 0, blank

    def feed(self, log_probs_TV: np.ndarray) -> None:
        """Take the next frames."""
        if len(log_probs_TV) == 0:
            return
        best_T = log_probs_TV.argmax(1)
        loud_T = log_probs_TV[np.arange(len(best_T)), best_T]
        self.score += float(loud_T.sum())
        for frame, (token, loud) in enumerate(zip(best_T.tolist(), loud_T.tolist(), strict=True), self._seen):
            if token == self.alphabet.blank:
                pass
            elif token == self._before:
                self.frames[-1][1] = frame
                self.peaks[-1] = max(self.peaks[-1], loud)
            else:
                self.tokens.append(token)
                self.frames.append([frame, frame])
                self.peaks.append(loud)
            self._before = token
        self._seen += len(best_T)

    def transcript(self) -> Transcript:
        """Return what was said so far."""
        letters, words = self.alphabet.letters, []
        for places in self.alphabet.words(self.tokens):
            text = "".join(letters[self.tokens[i]] for i in places)
            if text:
                sure = math.exp(sum(self.peaks[i] for i in places) / len(places))
                words.append(self._word(text, self.frames[places[0]][0], self.frames[places[-1]][1], sure))
        text = " ".join(word.text for word in words)
        return Transcript(text, tuple(words), alternatives=())

    def _word(self, text: str, first: int, last: int, sure: float) -> Word:
        return _word(text, first, last, min(sure, 1.0), self.frame_seconds)


def transcripts_of(
    emissions: Sequence[Emissions],
    settings: Transcribing,
    delimiter: str | None,
    *,
    lm_weight: float = 0.5,
    word_bonus: float = 0.0,
    case: Case = "upper",
) -> list[Transcript]:
    """Return the transcripts of emissions: greedy with a beam of 1, else by beam search, one utterance in each thread.

    Args:
        emissions: of a CTC model, all with the same symbols.
        settings: beam, language model and so on.
        delimiter: the symbol between words; None where units that begin words are marked (BPE).
        lm_weight: the model's own, where the settings name none.
        word_bonus: likewise.
        case: in which a lexicon is read.

    Raises:
        ConfigError: if the settings ask for what CTC cannot do.
        DataError: if the language model or lexicon cannot be read or used.
    """
    if not emissions:
        return []
    first = emissions[0]
    assert first.blank is not None
    if not searches(settings):
        found = []
        for each in emissions:
            search = Greedy(first.symbols, first.blank, delimiter, each.frame_seconds)
            search.feed(each.log_probs)
            found.append(search.transcript())
        return found
    decoder = beam_decoder(first, settings, delimiter, lm_weight=lm_weight, word_bonus=word_bonus, case=case)
    beams = decoder.decode(
        [each.log_probs for each in emissions], n_best=settings.n_best, threads=torch.get_num_threads()
    )
    return [transcript_of(best, each.frame_seconds) for best, each in zip(beams, emissions, strict=True)]


def searches(settings: Transcribing) -> bool:
    """Say whether the settings ask for a beam search.

    Raises:
        ConfigError: if they ask for what CTC cannot do, or for a search without a beam.
    """
    if settings.task != "transcribe" or settings.language is not None:
        raise ConfigError(
            "This model knows one language, its training data's: it takes no language and cannot translate."
        )
    if settings.beam > 1:
        return True
    for name in ("lm", "lexicon", "hot_words"):
        if getattr(settings, name):
            raise ConfigError(f"{name} takes part in the beam search, and a beam of 1 searches nothing: try beam 50.")
    return False


def beam_decoder(
    emitted: Emissions,
    settings: Transcribing,
    delimiter: str | None,
    *,
    lm_weight: float,
    word_bonus: float,
    case: Case,
    lm: NGram | None = None,
) -> BeamDecoder:
    """Return the beam search that the settings describe, over the symbols of some emissions.

    ``lm`` is the model's own language model, where the settings name none.
    """
    assert emitted.blank is not None
    config = BeamConfig(
        beam=settings.beam,
        token_prune=settings.token_prune,
        beam_prune=settings.beam_prune,
        lm_weight=lm_weight if settings.lm_weight is None else settings.lm_weight,
        word_bonus=word_bonus if settings.word_bonus is None else settings.word_bonus,
        hot_weight=settings.hot_weight,
    )
    return BeamDecoder(
        emitted.symbols,
        emitted.blank,
        delimiter,
        config,
        lm=lm if settings.lm is None else read_ngram(settings.lm),
        lexicon=None if settings.lexicon is None else read_words(settings.lexicon, case),
        hot_words=settings.hot_words,
    )


def transcript_of(beams: Sequence[Beam], frame_seconds: float) -> Transcript:
    """Return the best hypothesis with its words, and the others beside it where there are several."""
    if not beams:
        return Transcript("")
    best = beams[0]
    words = tuple(_word(w.text, w.first, w.last, w.confidence, frame_seconds) for w in best.words)
    others = tuple(Hypothesis(b.text, b.score, b.acoustic, b.language, b.bonus) for b in beams)
    return Transcript(best.text, words, alternatives=others if len(beams) > 1 else ())


def aligned(emissions: Emissions, numbers: Sequence[int], delimiter: str | None, seconds: float) -> Alignment:
    """Return where the symbols of a known text are, by the best path (Viterbi).

    Raises:
        DataError: if the text does not fit into the frames.
    """
    assert emissions.blank is not None
    path = ctc_align(emissions.log_probs, np.asarray(numbers, np.int64), blank=emissions.blank)
    alphabet, step = Alphabet.of(emissions.symbols, emissions.blank, delimiter), emissions.frame_seconds
    spans = list(zip(path.first_U.tolist(), path.last_U.tolist(), strict=True))
    sure = [
        math.exp(float(emissions.log_probs[first : last + 1, number].max()))
        for number, (first, last) in zip(numbers, spans, strict=True)
    ]
    words, units = [], []
    for places in alphabet.words(numbers):
        text = "".join(alphabet.letters[numbers[i]] for i in places)
        if not text:
            continue
        mean = math.exp(sum(math.log(max(sure[i], 1e-30)) for i in places) / len(places))
        words.append(_word(text, spans[places[0]][0], spans[places[-1]][1], mean, step))
        for i in places:
            if letter := alphabet.letters[numbers[i]]:
                units.append(_word(letter, *spans[i], sure[i], step))
    score = path.score / max(len(emissions.log_probs), 1)
    return Alignment(tuple(words), tuple(units), score=score, seconds=seconds)


def _word(text: str, first: int, last: int, sure: float, frame_seconds: float) -> Word:
    return Word(text, first * frame_seconds, (last + 1) * frame_seconds, sure)
