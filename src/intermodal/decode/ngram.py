"""N-gram language models: how likely a word is after the words before it, from a table with back-off.

A model is a tree of word sequences in a few flat arrays (:class:`Tables`). Node 0 is the empty sequence, node ``1 + w``
the word ``w`` alone; the nodes of one length stand together, in the order of their parents and then of their words, so
that a node's children are a range and a child is found by bisection. :mod:`intermodal.decode.ngram_kernels` walks it.

Logarithms are natural. In files in the ARPA format they are to base 10 (:mod:`intermodal.decode.arpa`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from intermodal.core.errors import DataError

if TYPE_CHECKING:
    from intermodal.data.word_kernels import WordTable

Array = np.ndarray[Any, Any]

START, END, UNKNOWN = "<s>", "</s>", "<unk>"
NO_UNKNOWN = -100.0 * float(np.log(10.0))
"""The log probability of unknown words in a model that has none: kenlm's 10 to the power of -100."""

_WORD = re.compile(r"[^\x00-\x20]+")
_BLOCK = 1 << 22


def split_words(text: str) -> list[str]:
    """Return the words of a text: what spaces, tabs, line ends and other control characters separate, as it stands."""
    return _WORD.findall(text)


class Tables(NamedTuple):
    """What compiled code reads of a model. N nodes in all, of which the first I may have children."""

    first: Array
    """int32 (I + 1): the children of node i are the nodes ``first[i]`` to ``first[i + 1] - 1``."""
    word: Array
    """int32 (N): the last word of each node's sequence; -1 for node 0."""
    logp: Array
    """float32 (N): the log probability of that word after those before it."""
    next: Array
    """int32 (N): the state after it: the longest ending of the sequence that can still tell what comes."""
    backoff: Array
    """float32 (I): what is added when the sequence has to be shortened because a word never followed it."""
    link: Array
    """int32 (I): the state with which to go on then."""


class Grams(NamedTuple):
    """The entries of one length, as they stand in files: sorted by nothing in particular."""

    words: Array
    """int32 (M, n)."""
    logp: Array
    """float (M,), natural logarithms; NaN for an entry that is only there for what follows it."""
    backoff: Array
    """float (M,); zero at the longest length."""


@dataclass(frozen=True)
class Perplexity:
    """How well a model foretells a text. The end of each sentence is foretold too, as a word of its own.

    Attributes:
        sentences: lines that hold a word.
        words: of the text, the ends of sentences not counted.
        unknown: how many of them the model does not know.
        log_prob: ln p of the text.
        log_prob_known: that of the words that the model knows, and of the ends.
    """

    sentences: int
    words: int
    unknown: int
    log_prob: float
    log_prob_known: float

    @property
    def perplexity(self) -> float:
        """Perplexity of all words, unknown ones with the probability of ``<unk>``."""
        return math.exp(-self.log_prob / (self.words + self.sentences))

    @property
    def perplexity_known(self) -> float:
        """Perplexity of the words that the model knows; unknown words are left out of sum and number."""
        return math.exp(-self.log_prob_known / (self.words + self.sentences - self.unknown))


