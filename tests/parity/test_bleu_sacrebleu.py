"""BLEU-4 of captions against sacrebleu, with one to three references."""

import itertools

import numpy as np
import pytest

from intermodal.metrics.captions import bleu_4, words_of

sacrebleu = pytest.importorskip("sacrebleu", reason="sacrebleu is installed in the vision environment only")

pytestmark = pytest.mark.vision
CAPTIONS = ["A red car on a street.", "two dogs run, run", "the man", "a red red bird sits on a tree"]
REFERENCES = [
    ["a red car in the street", "a car on a street at night"],
    ["two dogs run on grass", "dogs run", "the dogs play with a ball"],
    ["a man reads a newspaper in the park"],
    ["a red bird sits on a tree", "a bird"],
]


def random_pairs():
    draw = np.random.default_rng(0)
    said = [" ".join(draw.choice(list("abcd"), draw.integers(1, 12))) for _ in range(30)]
    return said, [[" ".join(draw.choice(list("abcd"), draw.integers(1, 12))) for _ in range(3)] for _ in said]


@pytest.mark.parametrize("pairs", [(CAPTIONS, REFERENCES), random_pairs()], ids=["sentences", "random"])
def test_bleu_is_sacrebleus(pairs):
    said, references = pairs
    streams = [list(s) for s in itertools.zip_longest(*([" ".join(words_of(r)) for r in refs] for refs in references))]
    plain = [" ".join(words_of(c)) for c in said]
    wanted = sacrebleu.corpus_bleu(plain, streams, tokenize="none", smooth_method="none").score / 100
    assert 0 < bleu_4(said, references) == pytest.approx(wanted, rel=1e-9)
