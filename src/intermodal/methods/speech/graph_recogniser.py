"""What recognisers of hidden Markov states share: search through a lexicon with a language model, and forced alignment.

A subclass emits scaled likelihoods of the states of its :class:`~intermodal.nn.hmm.Topology`: per frame, up to a constant,
their log-likelihoods. Emissions are normalised over the states; the constant that is lost belongs to the frame, so that no
path gains by it. Scores of transcripts are therefore relative: sums of log-posteriors of states under equal priors.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from intermodal.core.errors import DataError
from intermodal.core.transcript import Alignment, Emissions, Hypothesis, Transcribing, Transcript, Word
from intermodal.data.lexicon import Lexicon, WordProcessor, read_words
from intermodal.decode.graph import GraphConfig, GraphDecoder, Network, Sentence
from intermodal.decode.ngram import read_ngram
from intermodal.methods.speech.recogniser import Recogniser, recording_seconds
from intermodal.nn.hmm import phone_spans, training_graph, viterbi, word_spans
from intermodal.nn.topology import Topology


class GraphRecogniser(Recogniser):
    """Base of recognisers of hidden Markov states.

    A subclass has :attr:`topology`, :attr:`search`, :meth:`stay`, ``frame_seconds`` and ``emit``; its processor ``text``
    is a :class:`~intermodal.data.lexicon.WordProcessor`.
    """

    search: GraphConfig
    """How it decodes where nothing else is said."""

    _decoders: tuple[Any, GraphDecoder] | None = None

    @property
    def topology(self) -> Topology:
        """The phones and their states."""
        raise NotImplementedError

    def stay(self) -> np.ndarray:
        """Return each pdf's stay logit, float64 ``(P,)``."""
        raise NotImplementedError

    @property
    def lexicon(self) -> Lexicon:
        """How words are said."""
        processor = self.processors["text"]
        assert isinstance(processor, WordProcessor)
        return processor.lexicon

    @property
    def emitted(self) -> tuple[tuple[str, ...], int | None]:
        """The names of the pdfs; there is no blank."""
        return self.topology.names, None

    def decode(self, emissions: Sequence[Emissions], settings: Transcribing) -> list[Transcript]:
        """Return the transcripts of emissions.

        The search has its own beam (:attr:`search`); of the settings count the language model, its weight, the bonus of a
        word, the lexicon (words that may occur: a part of the model's own), hot words (each word of them by itself) and how
        many alternatives are wanted.

        Raises:
            DataError: if the lexicon or the hot words hold words that the model's lexicon does not have.
        """
        decoder = self._decoder(settings)
        out = []
        for emission in emissions:
            found = decoder.decode(emission.log_probs, settings.n_best)
            best, step = found[0], emission.frame_seconds
            words = tuple(Word(h.word, h.first * step, (h.last + 1) * step) for h in best.words)
            others = tuple(_hypothesis(sentence) for sentence in found) if settings.n_best > 1 else ()
            out.append(Transcript(best.text, words, alternatives=others))
        return out

    def _decoder(self, settings: Transcribing) -> GraphDecoder:
        """Return the decoder of some settings; the last one is kept, for its network and language model."""
        lm = None if settings.lm is None else read_ngram(settings.lm)
        key = (settings.replace(n_best=1, beam=1), lm, self.topology, self.search, self.stay().tobytes())
        if self._decoders is not None and self._decoders[0] == key:
            return self._decoders[1]
        lexicon = self.lexicon
        if settings.lexicon is not None:
            lexicon = lexicon.only(read_words(settings.lexicon, lexicon.case))
        hot = {word: settings.hot_weight for text in settings.hot_words for word in lexicon.split(text)}
        weight, bonus, own = settings.lm_weight, settings.word_bonus, self.search
        own_bonus = own.bonus_alone if lm is None else own.word_bonus
        config = own.replace(
            lm_weight=own.lm_weight if weight is None else weight, word_bonus=own_bonus if bonus is None else bonus
        )
        decoder = GraphDecoder(Network(lexicon, self.topology), self.stay(), config, lm, hot)
        self._decoders = (key, decoder)
        return decoder

    # --8<-- [start:align]
    def align(self, audio: Any, text: str) -> Alignment:
        """Return where the words and phones of a known text are: the best path through all ways to say it (Viterbi).

        A confidence is the mean posterior of the phone that is said, under equal priors of all states.

        Raises:
            DataError: if words are missing from the lexicon (all are named), the text is empty, or it does not fit into the
                recording.
        """
        words = self.lexicon.split(text)
        if not words:
            raise DataError("There is no word in the text to align.")
        emission = self.emissions(audio)
        seconds = recording_seconds(audio)
        graph = training_graph(words, self.lexicon, self.topology, self.search.silence)
        path = viterbi(emission.log_probs, graph, self.stay())
        step = emission.frame_seconds
        phone_P = np.array([name.rpartition(".")[0] for name in self.topology.names])
        said_T = np.array([unit.phone for unit in graph.units])[graph.unit_S[path.nodes_T]]
        sure_T = (np.exp(emission.log_probs) * (phone_P == said_T[:, None])).sum(1)  # of all states of the phone

        def word(name: str, first: int, last: int) -> Word:
            end = min((last + 1) * step, seconds)
            return Word(name, min(first * step, end), end, float(sure_T[first : last + 1].mean()))

        return Alignment(
            words=tuple(word(s.name, s.first, s.last) for s in word_spans(path, graph)),
            phones=tuple(word(s.name, s.first, s.last) for s in phone_spans(path, graph)),
            score=path.score / max(len(path.nodes_T), 1),
            seconds=seconds,
        )

    # --8<-- [end:align]


def _hypothesis(sentence: Sentence) -> Hypothesis:
    return Hypothesis(sentence.text, sentence.score, sentence.acoustic, sentence.language, sentence.bonus)


def lexicon_of(path: Path | None, texts: Sequence[str], case: Any) -> Lexicon:
    """Return a dictionary's lexicon, or where there is none the letters of the texts' words.

    Raises:
        DataError: if the dictionary cannot be read or misses words of the texts; all that are missing are named.
    """
    if path is None:
        return Lexicon.spelling((word for text in texts for word in text.split()), case)
    lexicon = Lexicon.read(path, case)
    lexicon.check(texts)
    return lexicon
