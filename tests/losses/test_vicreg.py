"""VICReg's terms: against the equations in plain loops."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intermodal.losses.vicreg import vicreg


def reference(x, y, gamma=1.0, epsilon=1e-4):
    n, d = x.shape
    invariance = sum((x[i, j] - y[i, j]) ** 2 for i in range(n) for j in range(d)) / (n * d)
    variance = covariance = (x * 0).sum()
    for z in (x, y):
        mean = [sum(z[i, j] for i in range(n)) / n for j in range(d)]
        for j in range(d):
            for k in range(d):
                c = sum((z[i, j] - mean[j]) * (z[i, k] - mean[k]) for i in range(n)) / max(n - 1, 1)
                if j == k:
                    variance = variance + (gamma - (c + epsilon).sqrt()).clamp(min=0) / d
                else:
                    covariance = covariance + c**2 / d
    return invariance, variance, covariance


def views(count, dim, seed=0, spread=0.8):
    generator = torch.Generator().manual_seed(seed)
    return [spread * torch.randn(count, dim, dtype=torch.float64, generator=generator) for _ in range(2)]


@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(1, 7), dim=st.integers(1, 5), spread=st.sampled_from([0.3, 0.9, 3.0]), seed=st.integers(0, 1000)
)
def test_equals_the_equations(count, dim, spread, seed):
    x, y = (v.requires_grad_() for v in views(count, dim, seed, spread))
    expected, found = reference(x, y), vicreg(x, y)
    for weight in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (25, 25, 1)):
        ours, theirs = (sum(w * t for w, t in zip(weight, terms, strict=True)) for terms in (found, expected))
        assert abs(ours - theirs) < 1e-12 * max(1, abs(theirs.item()))
        a, b = (torch.autograd.grad(v, (x, y), retain_graph=True) for v in (ours, theirs))
        assert max((s - t).abs().max().item() for s, t in zip(a, b, strict=True)) < 1e-12 * max(1, spread**3)


def test_gradcheck():
    x, y = (v.requires_grad_() for v in views(6, 3))
    assert torch.autograd.gradcheck(lambda a, b: tuple(vicreg(a, b)), (x, y))
    assert torch.autograd.gradcheck(lambda a, b: tuple(vicreg(a, b, gamma=2.0, epsilon=0.1)), (x, y))


def test_order_and_shift_do_not_matter():
    x, y = views(20, 5)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    for a, b in zip(vicreg(x, y), vicreg(x[order] + 3, y[order] + 3), strict=True):
        assert abs(a - b) < 1e-13


def test_collapse_costs_variance_alone():
    x = torch.ones(6, 4, requires_grad=True)
    invariance, variance, covariance = vicreg(x, x)
    assert invariance == 0
    assert covariance == 0
    assert variance.item() == pytest.approx(2 * (1 - 0.01))
    (invariance + variance + covariance).backward()
    assert torch.equal(x.grad, torch.zeros(6, 4))


def test_batch_of_one_is_defined():
    x, y = (torch.randn(1, 4, requires_grad=True) for _ in range(2))
    terms = vicreg(x, y)
    assert terms.variance.item() == pytest.approx(2 * (1 - 0.01))
    assert terms.covariance == 0
    (terms.variance + terms.covariance).backward()
    assert torch.equal(x.grad, torch.zeros(1, 4))


def test_not_a_number_is_not_hidden():
    x, y = views(5, 3)
    x[1, 2] = math.nan
    assert all(torch.isnan(t) for t in vicreg(x, y))


def test_autocast_does_not_round():
    x, y = (v.float() for v in views(16, 8))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = vicreg(x, y)
    assert all(torch.equal(a, b) for a, b in zip(inside, vicreg(x, y), strict=True))


def test_wrong_input_is_named():
    x, y = views(5, 3)
    with pytest.raises(ValueError, match=r"\[5, 3\] and torch\.float64 \[4, 3\]"):
        vicreg(x, y[:4])
    with pytest.raises(ValueError, match="epsilon must be above 0, found 0"):
        vicreg(x, y, epsilon=0)
