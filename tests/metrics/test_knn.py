"""k-NN against a brute-force reading of the definition, and its edge cases."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intermodal.metrics import knn as module
from intermodal.metrics.classification import top_k_accuracy
from intermodal.metrics.knn import knn_scores


def normal(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand(train, labels, queries, classes, k, temperature):
    """Wu et al. 2018, section 3.4, as loops in float64."""
    out = []
    for q in queries.tolist():
        cosines = []
        for x, y in zip(train.tolist(), labels.tolist(), strict=True):
            dot = sum(a * b for a, b in zip(q, x, strict=True))
            cosines.append((dot / math.hypot(*q) / math.hypot(*x), y))
        votes = [0.0] * classes
        for similarity, y in sorted(cosines, reverse=True)[:k]:
            votes[y] += 1.0 if temperature is None else math.exp(similarity / temperature)
        out.append([v / sum(votes) for v in votes])
    return torch.tensor(out)


@pytest.mark.parametrize("temperature", [0.07, 0.5, None])
@pytest.mark.parametrize("k", [1, 5, 40])
@pytest.mark.parametrize("tile", [1, 1 << 23])
def test_is_the_definition(monkeypatch, temperature, k, tile):
    monkeypatch.setattr(module, "TILE", tile)
    train, queries = normal(40, 6), normal(11, 6, 1)
    labels = torch.arange(40) % 4
    found = knn_scores(train, labels, queries, classes=5, k=k, temperature=temperature)
    torch.testing.assert_close(found, by_hand(train, labels, queries, 5, k, temperature), atol=1e-5, rtol=0)
    assert found.dtype == torch.float32 and (found[:, 4] == 0).all()


def test_agrees_with_scikit_learn():
    neighbors = pytest.importorskip("sklearn.neighbors")
    train, queries = normal(300, 8), normal(90, 8, 1)
    labels = torch.randint(0, 6, (300,), generator=torch.Generator().manual_seed(0))
    reference = neighbors.KNeighborsClassifier(7, metric="cosine").fit(train.numpy(), labels.numpy())
    found = knn_scores(train, labels, queries, classes=6, k=7, temperature=None)
    torch.testing.assert_close(
        found.double(), torch.from_numpy(reference.predict_proba(queries.numpy())), atol=1e-4, rtol=0
    )


def test_neighbours_level_with_the_last_share_its_places():
    # One neighbour is nearer; of the three that tie for the second place each counts a third.
    train = torch.tensor([[1.0, 0], [0, 1], [0, 1], [0, 1], [-1, 0]])
    labels = torch.tensor([0, 1, 2, 2, 3])
    found = knn_scores(train, labels, torch.tensor([[1.0, 0.5]]), classes=4, k=2, temperature=None)
    torch.testing.assert_close(found, torch.tensor([[0.5, 1 / 6, 2 / 6, 0]]), atol=1e-5, rtol=0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 9))
def test_the_order_of_the_training_features_does_not_matter(seed, k):
    generator = torch.Generator().manual_seed(seed)
    train = torch.randint(-1, 2, (24, 3), generator=generator).float()  # many duplicates, and zero vectors
    labels = torch.randint(0, 4, (24,), generator=generator)
    queries = torch.randint(-1, 2, (6, 3), generator=generator).float()
    order = torch.randperm(24, generator=generator)
    one = knn_scores(train, labels, queries, classes=4, k=k)
    two = knn_scores(train[order], labels[order], queries, classes=4, k=k)
    torch.testing.assert_close(one, two, atol=3e-5, rtol=0)
    assert torch.isfinite(one).all()
    torch.testing.assert_close(one.sum(1), torch.ones(6), atol=1e-5, rtol=0)


def test_a_constant_embedding_is_chance():
    labels = torch.arange(200) % 10
    scores = knn_scores(torch.ones(200, 16), labels, torch.ones(50, 16), classes=10)
    assert top_k_accuracy(scores, torch.arange(50) % 10) == {"top1": pytest.approx(0.1), "top5": pytest.approx(0.5)}


def test_edge_cases():
    one = torch.ones(1, 3)
    assert knn_scores(one, torch.tensor([2]), one, classes=3).tolist() == [[0, 0, 1]], "one training feature, one query"
    assert knn_scores(one, torch.tensor([0]), one[:0], classes=1).shape == (0, 1)
    assert knn_scores(one, torch.tensor([0]), -one, classes=1, temperature=1e-3).tolist() == [[1]], "no underflow"
    broken = torch.ones(4, 3)
    broken[2, 1] = torch.nan
    labels = torch.zeros(4, dtype=torch.int64)
    for change, words in (
        ((broken, labels, one, 1), "training feature in row 2"),
        ((one.repeat(4, 1), labels, broken, 1), "query in row 2"),
        ((one.repeat(4, 1), labels[:3], one, 1), "4 integers"),
        ((one.repeat(4, 1), labels.float(), one, 1), "4 integers"),
        ((one.repeat(4, 1), labels + 1, one, 1), "from 0 to 0"),
        ((one[:0], labels[:0], one, 1), "N and D at least 1"),
        ((one, labels[:1], torch.ones(1, 2), 1), "must have shapes"),
    ):
        train, names, queries, classes = change
        with pytest.raises(ValueError, match=words):
            knn_scores(train, names, queries, classes=classes)
    for wrong in ({"k": 0}, {"temperature": 0.0}):
        with pytest.raises(ValueError, match="must be positive"):
            knn_scores(one, labels[:1], one, classes=1, **wrong)
