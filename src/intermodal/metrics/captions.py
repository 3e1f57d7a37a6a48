"""How near captions are to those that people wrote: CIDEr-D, BLEU-4, ROUGE-L, METEOR, and how much captions repeat.

All work on words: lower-cased runs of letters and digits, an apostrophe inside included; punctuation is left out, as by the
scorer of COCO's captions. METEOR is nltk's. SPICE is not here: it needs a parser in Java.

B pictures, each with a caption and one or more references.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from intermodal.core.errors import MissingExtraError

Grams = Counter[tuple[str, ...]]
MOST = 4
"""The longest n-grams."""
SIGMA = 6.0
"""Of CIDEr-D's length penalty, in words."""
BETA = 1.2
"""How much more ROUGE-L's recall counts than its precision."""


def words_of(text: str) -> list[str]:
    """Return the words of a text, lower-cased, without punctuation."""
    return re.findall(r"\w+(?:['’]\w+)*", text.lower())


def grams(words: Sequence[str], n: int) -> Grams:
    """Return how often each n-gram occurs."""
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


# --8<-- [start:cider]
def cider_d(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Return CIDEr-D of each caption, from 0 to 10 (Vedantam et al. 2015, equations 1 to 4 and section 3.3.3).

    An n-gram weighs ``count * log(B / df)``, where ``df`` is the number of pictures that have it in a reference (1 where
    none has). The similarity of a caption to a reference is the cosine of both vectors of weights, its own clipped to the
    reference's, times ``exp(-(difference of lengths)^2 / (2 * 6^2))``; it is averaged over references and over n from 1 to
    4, and multiplied by 10.

    Raises:
        ValueError: if there are not as many captions as references, or a picture has none.
    """
    _check(captions, references)
    said = [words_of(caption) for caption in captions]
    wanted = [[words_of(text) for text in texts] for texts in references]
    scores = [0.0] * len(said)
    for n in range(1, MOST + 1):
        in_pictures: Counter[tuple[str, ...]] = Counter()
        for texts in wanted:
            in_pictures.update(set().union(*(grams(text, n) for text in texts)))
        weigh = {gram: math.log(len(said) / count) for gram, count in in_pictures.items()}
        new = math.log(len(said)) if said else 0.0
        for i, (caption, texts) in enumerate(zip(said, wanted, strict=True)):
            one = {gram: count * weigh.get(gram, new) for gram, count in grams(caption, n).items()}
            total = 0.0
            for text in texts:
                other = {gram: count * weigh[gram] for gram, count in grams(text, n).items()}
                dot = sum(min(weight, other[gram]) * other[gram] for gram, weight in one.items() if gram in other)
                norms = math.hypot(*one.values()) * math.hypot(*other.values())
                penalty = math.exp(-((len(caption) - len(text)) ** 2) / (2 * SIGMA**2))
                total += penalty * dot / norms if norms else 0.0
            scores[i] += 10.0 * total / len(texts) / MOST
    return scores


# --8<-- [end:cider]


def bleu_4(captions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Return BLEU-4 of all captions together, from 0 to 1, without smoothing (Papineni et al. 2002, section 2.3).

    Raises:
        ValueError: as :func:`cider_d`.
    """
    _check(captions, references)
    right, made, length, wanted = [0] * MOST, [0] * MOST, 0, 0
    for caption, texts in zip(captions, references, strict=True):
        said, others = words_of(caption), [words_of(text) for text in texts]
        length += len(said)
        wanted += min((abs(len(text) - len(said)), len(text)) for text in others)[1]
        for n in range(1, MOST + 1):
            most: Grams = Counter()
            for text in others:
                most |= grams(text, n)
            found = grams(said, n)
            right[n - 1] += (found & most).total()
            made[n - 1] += found.total()
    if not all(right):
        return 0.0
    precision = math.exp(sum(math.log(r / m) for r, m in zip(right, made, strict=True)) / MOST)
    return precision * min(1.0, math.exp(1 - wanted / length))


def rouge_l(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Return ROUGE-L of each caption, 0 to 1 (Lin 2004, section 3): the longest common subsequence with a reference.

    Precision and recall are the best over the references, recall counting 1.2 times as much.

    Raises:
        ValueError: as :func:`cider_d`.
    """
    _check(captions, references)
    scores = []
    for caption, texts in zip(captions, references, strict=True):
        said, precision, recall = words_of(caption), 0.0, 0.0
        for text in map(words_of, texts):
            common = _common(said, text)
            precision = max(precision, common / max(len(said), 1))
            recall = max(recall, common / max(len(text), 1))
        both = (1 + BETA**2) * precision * recall
        scores.append(both / (recall + BETA**2 * precision) if both else 0.0)
    return scores


def meteor(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Return METEOR of each caption, 0 to 1, the best over its references (Lavie and Agarwal 2007), computed by nltk.

    Words match that are equal or have Porter's stem in common; WordNet's synonyms, which the published scorer adds, are left
    out: nltk looks for them among stems, where it misses most. ``0.9`` of the harmonic mean's weight is on recall, and up to
    half is taken off for matches that are torn apart.

    Raises:
        ValueError: as :func:`cider_d`.
        MissingExtraError: without nltk.
    """
    _check(captions, references)
    try:
        from nltk.translate.meteor_score import meteor_score
    except ImportError as error:
        raise MissingExtraError("nltk", "captions") from error
    return [
        float(meteor_score([words_of(text) for text in texts], words_of(caption), wordnet=_NoSynonyms()))
        for caption, texts in zip(captions, references, strict=True)
    ]


class _NoSynonyms:
    """A dictionary in nltk's form that knows no word."""

    def synsets(self, word: str) -> list[Any]:
        """Return nothing."""
        del word
        return []


def distinct(captions: Sequence[str]) -> float:
    """Return the share of captions that differ in their words, from above 0 to 1; 1 for no caption at all."""
    return len({tuple(words_of(caption)) for caption in captions}) / len(captions) if captions else 1.0


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """Return the length of the longest common subsequence."""
    row = [0] * (len(other) + 1)
    for word in one:
        before = 0
        for j, against in enumerate(other, 1):
            before, row[j] = row[j], before + 1 if word == against else max(row[j], row[j - 1])
    return row[-1]


def _check(captions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if len(captions) != len(references) or not all(references):
        raise ValueError(f"{len(captions)} captions need references each, found {len(references)} lists of them.")
