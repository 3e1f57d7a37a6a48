"""Error rates against an edit distance by brute force, and the interval against cases that can be solved."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intermodal.core.errors import DataError, MissingExtraError
from intermodal.metrics.speech import (
    Errors,
    Pair,
    align,
    bootstrap,
    confusions,
    count,
    error_rate,
    errors,
    normalise,
    total,
)

words = st.lists(st.sampled_from(["one", "two", "three", "o"]), max_size=7).map(" ".join)


def distance(said: list[str], heard: list[str]) -> int:
    """The edit distance by its recursion, every way tried."""
    if not said or not heard:
        return len(said) + len(heard)
    here = distance(said[1:], heard[1:]) + (said[0] != heard[0])
    return min(here, distance(said[1:], heard) + 1, distance(said, heard[1:]) + 1)


@given(words, words)
def test_the_alignment_is_the_cheapest_and_spells_both(said: str, heard: str) -> None:
    pairs = align(said, heard)
    assert [p.reference for p in pairs if p.reference] == said.split()
    assert [p.hypothesis for p in pairs if p.hypothesis] == heard.split()
    found = count(pairs)
    assert found.wrong == distance(said.split(), heard.split())
    assert found.units == len(said.split()) and found.units - found.deletions + found.insertions == len(heard.split())
    for pair in pairs:
        kind = {(True, True): "substitution", (True, False): "deletion", (False, True): "insertion"}
        same = pair.reference == pair.hypothesis
        assert pair.kind == ("right" if same else kind[bool(pair.reference), bool(pair.hypothesis)])


@given(st.text("ab ", max_size=6).map(normalise), st.text("ab ", max_size=6).map(normalise))
def test_characters(said: str, heard: str) -> None:
    assert errors([said], [heard], "character")[0].wrong == distance(list(said), list(heard))


def test_a_set_is_no_mean_of_rates() -> None:
    references, hypotheses = ["one two three", "four"], ["one too", "four five"]
    assert errors(references, hypotheses) == [Errors(1, 1, 1, 0), Errors(1, 0, 0, 1)]
    assert total(errors(references, hypotheses)) == Errors(2, 1, 1, 1)
    assert error_rate(references, hypotheses) == 3 / 4
    assert error_rate(["a"], ["a b c d"]) == 3.0, "insertions alone can exceed one"
    assert error_rate(["ab", "cd"], ["ab", "xd"], "character") == 1 / 4
    assert confusions(references, hypotheses) == {("two", "too"): 1, ("three", ""): 1, ("", "five"): 1}
    assert align("one two", "two") == [Pair("deletion", "one", ""), Pair("right", "two", "two")]


@pytest.mark.parametrize(
    ("text", "judged"),
    [
        ("  HELLO,\tWorld!\n", "hello world"),
        ("It\u2019s nine-thirty.", "it's nine thirty"),
        ("'quoted' rock 'n' roll", "quoted rock n roll"),
        ("STRASSE straße", "strasse strasse"),
        ("é e\u0301 ﬁ", "é é fi"),
        ("नमस्ते", "नमस्ते"),
        ("3.5 m²", "3 5 m2"),
        ("?!", ""),
        ("", ""),
    ],
)
def test_normalisation(text: str, judged: str) -> None:
    assert normalise(text) == judged
    assert normalise(judged) == judged


def test_silence_counts_by_what_is_inserted() -> None:
    assert errors(["", "a"], ["x", "a"]) == [Errors(0, 0, 0, 1), Errors(1, 0, 0, 0)]
    assert error_rate(["", "a"], ["x", "a"]) == 1.0
    assert np.isnan(errors([""], ["x"])[0].rate)
    assert errors([], []) == []
    for call in (lambda: error_rate(["."], ["a"]), lambda: bootstrap([Errors(0, 0, 0, 1)]), lambda: bootstrap([])):
        with pytest.raises(DataError, match="no word"):
            call()
    with pytest.raises(DataError, match="2 reference transcripts and 1 hypo"):
        errors(["a", "b"], ["a"])


def test_the_interval_is_that_of_resampled_utterances() -> None:
    rng = np.random.default_rng(1)
    each = [Errors(int(10 - w), int(w), 0, 0) for w in rng.integers(0, 4, 200)]
    low, high = bootstrap(each)
    rate = np.array([e.rate for e in each])
    spread = 1.96 * rate.std() / np.sqrt(len(rate))  # equal lengths: the rate is a mean, so the normal interval holds
    assert low == pytest.approx(rate.mean() - spread, abs=0.003)
    assert high == pytest.approx(rate.mean() + spread, abs=0.003)
    assert bootstrap(each) == (low, high) != bootstrap(each, seed=1)
    assert bootstrap([Errors(3, 1, 0, 0)]) == (0.25, 0.25)
    # Two utterances: a quarter of the resampled sets is twice the first, a quarter twice the second, half are mixed.
    two = [Errors(1, 0, 0, 0), Errors(0, 1, 0, 0)]
    assert bootstrap(two, level=0.6) == (0.0, 1.0) and bootstrap(two, level=0.4) == (0.5, 0.5)


def test_without_jiwer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jiwer", None)
    with pytest.raises(MissingExtraError, match=r"intermodal\[speech\]"):
        align("a", "b")
