"""Words by their vectors, as a person asks for them: what command line, page and API share.

Shapes: N words, D features.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from intermodal.core.capabilities import HasWords
from intermodal.core.errors import DataError
from intermodal.index.embedding import offering
from intermodal.metrics.words import analogy_queries, nearest, unit_rows

MOST = 1000
"""The most words that one question brings."""
SPELLINGS = 50_000
"""Spellings are suggested from this many of the most frequent words: the search compares letter by letter."""


@dataclass(frozen=True)
class NearWord:
    """A word that was found.

    Attributes:
        word: as the vocabulary spells it.
        cosine: of its vector and what was asked for, -1 to 1.
        rank: its place by frequency, from 1.
    """

    word: str
    cosine: float
    rank: int


class WordIndex:
    """A model's words, ready to be asked about.

    Args:
        model: any model with the capability ``words``.
        need: what needs it, to begin the error with.

    Raises:
        ConfigError: if the model has not the capability; the methods that have it are named.
    """

    def __init__(self, model: object, need: str = "A question about words") -> None:
        offered: HasWords = offering(model, "words", need)
        self.words = offered.words
        self.unit_ND = unit_rows(offered.word_vectors())
        self._place = {word: i for i, word in reversed(list(enumerate(self.words)))}
        self._lower = {word.lower(): i for i, word in reversed(list(enumerate(self.words)))}

    def __len__(self) -> int:
        return len(self.words)

    def place(self, word: str) -> int:
        """Return a word's row; a word in other case is found where its own spelling is not there.

        Raises:
            DataError: if it is empty or unknown; the nearest spellings are suggested.
        """
        word = word.strip()
        if not word:
            raise DataError("Say a word: an empty one has no vector.")
        found = self._place.get(word, self._lower.get(word.lower()))
        if found is None:
            known = self.words[:SPELLINGS]
            close = difflib.get_close_matches(word.lower(), known, n=3, cutoff=0.7)
            hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else "."
            raise DataError(f"The word {word!r} is not among the {len(self):,} that the model knows{hint}")
        return found

    def near(self, word: str, k: int = 10) -> list[NearWord]:
        """Return the ``k`` words whose vectors have the largest cosine with a word's, without itself, best first.

        Raises:
            DataError: if the word is unknown or ``k`` is out of range.
        """
        row = self.place(word)
        return self._found(self.unit_ND[[row]], [row], k)

    def analogy(self, a: str, b: str, c: str, k: int = 10) -> list[NearWord]:
        """Return what is to ``c`` as ``b`` is to ``a``: the largest cosines with b - a + c of unit vectors (3CosAdd).

        Raises:
            DataError: if a word is unknown or ``k`` is out of range.
        """
        rows = [self.place(word) for word in (a, b, c)]
        query = analogy_queries(self.unit_ND, np.array([rows]))
        if not np.linalg.norm(query) > 1e-6:
            raise DataError(f"{b!r} - {a!r} + {c!r} points nowhere: choose three different words.")
        return self._found(query, rows, k)

    def _found(self, query: np.ndarray, exclude: Sequence[int], k: int) -> list[NearWord]:
        if not 1 <= k <= MOST:
            raise DataError(f"Ask for between 1 and {MOST} words, not {k}.")
        k = min(k, len(self) - len(set(exclude)))
        if k < 1:
            return []
        rows, cosines = nearest(self.unit_ND, query, k, [exclude])
        return [
            NearWord(self.words[row], cosine, row + 1)
            for row, cosine in zip(rows[0].tolist(), cosines[0].tolist(), strict=True)
        ]
