"""Questions about words as a person asks them."""

from __future__ import annotations

import numpy as np
import pytest

from intermodal.core.errors import ConfigError, DataError
from intermodal.index.words import WordIndex


class Known:
    """A model that knows five words on a circle."""

    words = ("north", "east", "south", "west", "North")

    def word_vectors(self) -> np.ndarray:
        return np.array([[0, 2], [3, 0], [0, -1], [-1, 0], [1, 1]], np.float32)


@pytest.fixture
def index() -> WordIndex:
    return WordIndex(Known())


def test_near(index):
    found = index.near("north", 3)
    assert [(w.word, w.rank) for w in found] == [("North", 5), ("east", 2), ("west", 4)]
    assert found[0].cosine == pytest.approx(0.5**0.5, abs=1e-6)
    assert len(index.near("north", 100)) == 4, "no more than there are"
    assert [w.word for w in index.near(" NORTH ", 1)] == ["North"], "in other case"
    assert index.near("North", 1)[0].word == "north"


def test_analogy_is_3cosadd_without_the_three_words(index):
    found = index.analogy("north", "east", "west", 2)
    assert [w.word for w in found] == ["south", "North"]
    assert found[0].cosine == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda i: i.near("nroth"), r"'nroth' is not among the 5 .* did you mean 'north'\?"),
        (lambda i: i.near("zebra"), r"'zebra' is not among the 5 that the model knows\."),
        (lambda i: i.near("  "), "an empty one has no vector"),
        (lambda i: i.near("north", 0), "between 1 and 1000"),
        (lambda i: i.analogy("north", "soutx", "east"), "did you mean 'south'"),
        (lambda i: i.analogy("east", "north", "south"), "choose three different words|points"),
    ],
)
def test_questions_that_cannot_be_answered(index, ask, said):
    if "points" in said:
        model = Known()
        model.words = ("north", "east", "south", "west", "other")
        index = WordIndex(model)
        index.unit_ND[0] = index.unit_ND[1] - index.unit_ND[2]
    with pytest.raises(DataError, match=said):
        ask(index)


def test_a_model_without_words():
    with pytest.raises(ConfigError, match=r"capability 'words'.*word2vec"):
        WordIndex(object())
