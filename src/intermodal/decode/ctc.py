"""From a CTC model's log-probabilities to text: greedily, or by a beam search with a language model, a lexicon, hot words.

:func:`greedy` takes the best symbol of each frame. :class:`BeamDecoder` keeps the best prefixes, sums (or maximises) over
the paths of each (Hannun et al. 2014, "First-pass large vocabulary continuous speech recognition using bi-directional
recurrent DNNs"), and ranks them by ``acoustic + lm_weight * language + bonus``: the source-channel view, with the parts kept
apart. The search itself is compiled (:mod:`intermodal.decode.ctc_kernels`) and runs on one utterance in each thread.

    T frames   V symbols, blank among them   B hypotheses in the beam
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any

import numpy as np

from intermodal.core.errors import DataError
from intermodal.decode.ctc_records import CANDIDATE, COUNTS, FINE, NODE, PATH, SPOKEN, STEP, SYMBOL, Options, Search
from intermodal.decode.ctc_types import Beam, BeamConfig, WordSpan
from intermodal.decode.ctc_words import Alphabet, build_words
from intermodal.decode.ngram import END, START, UNKNOWN, NGram, Tables

__all__ = ["Beam", "BeamConfig", "BeamDecoder", "BeamStream", "WordSpan", "check_emissions", "greedy"]

Array = np.ndarray[Any, Any]


def greedy(log_probs_TV: Array, blank: int) -> tuple[Array, Array, Array]:
    """Return the text of the best path: the best symbol of each frame, repeats merged, then blanks removed.

    Args:
        log_probs_TV: of one utterance.
        blank: the symbol of silence.

    Returns:
        The symbols, and the first and the last frame of each, int64.

    Raises:
        DataError: if a value is NaN or positive infinity; the frame is named.
    """
    log_probs_TV = check_emissions(log_probs_TV, blank + 1)
    if len(log_probs_TV) == 0:
        return (np.zeros(0, np.int64),) * 3
    best_T = log_probs_TV.argmax(1)
    begins = np.flatnonzero(np.r_[True, best_T[1:] != best_T[:-1]])
    ends = np.r_[begins[1:], len(best_T)] - 1
    spoken = best_T[begins] != blank
    return best_T[begins][spoken], begins[spoken], ends[spoken]


def check_emissions(log_probs_TV: Array, symbols: int, name: str = "The emissions") -> Array:
    """Return log-probabilities as an array ``(T, V)`` of the same numbers.

    Raises:
        DataError: if the shape is another, V is below ``symbols``, or a frame holds NaN, positive infinity or nothing else
            than minus infinity; the first such frame is named.
    """
    log_probs_TV = np.asarray(log_probs_TV)
    if log_probs_TV.ndim != 2 or log_probs_TV.shape[1] < symbols or log_probs_TV.dtype.kind != "f":
        raise DataError(
            f"{name} must be log-probabilities (T, V) with V at least {symbols}, found {log_probs_TV.dtype} "
            f"{log_probs_TV.shape}."
        )
    with np.errstate(invalid="ignore"):
        good_T = np.isfinite(log_probs_TV.max(1)) & ~np.isnan(log_probs_TV).any(1) if log_probs_TV.size else np.ones(0)
    if not good_T.all():
        frame = int(np.argmin(good_T))
        raise DataError(
            f"{name} hold NaN, positive infinity or no symbol that is possible at all, first at frame {frame}."
        )
    return log_probs_TV


class BeamDecoder:
    """A beam search over CTC's prefixes, with all that it weighs.

    Words are told by ``word_delimiter`` if that is one of the symbols; else, if symbols begin with "▁" (BPE), by those; else
    each symbol is a word (phones).

    Attributes:
        alphabet: the symbols as the decoder reads them.
        config: the weights.
        left_out: words of the lexicon that the symbols cannot spell.
    """

    def __init__(
        self,
        symbols: Sequence[str],
        blank: int = 0,
        word_delimiter: str | None = " ",
        config: BeamConfig | None = None,
        *,
        lm: NGram | None = None,
        lexicon: Iterable[str] | None = None,
        hot_words: Iterable[str] = (),
    ) -> None:
        """Prepare a search.

        Args:
            symbols: the V symbols' names, the blank's among them.
            blank: the symbol of silence.
            word_delimiter: the symbol between words, usually " " or "|".
            config: the weights; None for the defaults.
            lm: an n-gram language model over words.
            lexicon: the only words that may occur, hot words aside; None for any.
            hot_words: words or phrases (each word of which is hot).

        Raises:
            DataError: if the symbols are not fit, the lexicon is empty or none of its words can be spelt, or a hot word has
                letters that no symbol writes.
            MissingExtraError: if numba is not installed.
        """
        from intermodal.decode import ctc_kernels

        self._kernels = ctc_kernels
        self.config = config or BeamConfig()
        self.alphabet = Alphabet.of(symbols, blank, word_delimiter)
        allowed = None if lexicon is None else frozenset(w for w in lexicon if w)
        hot = frozenset(word for phrase in hot_words for word in phrase.split())
        letters = set("".join(self.alphabet.letters))
        self._check_hot(hot, letters)
        self.left_out = tuple(sorted(w for w in allowed or () if not letters.issuperset(w)))
        if allowed is not None and len(allowed) == len(self.left_out):
            reason = f"none of its words can be spelt, such as {self.left_out[0]!r}" if allowed else "it has no words"
            raise DataError(f"The lexicon cannot be used: {reason}.")
        numbers = {} if lm is None else {w: i for i, w in enumerate(lm.words) if w not in {START, END, UNKNOWN}}
        self._words = build_words(self.alphabet, numbers, allowed, hot, self.config.hot_weight)
        self._lm = _NO_MODEL if lm is None else lm.tables
        self._state = 0 if lm is None else lm.start_state
        config = self.config
        self._options = Options(
            beam=config.beam,
            blank=blank,
            delimiter=self.alphabet.delimiter,
            joint=config.places == "prefixes",
            viterbi=config.merge == "max",
            has_words=lm is not None or allowed is not None or bool(hot),
            has_starts=bool(self.alphabet.starts.any()),
            closed=allowed is not None,
            has_lm=lm is not None,
            unk=0 if lm is None else lm.unk,
            end=0 if lm is None else lm.end,
            token_prune=float(config.token_prune),
            beam_prune=float(config.beam_prune),
            lm_weight=float(config.lm_weight),
            word_bonus=float(config.word_bonus),
            oov=float(config.oov),
            oov_part=float(config.oov_part) if lm is not None else 0.0,
        )

    def decode(
        self,
        log_probs: Sequence[Array],
        n_best: int = 1,
        threads: int = 1,
        *,
        watch: Callable[[int], None] | None = None,
    ) -> list[list[Beam]]:
        """Return the best hypotheses of each utterance, best first.

        Args:
            log_probs: of each utterance ``(T, V)``, natural logarithms, each T its own, 0 included.
            n_best: how many at most; texts that differ.
            threads: so many utterances are searched at once.
            watch: told after each utterance how many are done, from the thread that did it.

        Raises:
            DataError: if an utterance has another V, or holds NaN, positive infinity or a frame without any possible symbol;
                the utterance and the frame are named.
            ValueError: if ``n_best`` or ``threads`` is below 1.
        """
        if n_best < 1 or threads < 1:
            raise ValueError(f"n_best and threads must be at least 1, found {n_best} and {threads}.")
        found: list[list[Beam]] = [[] for _ in log_probs]
        todo, lock, done = iter(range(len(log_probs))), Lock(), 0

        def take() -> Iterator[int]:
            while True:
                with lock:
                    number = next(todo, None)
                if number is None:
                    return
                yield number

        def work(_: int) -> None:
            nonlocal done
            stream = BeamStream(self)  # its arrays serve one utterance after the other
            for number in take():
                stream.reset()
                stream.feed(log_probs[number], name=f"The emissions of utterance {number}")
                found[number] = stream.finish(n_best)
                with lock:
                    done += 1
                    if watch is not None:
                        watch(done)

        workers = min(threads, len(log_probs))
        if workers <= 1:
            work(0)
        else:
            with ThreadPoolExecutor(workers) as pool:
                list(pool.map(work, range(workers)))
        return found

    def stream(self) -> BeamStream:
        """Return a search that is fed frames as they come."""
        return BeamStream(self)

    def text(self, tokens: Sequence[int]) -> str:
        """Return what some symbols write."""
        letters = self.alphabet.letters
        words = ["".join(letters[tokens[i]] for i in places) for places in self.alphabet.words(tokens)]
        single = self.alphabet.delimiter < 0 and self.alphabet.starts.sum() == len(letters) - 1
        return ("" if single and all(len(s) <= 1 for s in letters) else " ").join(w for w in words if w)

    @staticmethod
    def _check_hot(hot: frozenset[str], letters: set[str]) -> None:
        for word in sorted(hot):
            foreign = sorted(set(word) - letters)
            if foreign:
                raise DataError(
                    f"The hot word {word!r} has letters that no symbol of the model writes "
                    f"({', '.join(map(repr, foreign))}): spell it as transcripts are spelt (capitals, apostrophes)."
                )


class BeamStream:
    """A beam search that goes on: frames are fed as they come, with the same result as all of them at once."""

    def __init__(self, decoder: BeamDecoder) -> None:
        self._decoder, self._kernels = decoder, decoder._kernels
        beam, symbols = decoder.config.beam, len(decoder.alphabet.symbols)
        size, candidates = 2 * beam + 1024, 4 * beam + 2
        self._search = Search(
            tree=np.zeros(size, NODE),
            table=_table(size),
            trail=np.zeros(size, SPOKEN),
            node=np.zeros((2, beam), np.int32),
            path=np.zeros((2, beam, 2), PATH),
            step=np.zeros(beam, STEP),
            symbol=np.zeros(symbols, SYMBOL),
            candidate=np.zeros(candidates, CANDIDATE),
            order=np.zeros(candidates, np.int32),
            rank=np.zeros(candidates),
            counts=np.zeros(1, COUNTS),
        )
        self.reset()

    @property
    def frames(self) -> int:
        """How many frames were read."""
        return int(self._search.counts["frame"][0])

    def reset(self) -> None:
        """Begin anew."""
        self._kernels.begin(self._search, self._decoder._state)

    def feed(self, log_probs_TV: Array, *, name: str = "The emissions") -> None:
        """Read some frames, ``(T, V)``; T may be 0.

        Raises:
            DataError: as :meth:`BeamDecoder.decode`; nothing is read then.
        """
        decoder, symbols = self._decoder, len(self._decoder.alphabet.symbols)
        log_probs_TV = check_emissions(log_probs_TV, symbols, name)
        if log_probs_TV.shape[1] != symbols:
            raise DataError(f"{name} have {log_probs_TV.shape[1]} symbols, but the decoder knows {symbols}.")
        log_probs_TV, start = np.ascontiguousarray(log_probs_TV, np.float64), 0
        while start < len(log_probs_TV):
            start = self._kernels.read(log_probs_TV, start, self._search, decoder._words, decoder._lm, decoder._options)
            if start < len(log_probs_TV):
                self._make_room()

    def partial(self, n_best: int = 1) -> list[Beam]:
        """Return the best hypotheses so far; more frames may change them, and the last word may be unfinished."""
        return self._beams(n_best, final=False)

    def finish(self, n_best: int = 1) -> list[Beam]:
        """Return the best hypotheses of all that was fed, as a whole sentence. The search may still go on."""
        return self._beams(n_best, final=True)

    def _beams(self, n_best: int, *, final: bool) -> list[Beam]:
        decoder = self._decoder
        slots = int(self._search.counts["slots"][0])
        scores, chosen = np.empty((slots, 4)), np.empty((slots, 2), np.int32)
        size = self._kernels.finish(self._search, decoder._words, decoder._lm, decoder._options, final, scores, chosen)
        found: dict[str, Beam] = {}
        for i in np.argsort(-scores[:size], axis=0, kind="stable")[:, 0]:
            beam = self._beam_of(scores[i].tolist(), *chosen[i].tolist(), final=final)
            same = found.get(beam.text)
            if same is None:
                if len(found) == n_best:
                    break
                found[beam.text] = beam
        return list(found.values())

    def _beam_of(self, scores: list[float], slot: int, kind: int, *, final: bool) -> Beam:
        decoder, room = self._decoder, 64
        while True:
            tokens, frames, peaks = np.empty(room, np.int32), np.empty((room, 2), np.int32), np.empty(room)
            size = self._kernels.unwind(self._search, slot, kind, tokens, frames, peaks)
            if size <= room:
                break
            room = size
        said: list[int] = tokens[:size][::-1].tolist()
        spans: list[list[int]] = frames[:size][::-1].tolist()
        loud: list[float] = peaks[:size][::-1].tolist()
        node = self._search.tree[self._search.node[self._search.counts["half"][0], slot]]
        whole = not final or bool(node["ended"] == FINE)
        groups = decoder.alphabet.words(said)
        if not whole:  # what is no word of the lexicon is not written
            del said[groups.pop()[0] :]
        letters, words = decoder.alphabet.letters, []
        for places in groups:
            text = "".join(letters[said[i]] for i in places)
            if text:
                sure = min(1.0, math.exp(sum(loud[i] for i in places) / len(places)))
                words.append(WordSpan(text, spans[places[0]][0], spans[places[-1]][1], sure))
        return Beam(
            text=decoder.text(said),
            tokens=tuple(said),
            frames=tuple((first, last) for first, last in spans[: len(said)]),
            words=tuple(words),
            score=scores[0],
            acoustic=scores[1],
            language=scores[2],
            bonus=scores[3],
            whole=whole,
        )

    def _make_room(self) -> None:
        """Drop what the beam does not come from; where that gains less than half, double the arrays."""
        self._kernels.compact(self._search)
        tree, trail, counts = self._search.tree, self._search.trail, self._search.counts[0]
        if 2 * counts["nodes"] > len(tree) - self._decoder.config.beam:
            self._search = self._search._replace(tree=_doubled(tree), table=_table(2 * len(tree)))
            self._kernels.compact(self._search)
        if 2 * counts["spoken"] > len(trail) - self._decoder.config.beam:
            self._search = self._search._replace(trail=_doubled(trail))


_NO_MODEL = Tables(
    first=np.zeros(2, np.int32),
    word=np.zeros(2, np.int32),
    logp=np.zeros(2, np.float32),
    next=np.zeros(2, np.int32),
    backoff=np.zeros(2, np.float32),
    link=np.zeros(2, np.int32),
)


def _table(size: int) -> Array:
    return np.full(1 << (2 * size).bit_length(), -1, np.int32)


def _doubled(array: Array) -> Array:
    return np.concatenate([array, np.zeros_like(array)])
