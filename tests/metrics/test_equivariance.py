"""Invariance and equivariance on encoders whose answer is known."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from intermodal.metrics.equivariance import (
    Errors,
    invariance,
    linear_map_errors,
    mean_cosine,
    r_squared,
    read_out,
)

HALF = torch.arange(400) % 2 == 0


def normal(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 12))
def test_mean_cosine_is_the_mean_over_pairs(seed, n):
    x = normal(n, 5, seed)
    pairs = [float(F.cosine_similarity(x[i], x[j], dim=0)) for i in range(n) for j in range(n) if i != j]
    assert mean_cosine(x) == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)


def test_invariance_has_its_scale():
    x = normal(400, 32) + 2  # all vectors point about the same way: raw cosines would flatter
    other = x[torch.randperm(400, generator=torch.Generator().manual_seed(0))]
    assert invariance(x, x) == pytest.approx(1)
    assert invariance(x, x * 7) == pytest.approx(1), "only directions count"
    assert abs(invariance(x, other)) < 0.02
    assert float(F.cosine_similarity(x, other).mean()) > 0.75
    assert invariance(x, -x) < -1
    assert math.isnan(invariance(torch.ones(5, 3), torch.ones(5, 3))), "a collapsed encoder has no scale"


def test_an_equivariant_encoder():
    x = normal(400, 16)
    turn = torch.linalg.qr(normal(16, 16, 1)).Q
    errors = linear_map_errors(x, x @ turn + 0.5, HALF)
    assert errors.equivariance > 0.9999 and errors.gain > 0.9999
    assert errors.of_identity < 0, "f(x) itself is no prediction"


def test_an_invariant_encoder_is_equivariant_in_the_trivial_way():
    x = normal(400, 64)
    errors = linear_map_errors(x, x, HALF)
    assert errors.equivariance == pytest.approx(1, abs=1e-6) and errors.of_identity == 1
    assert math.isnan(errors.gain)
    # With more dimensions than fitted inputs, a map drawn to zero could not find the identity; ours can.
    wide = normal(400, 600)
    assert linear_map_errors(wide, wide, HALF).equivariance == pytest.approx(1, abs=1e-6)


def test_an_encoder_that_answers_at_random():
    x, y = normal(400, 16), normal(400, 16, 1)
    errors = linear_map_errors(x, y, HALF)
    assert -0.15 < errors.equivariance < 0.05 and errors.of_identity == pytest.approx(-1, abs=0.2)
    assert math.isnan(linear_map_errors(torch.ones(400, 3), torch.ones(400, 3), HALF).equivariance)


def test_the_map_is_judged_on_other_inputs():
    x, y = normal(400, 300), normal(400, 300, 1)
    assert linear_map_errors(x, y, HALF).equivariance < 0.05, "300 dimensions would fit 200 inputs by heart"


def test_errors_are_sums_and_add_up():
    x, y = normal(400, 4), normal(400, 4, 1)
    errors = linear_map_errors(x, y, HALF)
    assert errors.identity == pytest.approx(float((x - y)[~HALF].square().sum()))
    assert errors.mean == pytest.approx(float((y[HALF].mean(0) - y[~HALF]).square().sum()))
    assert errors + Errors(1, 2, 3) == Errors(errors.mapped + 1, errors.identity + 2, errors.mean + 3)


def test_read_out_finds_what_is_there_and_nothing_else():
    angle = torch.rand(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 * math.pi
    target = torch.stack([angle.cos(), angle.sin()], 1)
    groups = torch.arange(400) // 4
    fitted = groups % 2 == 0
    noise = normal(400, 30)
    seen = torch.cat([noise, target @ normal(2, 5, 1) + 0.01 * normal(400, 5, 2)], 1)
    assert r_squared(*read_out(seen, target, groups, fitted)) > 0.99
    assert abs(r_squared(*read_out(noise, target, groups, fitted))) < 0.1
    assert abs(r_squared(*read_out(torch.ones(400, 3), target, groups, fitted))) < 0.05, "constant features: the mean"


def test_ridge_is_the_same_in_both_forms():
    from intermodal.metrics.equivariance import _ridges

    for n, d in ((30, 8), (8, 30)):
        x, y, q = normal(n, d), normal(n, 3, 1), normal(5, d, 2)
        found = _ridges(x, y, q, (0.1,))[0]
        centred, scale = x - x.mean(0), (x - x.mean(0)).square().sum() / min(n, d)
        weight = torch.linalg.solve(centred.T @ centred + 0.1 * scale * torch.eye(d), centred.T @ (y - y.mean(0)))
        torch.testing.assert_close(found, (q - x.mean(0)) @ weight + y.mean(0))


def test_bad_input():
    x = normal(20, 3)
    for change, words in (
        (lambda: invariance(x, x[:5]), "one shape"),
        (lambda: invariance(x[:1], x[:1]), "at least 2"),
        (lambda: linear_map_errors(x, x[:, :2], HALF[:20]), "must fit"),
        (lambda: linear_map_errors(x, x, torch.ones(20, dtype=torch.bool)), "one that is judged"),
        (lambda: linear_map_errors(x, x, torch.arange(20) < 5), "at least 8 fitted"),
        (lambda: read_out(x, x, torch.zeros(20), HALF[:20]), "at least 8 fitted"),
        (lambda: r_squared(x, x[:, :1]), "Shapes"),
        (lambda: r_squared(x, torch.ones(20, 3)), "constant"),
    ):
        with pytest.raises(ValueError, match=words):
            change()
