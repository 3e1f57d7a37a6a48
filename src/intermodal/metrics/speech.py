"""How many words a recogniser gets wrong: word and character error rates, with what was confused with what.

The error rate of a set is the substitutions, deletions and insertions of the cheapest alignment (Levenshtein 1966, each
costs 1; jiwer's) summed over all utterances, over the number of reference units: no mean of the utterances' own rates. It
can exceed 1, by insertions. Among equally cheap alignments jiwer's is taken; the sum does not depend on that.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

import numpy as np

from intermodal.core.errors import DataError, MissingExtraError

Unit = Literal["word", "character"]
Kind = Literal["right", "substitution", "deletion", "insertion"]
_KINDS: dict[str, Kind] = {
    "equal": "right",
    "substitute": "substitution",
    "delete": "deletion",
    "insert": "insertion",
}
APOSTROPHES = "'\u2019\u02bc"


@dataclass(frozen=True)
class Pair:
    """A place of an alignment.

    Attributes:
        kind: what happened there.
        reference: the unit that was said; empty for an insertion.
        hypothesis: the unit that was heard; empty for a deletion.
    """

    kind: Kind
    reference: str
    hypothesis: str


@dataclass(frozen=True)
class Errors:
    """Counts of an alignment, or of many.

    Attributes:
        right: units that were heard as they were said.
        substitutions: units heard as others.
        deletions: units not heard.
        insertions: units heard that were not said.
    """

    right: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    def __add__(self, other: Errors) -> Errors:
        """Return the counts of both."""
        return Errors(
            self.right + other.right,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )

    @property
    def units(self) -> int:
        """How many units were said."""
        return self.right + self.substitutions + self.deletions

    @property
    def wrong(self) -> int:
        """How many errors there are."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """The error rate, 0 or more; not a number where nothing was said.

        An utterance in which nothing is said still counts in a set: what was inserted there is added.
        """
        return self.wrong / self.units if self.units else float("nan")


def normalise(text: str) -> str:
    """Return a text as it is judged: compatible forms composed (NFKC), case folded, without punctuation.

    Letters, marks and digits of all scripts stay, and apostrophes between letters; all else parts words, which are joined
    by one space. Numbers stay as they are written: ``9`` is not ``nine``.
    """
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    kept = []
    for i, letter in enumerate(text):
        inside = 0 < i < len(text) - 1 and _is_letter(text[i - 1]) and _is_letter(text[i + 1])
        if letter in APOSTROPHES and inside:
            kept.append("'")
        else:
            kept.append(letter if _is_letter(letter) else " ")
    return " ".join("".join(kept).split())


def _is_letter(letter: str) -> bool:
    return unicodedata.category(letter)[0] in "LMN"


def align(reference: str, hypothesis: str, unit: Unit = "word") -> list[Pair]:
    """Return the cheapest alignment of two texts, place by place; the texts are taken as they are.

    Args:
        reference: what was said.
        hypothesis: what was heard.
        unit: words (parted by white space), or characters (a space between words is one).

    Raises:
        MissingExtraError: without jiwer.
    """
    return next(_alignments([reference], [hypothesis], unit))


def count(pairs: Sequence[Pair]) -> Errors:
    """Return the counts of an alignment."""
    kinds = Counter(pair.kind for pair in pairs)
    return Errors(kinds["right"], kinds["substitution"], kinds["deletion"], kinds["insertion"])


def errors(references: Sequence[str], hypotheses: Sequence[str], unit: Unit = "word") -> list[Errors]:
    """Return the counts of each utterance, texts normalised; ``total`` of them has the error rate of the set.

    Raises:
        DataError: if there are not as many hypotheses as references.
        MissingExtraError: without jiwer.
    """
    _check(references, hypotheses)
    pairs = _alignments([normalise(t) for t in references], [normalise(t) for t in hypotheses], unit)
    return [count(each) for each in pairs]


def total(each: Sequence[Errors]) -> Errors:
    """Return the counts of all utterances together."""
    return sum(each, Errors())


def error_rate(references: Sequence[str], hypotheses: Sequence[str], unit: Unit = "word") -> float:
    """Return the word or character error rate of a set of utterances, texts normalised, 0 or more.

    Raises:
        DataError: if the numbers of texts differ, or nothing at all was said.
        MissingExtraError: without jiwer.
    """
    found = total(errors(references, hypotheses, unit))
    if not found.units:
        raise DataError("There is no word in the reference transcripts to count errors of.")
    return found.rate


def bootstrap(
    each: Sequence[Errors], *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Return an interval of the error rate by resampling utterances (Bisani & Ney 2004, section 2; the percentile interval).

    Args:
        each: the counts of each utterance, at least one with a unit.
        level: the share of resampled sets whose rate lies between the two.
        resamples: how many sets are drawn, each of as many utterances, with replacement.
        seed: of the drawing.

    Raises:
        DataError: if there is no utterance with a unit.
    """
    wrong_N = np.array([e.wrong for e in each], np.float64)
    units_N = np.array([e.units for e in each], np.float64)
    if not units_N.sum():
        raise DataError("There is no word in the reference transcripts to count errors of.")
    rng, rates = np.random.default_rng(seed), []
    for _ in range(resamples):
        some = rng.integers(0, len(wrong_N), len(wrong_N))
        if (units := units_N[some].sum()) > 0:
            rates.append(wrong_N[some].sum() / units)
    low, high = np.quantile(rates, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def confusions(references: Sequence[str], hypotheses: Sequence[str], unit: Unit = "word") -> Counter[tuple[str, str]]:
    """Return how often each unit was heard as another: ``(said, heard)``; ``""`` stands for nothing.

    Raises:
        DataError: if there are not as many hypotheses as references.
        MissingExtraError: without jiwer.
    """
    _check(references, hypotheses)
    pairs = _alignments([normalise(t) for t in references], [normalise(t) for t in hypotheses], unit)
    return Counter((p.reference, p.hypothesis) for p in itertools.chain.from_iterable(pairs) if p.kind != "right")


def _check(references: Sequence[str], hypotheses: Sequence[str]) -> None:
    if len(references) != len(hypotheses):
        raise DataError(f"There are {len(references)} reference transcripts and {len(hypotheses)} hypotheses.")


def _alignments(references: Sequence[str], hypotheses: Sequence[str], unit: Unit) -> Iterator[list[Pair]]:
    if not references:
        return
    jiwer = _jiwer()
    process = jiwer.process_words if unit == "word" else jiwer.process_characters
    found = process(list(references), list(hypotheses))
    for said, heard, chunks in zip(found.references, found.hypotheses, found.alignments, strict=True):
        pairs = []
        for chunk in chunks:
            words = said[chunk.ref_start_idx : chunk.ref_end_idx]
            others = heard[chunk.hyp_start_idx : chunk.hyp_end_idx]
            both = itertools.zip_longest(words, others, fillvalue="")
            pairs += [Pair(_KINDS[chunk.type], word, other) for word, other in both]
        yield pairs


def _jiwer() -> ModuleType:
    try:
        import jiwer
    except ImportError as error:
        raise MissingExtraError("jiwer", "speech") from error
    return jiwer
