"""AUROC against the definition, pair by pair, and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intermodal.core.errors import DataError
from intermodal.metrics.detection import auroc

SCORES = st.lists(st.integers(-3, 3), min_size=1, max_size=12)


@given(SCORES, SCORES)
def test_it_is_the_share_of_pairs_in_order_with_ties_as_halves(positive, negative):
    pairs = [(p > n) + (p == n) / 2 for p in positive for n in negative]
    assert auroc(np.array(positive), np.array(negative)) == pytest.approx(np.mean(pairs), abs=1e-12)


@given(SCORES, SCORES)
def test_it_depends_on_the_order_alone_and_turns_with_the_sides(positive, negative):
    p, n = np.array(positive, float), np.array(negative, float)
    assert auroc(np.exp(p), np.exp(n)) == auroc(p, n)
    assert auroc(n, p) == pytest.approx(1 - auroc(p, n), abs=1e-12)


def test_it_equals_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    p, n = rng.normal(0.5, 1, 300).round(1), rng.normal(0, 1, 200).round(1)
    truth = np.r_[np.ones(300), np.zeros(200)]
    assert auroc(p, n) == pytest.approx(metrics.roc_auc_score(truth, np.r_[p, n]), abs=1e-12)


def test_extremes():
    assert auroc(np.array([2.0, 3.0]), np.array([1.0])) == 1.0
    assert auroc(np.array([1.0]), np.array([2.0, 3.0])) == 0.0
    assert auroc(np.ones(5), np.ones(7)) == 0.5
    assert auroc(np.array([np.inf]), np.array([1e300])) == 1.0


def test_bad_input_is_a_sentence():
    with pytest.raises(DataError, match="0 positives and 1 negatives"):
        auroc(np.zeros(0), np.zeros(1))
    with pytest.raises(DataError, match="not numbers"):
        auroc(np.array([np.nan]), np.zeros(1))
