"""Skip-gram with negative sampling: against the equation in plain loops."""

import math

import pytest
import torch

from intermodal.losses.sgns import sgns


def vectors(batch=5, k=3, dim=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((batch, dim), (batch, dim), (batch, k, dim))
    return [torch.randn(s, dtype=torch.float64, generator=generator).requires_grad_() for s in shapes]


def log_sigmoid(x):
    return -math.log(1 + math.exp(-x))


def reference(centre, context, negative, keep):
    centre, context, negative = (x.detach() for x in (centre, context, negative))
    total = 0.0
    for b in range(len(centre)):
        total -= log_sigmoid(float(centre[b] @ context[b]))
        total -= sum(log_sigmoid(-float(centre[b] @ n)) for n, kept in zip(negative[b], keep[b], strict=True) if kept)
    return total / len(centre)


def test_equals_the_equation():
    centre, context, negative = vectors()
    keep = torch.ones(5, 3, dtype=torch.bool)
    assert sgns(centre, context, negative).item() == pytest.approx(
        reference(centre, context, negative, keep), rel=1e-13
    )
    keep[1], keep[3, 2] = False, False
    found = sgns(centre, context, negative, keep_BK=keep)
    assert found.item() == pytest.approx(reference(centre, context, negative, keep), rel=1e-13)
    assert torch.autograd.gradcheck(lambda *x: sgns(*x, keep_BK=keep), (centre, context, negative))
    shared = negative[0]
    every = shared.expand(5, 3, 4)
    assert sgns(centre, context, shared).item() == pytest.approx(sgns(centre, context, every).item(), rel=1e-14)
    assert torch.autograd.gradcheck(sgns, (centre, context, shared))


def test_gradient_is_that_of_word2vec():
    """(sigmoid(u.v) - label) times the other vector: the update of the published code."""
    centre, context, negative = vectors(batch=1)
    sgns(centre, context, negative).backward()
    error = (centre * context).sum().sigmoid() - 1
    assert torch.allclose(context.grad, error * centre)
    errors = (negative[0] @ centre[0]).sigmoid()
    assert torch.allclose(negative.grad[0], errors[:, None] * centre)
    assert torch.allclose(centre.grad, error * context + (errors[:, None] * negative[0]).sum(0))


def test_edges():
    centre, context, negative = vectors()
    alone = sgns(centre, context, negative[:, :0])
    none = torch.zeros(5, 0, dtype=torch.bool)
    assert alone.item() == pytest.approx(reference(centre, context, negative[:, :0], none), rel=1e-13)
    big = torch.full((1, 2), 1e3, requires_grad=True)
    loss = sgns(big, -big.detach(), big.detach()[None])
    loss.backward()
    assert loss.item() == pytest.approx(4e6)
    assert torch.isfinite(big.grad).all()
    with torch.no_grad():
        centre[0, 0] = math.nan
    assert torch.isnan(sgns(centre, context, negative))


def test_wrong_input_is_named():
    centre, context, negative = vectors()
    with pytest.raises(ValueError, match=r"\[5, 4\], \[4, 4\] and \[5, 3, 4\]"):
        sgns(centre, context[:4], negative)
    with pytest.raises(ValueError, match=r"\[5, 4\], \[5, 4\] and \[4, 3, 4\]"):
        sgns(centre, context, negative[:4])
    with pytest.raises(ValueError, match=r"keep_BK must be bool of shape \[5, 3\]"):
        sgns(centre, context, negative, keep_BK=torch.ones(5, 3))
