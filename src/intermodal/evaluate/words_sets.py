"""The published test sets of word vectors: pairs with people's judgements, and analogies; scored as gensim scores them.

A word of a test set is compared without regard to case; where a vocabulary holds a word in several cases, the most
frequent counts. Only the first ``RESTRICT`` words of a vocabulary take part. What has an unknown word is left out of a score
and counted in its out-of-vocabulary rate.

Shapes: N words, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from intermodal.core.errors import DataError
from intermodal.core.progress import Progress, silent
from intermodal.metrics.words import analogy_queries, nearest, spearman, unit_rows

RESTRICT = 300_000
"""How many of the most frequent words take part (gensim's default)."""
ANSWERS = 5
"""The best so many words are looked through for one that is none of the three asked about (as gensim does)."""
BATCH = 2048


@dataclass(frozen=True)
class PairScore:
    """How well similarities rank pairs of words.

    Attributes:
        rho: Spearman's correlation with people's judgements; NaN where it is not defined.
        unknown: the share of pairs with a word that is not in the vocabulary.
        pairs: how many pairs the set has.
    """

    rho: float
    unknown: float
    pairs: int


@dataclass(frozen=True)
class Analogy:
    """One question that was answered: a is to b as c is to ``expected``."""

    section: str
    a: str
    b: str
    c: str
    expected: str
    answer: str

    @property
    def right(self) -> bool:
        """Whether the answer is the expected word."""
        return self.answer.upper() == self.expected.upper()


@dataclass(frozen=True)
class AnalogyScore:
    """Answered analogies.

    Attributes:
        answered: those of which all four words are known.
        asked: how many the set has.
    """

    answered: Sequence[Analogy]
    asked: int

    @property
    def unknown(self) -> float:
        """The share of questions with a word that is not in the vocabulary."""
        return 1 - len(self.answered) / self.asked

    def accuracy(self, kind: str = "") -> float:
        """Return the share of right answers, of ``"semantic"`` or ``"syntactic"`` ones or of one section; NaN if none."""
        chosen = [one.right for one in self.answered if kind in ("", one.section, kind_of(one.section))]
        return float(np.mean(chosen)) if chosen else float("nan")

    @property
    def sections(self) -> list[str]:
        """The sections that have an answered question, in the set's order."""
        return list(dict.fromkeys(one.section for one in self.answered))


def kind_of(section: str) -> str:
    """Return what a section of the Google analogies asks: ``syntactic`` where its name begins with ``gram``."""
    return "syntactic" if section.startswith("gram") else "semantic"


def read_pairs(path: Path) -> list[tuple[str, str, float]]:
    """Read pairs of words with a judgement, separated by tabs, ``#`` before comments.

    Raises:
        DataError: if there is no pair.
    """
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        parts = line.split("\t")
        if line.startswith("#") or len(parts) != 3:
            continue
        try:
            found.append((parts[0].strip(), parts[1].strip(), float(parts[2])))
        except ValueError:
            continue  # a heading
    if not found:
        raise DataError(
            f"{path} holds no pair of words: lines of word, word and number with tabs between are expected."
        )
    return found


def read_analogies(path: Path) -> list[tuple[str, str, str, str, str]]:
    """Read analogies: the section, from a line ``: SECTION``, and four words a line.

    Raises:
        DataError: if there is none.
    """
    found, section = [], ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith(":"):
            section = line.lstrip(": ").strip()
            continue
        words = line.split()
        if len(words) == 4:
            found.append((section, words[0], words[1], words[2], words[3]))
    if not found:
        raise DataError(f"{path} holds no analogy: lines of four words are expected, sections beginning with a colon.")
    return found


class Judged:
    """Word vectors as the test sets see them.

    Args:
        words: the vocabulary, the most frequent first.
        vectors_ND: float32 ``(N, D)``.
    """

    def __init__(self, words: Sequence[str], vectors_ND: np.ndarray) -> None:
        self.upper = [word.upper() for word in words[:RESTRICT]]
        self.place = {word: i for i, word in reversed(list(enumerate(self.upper)))}
        self.words = words
        self.unit_ND = unit_rows(vectors_ND[:RESTRICT])
        self._same: dict[str, list[int]] = {}
        if len(self.place) < len(self.upper):  # several cases of one word
            for i, word in enumerate(self.upper):
                self._same.setdefault(word, []).append(i)

    def pairs(self, pairs: Sequence[tuple[str, str, float]]) -> PairScore:
        """Return how well cosines rank pairs."""
        known = [p for p in pairs if p[0].upper() in self.place and p[1].upper() in self.place]
        first = self.unit_ND[[self.place[p[0].upper()] for p in known]]
        second = self.unit_ND[[self.place[p[1].upper()] for p in known]]
        rho = spearman([p[2] for p in known], (first * second).sum(1)) if known else float("nan")
        return PairScore(rho, 1 - len(known) / len(pairs), len(pairs))

    def analogies(
        self, questions: Sequence[tuple[str, str, str, str, str]], progress: Progress = silent
    ) -> AnalogyScore:
        """Answer analogies by 3CosAdd."""
        known = [q for q in questions if all(word.upper() in self.place for word in q[1:])]
        answered: list[Analogy] = []
        for start in range(0, len(known), BATCH):
            progress("analogies", start / len(known))
            some = known[start : start + BATCH]
            asked = np.array([[self.place[word.upper()] for word in q[1:4]] for q in some])
            exclude = [[j for i in row for j in self._same.get(self.upper[i], [i])] for row in asked.tolist()]
            rows, _ = nearest(self.unit_ND, analogy_queries(self.unit_ND, asked), 1, exclude)
            answered += [Analogy(*q, self.words[row]) for q, row in zip(some, rows[:, 0].tolist(), strict=True)]
        return AnalogyScore(answered, len(questions))