class NGram:
    """An n-gram language model with back-off.

    Attributes:
        words: the vocabulary, ``<s>``, ``</s>`` and ``<unk>`` included; a word's number is its place.
        order: how many words the longest entries have.
        tables: the arrays for compiled code.
        levels: (order + 2) where the nodes of each length begin, from length 0; the last is the number of nodes.
        unk: the number of ``<unk>``, which unknown words get.
        start: the number of ``<s>``.
        end: the number of ``</s>``.
        start_state: the state at a sentence's start.
        closed: whether ``<unk>`` was not among the model's entries, so that unknown words have next to no probability.
    """

    def __init__(self, words: Sequence[str], tables: Tables, levels: Sequence[int], *, closed: bool = False) -> None:
        self.words = tuple(words)
        self.tables = tables
        self.levels = tuple(int(n) for n in levels)
        self.order = len(self.levels) - 2
        self.closed = closed
        self._numbers = {word: i for i, word in enumerate(self.words)}
        if len(self._numbers) != len(self.words):
            raise DataError("The vocabulary of the language model names a word twice.")
        missing = [word for word in (START, END, UNKNOWN) if word not in self._numbers]
        if missing:
            raise DataError(f"The language model has no {' and no '.join(missing)}.")
        self.start, self.end, self.unk = (self._numbers[word] for word in (START, END, UNKNOWN))
        self.start_state = int(tables.next[1 + self.start])

    @classmethod
    def read(cls, path: str | Path) -> NGram:
        """Read a model from an ARPA file (also compressed, ``.arpa.gz``) or from our binary.

        Raises:
            DataError: if there is no such file, or it is not whole or not such a model.
        """
        from intermodal.decode import arpa, ngram_binary

        return ngram_binary.read(path) if ngram_binary.is_binary(path) else arpa.read(path)

    def write(self, path: str | Path) -> None:
        """Write the model: in the ARPA format if the name ends in ``.arpa`` or ``.arpa.gz``, else in our binary."""
        from intermodal.decode import arpa, ngram_binary

        name = str(path).lower()
        (arpa.write if name.endswith((".arpa", ".arpa.gz")) else ngram_binary.write)(self, path)

    @classmethod
    def build(cls, words: Sequence[str], grams: Sequence[Grams]) -> NGram:
        """Return the model with these entries.

        Entries whose beginning is missing are joined to the tree by one with the probability that backing off gives, which
        changes no probability. A missing ``<unk>`` is added (see :data:`NO_UNKNOWN`), and so are ``<s>`` and ``</s>``.

        Args:
            words: the vocabulary.
            grams: the entries of length 1, 2 and so on; those of length 1 name each word at most once.

        Raises:
            DataError: if an entry stands twice or names a word outside the vocabulary.
        """
        from intermodal.decode.ngram_tree import build

        return build(words, grams)

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: str) -> bool:
        return word in self._numbers

    @property
    def counts(self) -> tuple[int, ...]:
        """How many entries there are of each length."""
        return tuple(b - a for a, b in zip(self.levels[1:-1], self.levels[2:], strict=True))

    def number(self, word: str) -> int:
        """Return a word's number, that of ``<unk>`` for an unknown one."""
        return self._numbers.get(word, self.unk)

    def numbers(self, words: Sequence[str]) -> Array:
        """Return the numbers of some words, int32."""
        get, unk = self._numbers.get, self.unk
        return np.fromiter((get(word, unk) for word in words), np.int32, len(words))

    def advance(self, state: int, word: int) -> tuple[int, float]:
        """Return the state after a word, and ln p(word | state); ``word`` is a number."""
        from intermodal.decode import ngram_kernels

        after, logp = ngram_kernels.advance(self.tables, np.int32(state), np.int32(word))
        return int(after), float(logp)

    def word_scores(self, words: Sequence[str], *, bos: bool = True, eos: bool = True) -> Array:
        """Return ln p of each word given those before it, float32, with that of ``</s>`` last if ``eos``."""
        from intermodal.decode import ngram_kernels

        ids = self.numbers([*words, END] if eos else words)
        out = np.empty(len(ids), np.float32)
        ngram_kernels.score_each(self.tables, ids, np.int32(self.start_state if bos else 0), out)
        return out

    def score(self, words: Sequence[str] | str, *, bos: bool = True, eos: bool = True) -> float:
        """Return ln p of a sentence, a natural logarithm.

        Args:
            words: the sentence, as words or as text (:func:`split_words`).
            bos: whether it begins a sentence: its first word follows ``<s>``.
            eos: whether it ends there: ``</s>`` counts.
        """
        words = split_words(words) if isinstance(words, str) else words
        return float(self.word_scores(words, bos=bos, eos=eos).sum(dtype=np.float64))

    def scores(self, texts: Sequence[str], *, bos: bool = True, eos: bool = True) -> Array:
        """Return ln p of each of many sentences, float64; compiled from the text on. See :meth:`score`."""
        ids = self._encoded("\n".join(texts))
        if np.count_nonzero(ids < 0) != len(texts):  # an empty text, or one with a line end in it
            parts = [self.numbers(split_words(text)) for text in texts]
            ids = np.concatenate([*(np.append(part, np.int32(-1)) for part in parts), np.empty(0, np.int32)])
        return self._scored(ids, bos=bos, eos=eos)[0]

    def perplexity(self, texts: Iterable[str]) -> Perplexity:
        """Return how well the model foretells a text, each line a sentence; lines without a word are passed over.

        Raises:
            DataError: if there is no word.
        """
        sentences = words = unknown = 0
        total = lost = 0.0
        for block in blocks(texts):
            ids = self._encoded(block)
            out, part, misses = self._scored(ids)
            sentences, words, unknown = sentences + len(out), words + len(ids) - len(out), unknown + int(misses.sum())
            total, lost = total + float(out.sum()), lost + float(part.sum())
        if not words:
            raise DataError("The text holds no words: a perplexity needs at least one.")
        return Perplexity(sentences, words, unknown, total, total - lost)

    @cached_property
    def _table(self) -> WordTable:
        from intermodal.data.word_kernels import WordTable

        return WordTable.of(self.words, whole=True)

    def _encoded(self, text: str) -> Array:
        """Return the numbers of a text's words, int32, with -1 behind each line that holds a word."""
        return self._table.encode(text.encode("utf-8", "surrogatepass"), 1, self.unk)

    def _scored(self, ids: Array, *, bos: bool = True, eos: bool = True) -> tuple[Array, Array, Array]:
        from intermodal.decode import ngram_kernels

        count = int(np.count_nonzero(ids < 0))
        out, lost, misses = np.empty(count), np.empty(count), np.empty(count, np.int64)
        state, end = np.int32(self.start_state if bos else 0), np.int32(self.end if eos else -1)
        ngram_kernels.score_sentences(self.tables, ids, state, end, np.int32(self.unk), out, lost, misses)
        return out, lost, misses

    def grams(self) -> Iterator[Grams]:
        """Yield the entries of length 1, 2 and so on, as they stand in the tree."""
        inner = len(self.tables.link)
        above = np.zeros((1, 0), np.int32)
        for low, high, begin in zip(self.levels[1:-1], self.levels[2:], self.levels[:-2], strict=True):
            widths = np.diff(self.tables.first[begin : low + 1])
            words = np.concatenate([np.repeat(above, widths, axis=0), self.tables.word[low:high, None]], axis=1)
            backoff = np.zeros(high - low, np.float32)
            if low < inner:
                backoff = self.tables.backoff[low:high]
            yield Grams(words, self.tables.logp[low:high], backoff)
            above = words


def read_ngram(path: Path) -> NGram:
    """Return the model of a file; the last two are kept, until their files change.

    Raises:
        DataError: as :meth:`NGram.read`.
    """
    return _read(path, path.stat().st_mtime_ns if path.exists() else 0)


@lru_cache(maxsize=2)
def _read(path: Path, changed: int) -> NGram:
    del changed
    return NGram.read(path)


def blocks(texts: Iterable[str]) -> Iterator[str]:
    """Yield a text, given in lines or longer pieces that cut no line, in pieces of a few million characters."""
    held: list[str] = []
    size = 0
    for text in texts:
        held.append(text)
        size += len(text) + 1
        if size > _BLOCK:
            yield "\n".join(held)
            held, size = [], 0
    if held:
        yield "\n".join(held)
