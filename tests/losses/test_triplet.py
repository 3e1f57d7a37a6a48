"""The triplet loss and its miners: against the equation in plain loops and against pytorch-metric-learning."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning import distances, losses, miners, reducers
from torch.utils._python_dispatch import TorchDispatchMode

from intermodal.losses import triplet
from intermodal.losses.distances import rowwise_distance
from intermodal.losses.miners import batch_hard
from intermodal.losses.triplet import batch_triplet_loss, triplet_loss

THEIRS = {
    "euclidean": distances.LpDistance(normalize_embeddings=False),
    "squared_euclidean": distances.LpDistance(normalize_embeddings=False, power=2),
    "cosine": distances.CosineSimilarity(),
}


def triplets(x, labels, mining, name, margin):
    """Every triplet of a kind, by three loops."""
    n = len(x)
    d = [[rowwise_distance(x[i], x[j], name) for j in range(n)] for i in range(n)]
    found = []
    for a in range(n):
        positives = [p for p in range(n) if p != a and labels[p] == labels[a]]
        negatives = [m for m in range(n) if labels[m] != labels[a]]
        if mining == "hard" and positives and negatives:
            p, m = max(positives, key=lambda p: d[a][p].item()), min(negatives, key=lambda m: d[a][m].item())
            found.append(d[a][p] - d[a][m])
        elif mining != "hard":
            pairs = [(d[a][p], d[a][m]) for p in positives for m in negatives]
            found += [p - m for p, m in pairs if mining == "all" or p < m < p + margin]
    return found


def reference(x, labels, mining, name, margin, soft, reduction):
    costs = [gap + margin for gap in triplets(x, labels, mining, name, margin)]
    costs = [(1 + c.exp()).log() if soft else c.clamp(min=0) for c in costs]
    costs = [c for c in costs if reduction == "mean" or c > 0]
    return torch.stack(costs).mean() if costs else (x * 0).sum()


def batch(count, classes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 3, dtype=torch.float64, generator=generator)
    return x.requires_grad_(), torch.randint(classes, (count,), generator=generator)


def same_gradient(ours, other, x, bound):
    assert abs(ours.item() - other.item()) < bound * max(1, abs(other.item()))
    a, b = torch.autograd.grad(ours * 3, x)[0], torch.autograd.grad(other * 3, x)[0]
    assert (a - b).abs().max() < bound * max(1, b.abs().max().item())


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(1, 9),
    classes=st.integers(1, 4),
    tile=st.sampled_from([1, 3, 5, None]),
    few=st.sampled_from([0, 8]),
    name=st.sampled_from(sorted(THEIRS)),
    mining=st.sampled_from(["all", "hard", "semihard"]),
    margin=st.sampled_from([0.2, 1.5]),
    soft=st.booleans(),
    reduction=st.sampled_from(["nonzero", "mean"]),
    seed=st.integers(0, 1000),
)
def test_equals_the_equation(count, classes, tile, few, name, mining, margin, soft, reduction, seed):
    x, labels = batch(count, classes, seed)
    expected = reference(x, labels, mining, name, margin, soft, reduction)
    before, triplet.FEW = triplet.FEW, few  # both ways of counting
    try:
        options = {"mining": mining, "distance": name, "margin": margin, "soft": soft, "reduction": reduction}
        same_gradient(batch_triplet_loss(x, labels, tile=tile, **options), expected, x, 1e-11)
    finally:
        triplet.FEW = before


def theirs(x, labels, mining, name, margin, **options):
    mine = {
        "all": lambda *_: None,
        "semihard": miners.TripletMarginMiner(margin, type_of_triplets="semihard", distance=THEIRS[name]),
        "hard": miners.BatchHardMiner(distance=THEIRS[name]),
    }[mining]
    loss = losses.TripletMarginLoss(margin, distance=THEIRS[name], **options)
    return loss(x, labels, mine(x, labels))


@pytest.mark.parametrize("mining", ["all", "semihard", "hard"])
@pytest.mark.parametrize("name", THEIRS)
def test_equals_pytorch_metric_learning(name, mining):
    for count, classes in ((40, 6), (40, 2), (12, 1), (2, 2), (1, 1)):
        for margin in (0.2, 1.0):
            x, labels = batch(count, classes)
            found = batch_triplet_loss(x, labels, mining=mining, distance=name, margin=margin, tile=9)
            same_gradient(found, theirs(x, labels, mining, name, margin), x, 1e-12)
    x, _ = batch(8, 1)
    alone = torch.arange(8)  # no positive in the batch
    found = batch_triplet_loss(x, alone, mining=mining, distance=name)
    same_gradient(found, theirs(x, alone, mining, name, 0.2), x, 1e-12)
    x, labels = batch(20, 4)
    soft = batch_triplet_loss(x, labels, mining=mining, distance=name, soft=True, reduction="mean")
    same_gradient(soft, theirs(x, labels, mining, name, 0.2, smooth_loss=True, reducer=reducers.MeanReducer()), x, 1e-9)


@pytest.mark.parametrize("mining", ["all", "semihard", "hard"])
def test_duplicates_as_in_pytorch_metric_learning(mining):
    x, labels = batch(12, 3)
    x = x.detach()
    x[6:] = x[:6].clone()
    x.requires_grad_()
    for relabelled in (labels, torch.cat((labels[:6], labels[:6]))):
        found = batch_triplet_loss(x, relabelled, mining=mining, tile=5)
        assert found.item() == pytest.approx(theirs(x, relabelled, mining, "euclidean", 0.2).item(), abs=1e-12)
        (grad,) = torch.autograd.grad(found, x)
        assert torch.isfinite(grad).all()
    same = torch.ones(6, 3, requires_grad=True)
    loss = batch_triplet_loss(same, torch.arange(6) // 2, mining=mining)
    loss.backward()
    assert loss.item() == pytest.approx(0 if mining == "semihard" else 0.2)
    assert torch.equal(same.grad, torch.zeros(6, 3))


def test_many_positives_are_searched():
    """More positives than are compared one by one: the sorted search, at its real threshold."""
    x, labels = batch(60, 2)
    assert (labels == 0).sum() > triplet.FEW + 1
    for mining in ("all", "semihard"):
        expected = reference(x.detach(), labels, mining, "euclidean", 0.5, False, "nonzero")
        assert batch_triplet_loss(x, labels, mining=mining, margin=0.5).item() == pytest.approx(expected.item())


def test_given_triplets():
    a, p, n = (batch(5, 1, seed)[0] for seed in range(3))
    d = [(a - o).square().sum(1) for o in (p, n)]
    found = triplet_loss(a, p, n, distance="squared_euclidean", margin=0.7)
    assert found.item() == pytest.approx((d[0] - d[1] + 0.7).clamp(min=0).mean().item(), rel=1e-14)
    nonzero = triplet_loss(a, p, n, distance="squared_euclidean", margin=0.7, reduction="nonzero")
    kept = (d[0] - d[1] + 0.7)[d[0] - d[1] + 0.7 > 0]
    assert nonzero.item() == pytest.approx(kept.mean().item(), rel=1e-14)
    torch_loss = F.triplet_margin_loss(a, p, n, margin=0.7, eps=0)
    assert triplet_loss(a, p, n, margin=0.7).item() == pytest.approx(torch_loss.item(), rel=1e-12)
    assert torch.autograd.gradcheck(lambda *x: triplet_loss(*x, soft=True, margin=0), (a, p, n))
    empty = torch.zeros(0, 3, requires_grad=True)
    assert triplet_loss(empty, empty, empty).item() == 0


def test_hardest_rows_are_theirs():
    x, labels = batch(30, 5)
    a, p, n = batch_hard(x, labels, tile=7)
    a2, p2, n2 = miners.BatchHardMiner(distance=THEIRS["euclidean"])(x, labels)
    assert torch.equal(a, a2)
    assert torch.equal(p, p2)
    assert torch.equal(n, n2)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), mining=st.sampled_from(["all", "hard", "semihard"]))
def test_order_does_not_matter(seed, mining):
    x, labels = batch(20, 4, seed)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(seed))
    a, b = (batch_triplet_loss(*xy, mining=mining, tile=6) for xy in ((x, labels), (x[order], 7 - labels[order])))
    assert abs(a - b) < 1e-13


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("mining", ["all", "semihard", "hard"])
@pytest.mark.parametrize("labels", [[0, 0, 1, 1], [0, 0, 0, 0], [0, 1, 2, 3]])
def test_not_a_number_is_not_hidden(labels, mining, soft):
    x = torch.randn(4, 3)
    x[1, 2] = math.nan
    assert torch.isnan(batch_triplet_loss(x, torch.tensor(labels), mining=mining, soft=soft))


@pytest.mark.parametrize("mining", ["all", "hard"])
def test_half_precision_and_autocast(mining):
    x, labels = batch(20, 4)
    half = x.detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = batch_triplet_loss(half, labels, mining=mining)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(batch_triplet_loss(half.double(), labels, mining=mining).item(), rel=1e-5)


def test_second_derivative_is_refused():
    x, labels = batch(8, 2)
    (grad,) = torch.autograd.grad(batch_triplet_loss(x, labels, mining="all"), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiated once"):
        grad.square().sum().backward()


def test_wrong_input_is_named():
    x, labels = batch(6, 2)
    with pytest.raises(ValueError, match="no mining 'easy': choose one of all, hard, semihard"):
        batch_triplet_loss(x, labels, mining="easy")
    with pytest.raises(ValueError, match="one label for each of 6"):
        batch_triplet_loss(x, labels[:5])


class Largest(TorchDispatchMode):
    """Records the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


@pytest.mark.parametrize("mining", ["all", "semihard", "hard"])
@pytest.mark.parametrize("classes", [2, 100])
def test_memory_is_linear_in_the_batch(mining, classes):
    largest = {}
    for count in (256, 512, 1024):
        x = torch.randn(count, 16).requires_grad_()
        with Largest() as mode:
            batch_triplet_loss(x, torch.arange(count) % classes, mining=mining, tile=64).backward()
        largest[count] = mode.elements
    assert largest[256] <= 64 * 64 + 64
    assert largest[1024] <= 1024 * 16
