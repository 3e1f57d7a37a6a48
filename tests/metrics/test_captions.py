"""Captions' metrics against definitions written out (BLEU against sacrebleu: tests/parity/test_bleu_sacrebleu.py)."""

from __future__ import annotations

import itertools
import math
import sys

import numpy as np
import pytest

from intermodal.core.errors import MissingExtraError
from intermodal.metrics.captions import bleu_4, cider_d, distinct, meteor, rouge_l, words_of

CAPTIONS = ["A red car on a street.", "two dogs run, run", "the man", "a red red bird sits on a tree"]
REFERENCES = [
    ["a red car in the street", "a car on a street at night"],
    ["two dogs run on grass", "dogs run", "the dogs play with a ball"],
    ["a man reads a newspaper in the park"],
    ["a red bird sits on a tree", "a bird"],
]


def brute_force(captions, references):
    """CIDEr-D with dense vectors over every n-gram that occurs, straight from the paper's equations."""
    cut = lambda text, n: [" ".join(g) for g in zip(*(text[i:] for i in range(n)), strict=False)]  # noqa: E731
    said, wanted = [words_of(c) for c in captions], [[words_of(r) for r in refs] for refs in references]
    total = np.zeros((4, len(said)))
    for n in range(1, 5):
        vocabulary = sorted({g for t in [*said, *itertools.chain(*wanted)] for g in cut(t, n)})
        frequency = np.array([sum(any(g in cut(r, n) for r in refs) for refs in wanted) for g in vocabulary])
        idf = np.log(len(said)) - np.log(np.maximum(frequency, 1.0))
        vector = lambda t: np.array([cut(t, n).count(g) for g in vocabulary], float) * idf  # noqa: B023, E731
        for i, (c, refs) in enumerate(zip(said, wanted, strict=True)):
            for r in refs:
                a, b = vector(c), vector(r)
                norm = np.linalg.norm(a) * np.linalg.norm(b)
                cosine = np.minimum(a, b) @ b / norm if norm else 0.0
                total[n - 1, i] += cosine * math.exp(-((len(c) - len(r)) ** 2) / 72) / len(refs)
    return 10 * total.mean(0)


def test_cider_d_is_the_papers_equation():
    np.testing.assert_allclose(cider_d(CAPTIONS, REFERENCES), brute_force(CAPTIONS, REFERENCES), rtol=1e-12)
    generator = np.random.default_rng(0)
    said = [" ".join(generator.choice(list("abcdef"), generator.integers(0, 9))) for _ in range(20)]
    refs = [[" ".join(generator.choice(list("abcdefg"), 6)) for _ in range(generator.integers(1, 4))] for _ in said]
    np.testing.assert_allclose(cider_d(said, refs), brute_force(said, refs), rtol=1e-12, atol=1e-15)


def test_cider_d_by_hand():
    # Two pictures, one word in common: "a" weighs log(2/2) = 0, "b" and "c" weigh log 2. Of "a b", one bigram is "a b".
    perfect, none = cider_d(["a b", "a d"], [["a b"], ["a c"]])
    assert perfect == pytest.approx(10 * (1 + 1) / 4)  # cosine 1 for n = 1 and 2, nothing for n = 3 and 4
    assert none == 0.0
    (longer, _) = cider_d(["a b b", "x"], [["a b"], ["a c"]])
    clipped = 1 * 1 / (2 * 1)  # "b" counts 2 and is clipped to 1
    bigrams = 1 / math.sqrt(2)  # "a b" of "a b" and "b b"
    assert longer == pytest.approx(10 * (clipped + bigrams) / 4 * math.exp(-1 / 72))


def test_bleu_by_hand():
    # "a b c d e" against "a b c d f": 4 of 5, 3 of 4, 2 of 3, 1 of 2, of equal length.
    assert bleu_4(["a b c d e"], [["a b c d f"]]) == pytest.approx((4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)
    # Cut at four words, all right, beside five: the brevity penalty alone.
    assert bleu_4(["a b c d"], [["a b c d f"]]) == pytest.approx(math.exp(1 - 5 / 4))
    assert bleu_4(["cat"], [["a dog"]]) == 0.0


def test_rouge_l_by_hand():
    # "the cat sat" in "the big cat sat down": all three words in order, recall 3/5.
    (score,) = rouge_l(["the cat sat"], [["the big cat sat down"]])
    assert score == pytest.approx((1 + 1.44) * 1 * 0.6 / (0.6 + 1.44 * 1))
    assert rouge_l(["x", ""], [["a b"], ["c"]]) == [0.0, 0.0]
    assert rouge_l(["b a"], [["a b", "b a c"]])[0] == pytest.approx(2.44 * (2 / 3) / (2 / 3 + 1.44))


def test_distinct_captions_and_what_is_refused():
    assert distinct(["A dog.", "a dog", "a cat", "two"]) == 0.75
    assert distinct([]) == 1.0
    with pytest.raises(ValueError, match="references"):
        cider_d(["a"], [[]])


def test_meteor_by_hand():
    # All three words match in one run: F = 1, and the penalty is 0.5 * (1 run / 3 words)^3.
    same, shuffled, none, stem = meteor(
        ["a red car", "car red a", "two dogs", "running dog"],
        [["a red car"], ["a red car"], ["a red car"], ["runs dogs", "a cat"]],
    )
    assert same == pytest.approx(1 - 0.5 / 27)
    assert shuffled == pytest.approx(1 - 0.5)  # three runs of one word each
    assert none == 0.0
    assert stem == pytest.approx(1 - 0.5 / 8)  # both by their stems, in one run of two
    # Two of four words said are right, two of three wanted are met: F = PR / (0.9 P + 0.1 R), one run of two matches.
    (part,) = meteor(["a red big bird"], [["a red car"]])
    precision, recall = 2 / 4, 2 / 3
    assert part == pytest.approx(precision * recall / (0.9 * precision + 0.1 * recall) * (1 - 0.5 / 8))


def test_meteor_names_the_extra_it_lacks(monkeypatch):
    monkeypatch.setitem(sys.modules, "nltk.translate.meteor_score", None)
    with pytest.raises(MissingExtraError, match=r"intermodal\[captions\]"):
        meteor(["a"], [["a"]])
