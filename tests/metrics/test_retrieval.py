"""Retrieval metrics against all orders of the gallery, against torchmetrics, and against chance."""

import itertools
import math
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from intermodal.metrics import retrieval as module
from intermodal.metrics.retrieval import chance, retrieval


def rank_distribution(scores, relevant):
    """P(best relevant rank = r) for r = 1 .. M, over all orders of the gallery that the scores allow."""
    size = len(scores)
    found, orders = [Fraction(0)] * (size + 1), 0
    for order in itertools.permutations(range(size)):
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order)):
            orders += 1
            found[1 + min(order.index(i) for i in relevant)] += 1
    return [f / orders for f in found]


def brute_force(score_rows, relevant_rows, ks):
    """The definitions, with fractions."""
    rows = [rank_distribution(s, r) for s, r in zip(score_rows, relevant_rows, strict=True)]
    mixture = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    reached = list(itertools.accumulate(mixture))
    result = {f"R@{k}": float(reached[min(k, len(reached) - 1)]) for k in ks}
    return {**result, "median_rank": float(next(r for r, p in enumerate(reached) if p >= Fraction(1, 2)))}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_is_the_expectation_over_orders_of_tied_items(data):
    gallery = data.draw(st.integers(1, 6))
    queries = data.draw(st.integers(1, 4))
    levels = st.lists(st.integers(0, 2), min_size=gallery, max_size=gallery)
    scores = [data.draw(levels) for _ in range(queries)]
    relevant = [
        data.draw(st.lists(st.integers(0, gallery - 1), min_size=1, max_size=gallery, unique=True))
        for _ in range(queries)
    ]
    # With the identity as gallery, the queries are the scores.
    found = retrieval(torch.tensor(scores, dtype=torch.float32), torch.eye(gallery), relevant, ks=(1, 2, 5))
    assert found == pytest.approx(brute_force(scores, relevant, (1, 2, 5)), abs=1e-12)


@pytest.mark.parametrize("tile", [7, 2048])
def test_without_ties_it_is_sorting(monkeypatch, tile):
    monkeypatch.setattr(module, "TILE", tile)
    monkeypatch.setattr(module, "PAIRS", 11)
    torch.manual_seed(0)
    query, gallery = (F.normalize(torch.randn(n, 6), dim=1) for n in (23, 60))
    truth = torch.rand(23, 60) < 0.05
    truth[torch.arange(23), torch.arange(23)] = True
    order = (query @ gallery.T).argsort(1, descending=True)
    ranks = truth.gather(1, order).int().argmax(1) + 1
    expected = {f"R@{k}": (ranks <= k).double().mean().item() for k in (1, 5, 10)}
    expected["median_rank"] = float(ranks.median())
    assert retrieval(query, gallery, truth) == pytest.approx(expected, abs=1e-12)


def test_agrees_with_torchmetrics():
    torchmetrics = pytest.importorskip("torchmetrics")
    torch.manual_seed(1)
    query, gallery = (F.normalize(torch.randn(n, 6), dim=1) for n in (20, 30))
    truth = torch.rand(20, 30) < 0.1
    truth[:, 0] = True
    found = retrieval(query, gallery, truth)
    for k in (1, 5, 10):
        metric = torchmetrics.retrieval.RetrievalHitRate(top_k=k)
        numbers = torch.arange(20)[:, None].expand(-1, 30)
        expected = metric((query @ gallery.T).flatten(), truth.flatten(), indexes=numbers.flatten())
        assert found[f"R@{k}"] == pytest.approx(expected.item(), abs=1e-6)


