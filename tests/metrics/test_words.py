"""Nearest words, analogies, rank correlation, clusters and the map."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intermodal.metrics.words import analogy_queries, clusters, kl_gradient, nearest, spearman, tsne, unit_rows


def test_nearest_is_brute_force():
    rng = np.random.default_rng(0)
    unit, queries = unit_rows(rng.standard_normal((700, 9))), rng.standard_normal((600, 9)).astype(np.float32)
    exclude = [[i, 3] for i in range(600)]
    rows, cosines = nearest(unit, queries, 5, exclude)
    score = unit_rows(queries) @ unit.T
    for i in range(600):
        score[i, exclude[i]] = -np.inf
    expected = np.argsort(-score, axis=1)[:, :5]
    assert (rows == expected).all()
    assert cosines == pytest.approx(np.take_along_axis(score, expected, 1), abs=1e-6)
    assert nearest(unit[:4], queries[:1], 4)[0].shape == (1, 4)


def test_a_vector_of_zeros_stays_one():
    assert not unit_rows(np.zeros((2, 3))).any()


def test_analogies_are_offsets():
    unit = unit_rows(np.random.default_rng(0).standard_normal((10, 4)))
    assert analogy_queries(unit, np.array([[1, 2, 3]]))[0] == pytest.approx(unit[2] - unit[1] + unit[3])


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=30))
@settings(deadline=None)
def test_spearman_is_pearson_of_mean_ranks(pairs):
    x, y = (np.array(v, float) for v in zip(*pairs, strict=True))
    found = spearman(x, y)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert np.isnan(found)
        return
    ranks = [[(np.sum(v < one) + np.sum(v <= one) + 1) / 2 for one in v] for v in (x, y)]
    assert found == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-12)
    assert spearman(x, y**3) == pytest.approx(found)


def test_spearman_of_too_little_is_nan():
    assert np.isnan(spearman([1.0], [2.0]))


def blobs(count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    centres = 5 * rng.standard_normal((3, 12))
    group = np.arange(count) % 3
    return centres[group] + rng.standard_normal((count, 12)), group


def test_clusters_find_groups():
    points, group = blobs()
    found = clusters(unit_rows(points), 3)
    assert all(len(set(found[group == g])) == 1 for g in range(3)) and len(set(found)) == 3
    assert (clusters(unit_rows(points), 3) == found).all(), "same seed, same clusters"


def test_the_map_keeps_neighbours_together():
    points, group = blobs()
    place = tsne(points)
    assert place.shape == (60, 2) and np.isfinite(place).all() and (tsne(points) == place).all()
    distance = ((place[:, None] - place) ** 2).sum(-1)
    np.fill_diagonal(distance, np.inf)
    assert (group[np.argsort(distance, axis=1)[:, :5]] == group[:, None]).all()
    assert np.isfinite(tsne(np.ones((5, 3)))).all(), "equal points"


def test_the_gradient_is_that_of_the_divergence():
    rng = np.random.default_rng(0)
    place, joint = rng.standard_normal((6, 2)), rng.random((6, 6))
    joint = (joint + joint.T) * (1 - np.eye(6))
    joint /= joint.sum()

    def divergence(at: np.ndarray) -> float:
        near = 1 / (1 + ((at[:, None] - at) ** 2).sum(-1)) * (1 - np.eye(6))
        other = ~np.eye(6, dtype=bool)
        return float((joint[other] * np.log(joint[other] / (near / near.sum())[other])).sum())

    numeric = np.zeros_like(place)
    for i in np.ndindex(place.shape):
        step = np.zeros_like(place)
        step[i] = 1e-5
        numeric[i] = (divergence(place + step) - divergence(place - step)) / 2e-5
    assert kl_gradient(place, joint) == pytest.approx(numeric, abs=1e-8)
