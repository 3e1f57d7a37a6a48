"""The pair loss: against the equation in plain loops and against pytorch-metric-learning."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning import distances, losses, reducers

from intermodal.losses.distances import rowwise_distance
from intermodal.losses.pair import batch_pair_loss, pair_loss

THEIRS = {
    "euclidean": distances.LpDistance(normalize_embeddings=False),
    "squared_euclidean": distances.LpDistance(normalize_embeddings=False, power=2),
    "cosine": distances.CosineSimilarity(),
}


def theirs(name, pos, neg, **options):
    if name == "cosine":
        pos, neg = 1 - pos, 1 - neg
    return losses.ContrastiveLoss(pos, neg, distance=THEIRS[name], **options)


def reference(x, labels, name, pos, neg, squared, reduction):
    """Equation 4 of Hadsell et al. over every ordered pair, one at a time."""
    kinds = {True: [], False: []}
    for i in range(len(x)):
        for j in range(len(x)):
            if i != j:
                same = bool(labels[i] == labels[j])
                d = rowwise_distance(x[i], x[j], name)
                cost = (d - pos if same else neg - d).clamp(min=0)
                kinds[same].append(cost**2 / 2 if squared else cost)
    loss = (x * 0).sum()
    for costs in kinds.values():
        if reduction == "nonzero":
            costs = [c for c in costs if c > 0]
        if costs:
            loss = loss + torch.stack(costs).mean()
    return loss


def batch(count, classes, seed=0, duplicates=True):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 4, dtype=torch.float64, generator=generator)
    labels = torch.randint(classes, (count,), generator=generator)
    if duplicates:
        x[count // 2 :: 3] = x[0].clone()
    return x.requires_grad_(), labels


def same_gradient(ours, other, x, bound):
    assert abs(ours.item() - other.item()) < bound * max(1, abs(other.item()))
    a, b = torch.autograd.grad(ours * 3, x)[0], torch.autograd.grad(other * 3, x)[0]
    assert (a - b).abs().max() < bound * max(1, b.abs().max().item())


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(1, 9),
    classes=st.integers(1, 4),
    tile=st.sampled_from([1, 2, 3, 5, None]),
    name=st.sampled_from(sorted(THEIRS)),
    margins=st.sampled_from([(0.0, 1.0), (0.3, 2.5)]),
    squared=st.booleans(),
    reduction=st.sampled_from(["nonzero", "mean"]),
    seed=st.integers(0, 1000),
)
def test_equals_the_equation(count, classes, tile, name, margins, squared, reduction, seed):
    x, labels = batch(count, classes, seed, duplicates=margins[0] == 0 and name != "cosine")
    expected = reference(x, labels, name, *margins, squared, reduction)
    pos, neg = margins
    found = batch_pair_loss(
        x, labels, distance=name, pos_margin=pos, neg_margin=neg, squared=squared, reduction=reduction, tile=tile
    )
    same_gradient(found, expected, x, 1e-10)


@pytest.mark.parametrize("tile", [None, 7])
@pytest.mark.parametrize("margins", [(0.0, 1.0), (0.3, 4.0)])
@pytest.mark.parametrize("name", THEIRS)
def test_equals_pytorch_metric_learning(name, margins, tile):
    for count, classes in ((30, 5), (30, 1), (2, 1), (1, 1)):
        x, labels = batch(count, classes, duplicates=name != "cosine")
        found = batch_pair_loss(x, labels, distance=name, pos_margin=margins[0], neg_margin=margins[1], tile=tile)
        same_gradient(found, theirs(name, *margins)(x, labels), x, 1e-12)
    x, _ = batch(8, 1)
    alone = torch.arange(8)
    same_gradient(batch_pair_loss(x, alone, distance=name), theirs(name, 0, 1)(x, alone), x, 1e-12)
    mean = batch_pair_loss(x, alone // 3, distance=name, reduction="mean")
    same_gradient(mean, theirs(name, 0, 1, reducer=reducers.MeanReducer())(x, alone // 3), x, 1e-12)


def test_given_pairs():
    x, y = (batch(6, 1, seed, duplicates=False)[0] for seed in (0, 1))
    same = torch.tensor([1, 0, 1, 0, 0, 1], dtype=torch.bool)
    d = (x - y).square().sum(1).sqrt()
    terms = [t**2 / 2 if s else max(0, 3 - t) ** 2 / 2 for t, s in zip(d.tolist(), same, strict=True)]
    assert pair_loss(x, y, same, neg_margin=3).item() == pytest.approx(sum(terms) / 6, rel=1e-14)
    plain = [t if s else max(0, 3 - t) for t, s in zip(d.tolist(), same, strict=True)]
    assert pair_loss(x, y, same, neg_margin=3, squared=False).item() == pytest.approx(sum(plain) / 6, rel=1e-14)
    assert torch.autograd.gradcheck(lambda a, b: pair_loss(a, b, same, neg_margin=3), (x, y))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_order_does_not_matter(seed):
    x, labels = batch(20, 4, seed)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(seed))
    a, b = batch_pair_loss(x, labels, tile=6), batch_pair_loss(x[order], 7 - labels[order], tile=6)
    assert abs(a - b) < 1e-13


@pytest.mark.parametrize("name", THEIRS)
def test_equal_embeddings_have_a_zero_gradient(name):
    x = torch.ones(6, 3, requires_grad=True)
    loss = batch_pair_loss(x, torch.arange(6) // 2, distance=name)
    loss.backward()
    assert loss.item() == pytest.approx(1, abs=1e-6)  # every negative costs the whole margin
    assert x.grad.abs().max() < 1e-6
    two = torch.ones(2, 3, requires_grad=True)
    pair_loss(two[:1], two[1:], torch.tensor([False]), distance=name).backward()
    assert two.grad.abs().max() < 1e-6


@pytest.mark.parametrize("labels", [[0, 0, 1, 1], [0, 0, 0, 0], [0, 1, 2, 3]])
def test_not_a_number_is_not_hidden(labels):
    x = torch.randn(4, 3)
    x[1, 2] = math.nan
    assert torch.isnan(batch_pair_loss(x, torch.tensor(labels)))


def test_half_precision_and_autocast():
    x, labels = batch(20, 4)
    half = x.detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = batch_pair_loss(half, labels, neg_margin=3.0)
    loss.backward()
    assert loss.dtype == torch.float32
    assert half.grad.dtype == torch.bfloat16
    assert loss.item() == pytest.approx(batch_pair_loss(half.double(), labels, neg_margin=3.0).item(), rel=1e-5)


def test_second_derivative_is_refused():
    x, labels = batch(6, 2)
    (grad,) = torch.autograd.grad(batch_pair_loss(x, labels), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiated once"):
        grad.square().sum().backward()


def test_wrong_input_is_named():
    x, labels = batch(6, 2)
    with pytest.raises(ValueError, match=r"one label for each of 6 embeddings, found shape \[5\]"):
        batch_pair_loss(x, labels[:5])
    with pytest.raises(ValueError, match=r"integers, found torch\.float32"):
        batch_pair_loss(x, labels.float())
    with pytest.raises(ValueError, match="no distance 'l1'"):
        batch_pair_loss(x, labels, distance="l1")
    with pytest.raises(ValueError, match="no reduction 'sum'"):
        batch_pair_loss(x, labels, reduction="sum")
    with pytest.raises(ValueError, match="tile must be at least 1, found 0"):
        batch_pair_loss(x, labels, tile=0)
    with pytest.raises(ValueError, match=r"found \[0, 4\]"):
        batch_pair_loss(x[:0], labels[:0])
    with pytest.raises(ValueError, match="one value for each of 6 pairs"):
        pair_loss(x, x, labels[:3].bool())