def test_the_ground_truth_may_be_written_in_four_ways():
    torch.manual_seed(2)
    query, gallery = torch.randn(4, 3), torch.randn(6, 3)
    lists = [[0, 5], [1], [2, 3, 3], [0]]
    truth = torch.zeros(4, 6, dtype=torch.bool)
    for q, items in enumerate(lists):
        truth[q, items] = True
    expected = retrieval(query, gallery, truth)
    assert retrieval(query, gallery, lists) == expected
    assert retrieval(query, gallery, dict(enumerate(lists))) == expected
    single = [0, 1, 3, 0]
    assert retrieval(query, gallery, single) == retrieval(query, gallery, torch.tensor(single))
    assert retrieval(query, gallery, single) == retrieval(query, gallery, [[i] for i in single])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_collapsed_embedding_scores_as_chance(dtype):
    one = F.normalize(torch.randn(1, 48), dim=1).to(dtype)
    relevant = [[q, (q + 1) % 333, (7 * q) % 333] if q % 3 else [q] for q in range(101)]
    found = retrieval(one.expand(101, -1), one.expand(333, -1), relevant)
    assert found == chance(relevant, 101, 333)
    assert found["R@1"] < 0.01


def test_chance_is_hypergeometric():
    found = chance([[0], [1, 2], [3, 4, 5, 6]], 3, 20)
    for k in (1, 5, 10):
        expected = sum(1 - Fraction(math.comb(20 - r, k), math.comb(20, k)) for r in (1, 2, 4)) / 3
        assert found[f"R@{k}"] == pytest.approx(float(expected), abs=1e-15)
    assert chance(torch.arange(1000), 1000, 1000)["R@10"] == pytest.approx(0.01, abs=1e-15)
    assert chance(torch.arange(1000), 1000, 1000)["median_rank"] == 500
    assert chance([0], 1, 1) == {"R@1": 1, "R@5": 1, "R@10": 1, "median_rank": 1}


def test_chance_is_what_random_embeddings_score():
    torch.manual_seed(3)
    relevant = [[q, q + 400] for q in range(400)]
    runs = [retrieval(torch.randn(400, 32), torch.randn(800, 32), relevant) for _ in range(6)]
    expected = chance(relevant, 400, 800)
    for key, value in expected.items():
        mean = sum(run[key] for run in runs) / len(runs)
        spread = 0.1 * value if key == "median_rank" else 4 * math.sqrt(value / (400 * len(runs)))
        assert abs(mean - value) < spread


def test_perfect_embeddings_score_one():
    x = torch.eye(12)
    assert retrieval(x, x, torch.arange(12)) == {"R@1": 1, "R@5": 1, "R@10": 1, "median_rank": 1}


def test_wrong_input_is_named():
    query, gallery = torch.randn(3, 4), torch.randn(5, 4)
    with pytest.raises(ValueError, match=r"found \[3, 4\] and \[5, 3\]"):
        retrieval(query, gallery[:, :3], [0, 1, 2])
    with pytest.raises(ValueError, match="query 1 has none"):
        retrieval(query, gallery, [[0], [], [2]])
    with pytest.raises(ValueError, match="query 2 has none"):
        retrieval(query, gallery, {0: [0], 1: [3]})
    with pytest.raises(ValueError, match="from 0 to 4, found 0 to 5"):
        retrieval(query, gallery, [0, 1, 5])
    with pytest.raises(ValueError, match="given for query 7"):
        retrieval(query, gallery, {7: [0]})
    with pytest.raises(ValueError, match="3 queries, but relevant items for 2"):
        retrieval(query, gallery, [0, 1])
    with pytest.raises(ValueError, match=r"shape \[3, 5\], found \[5, 3\]"):
        retrieval(query, gallery, torch.ones(5, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="no queries"):
        retrieval(query[:0], gallery, [])
    with pytest.raises(ValueError, match="at least 1"):
        retrieval(query, gallery, [0, 1, 2], ks=(0,))
    gallery[2, 1] = math.nan
    with pytest.raises(ValueError, match="gallery embedding in row 2 is not finite"):
        retrieval(query, gallery, [0, 1, 2])


class Largest(TorchDispatchMode):
    """Records the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def test_memory_is_linear_in_the_gallery(monkeypatch):
    monkeypatch.setattr(module, "TILE", 64)
    monkeypatch.setattr(module, "PAIRS", 64)
    query, gallery = torch.randn(500, 8), torch.randn(1000, 8)
    with Largest() as mode:
        retrieval(query, gallery, torch.arange(500))
    assert mode.elements == 1000 * 8
