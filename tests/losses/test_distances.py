"""Distances: against plain loops, and defined where their formula is not."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intermodal.losses.all_pairs import Batch
from intermodal.losses.distance_tiles import Distances
from intermodal.losses.distances import pairwise_distance, rowwise_distance, unit

NAMES = ("euclidean", "squared_euclidean", "cosine")


def loop(x, y, name):
    """One number at a time."""
    found = []
    for a, b in zip(x.tolist(), y.tolist(), strict=True):
        square = sum((s - t) ** 2 for s, t in zip(a, b, strict=True))
        dot, aa, bb = (sum(s * t for s, t in zip(*two, strict=True)) for two in ((a, b), (a, a), (b, b)))
        found.append(
            {
                "euclidean": math.sqrt(square),
                "squared_euclidean": square,
                "cosine": 1 - (dot / math.sqrt(aa * bb) if aa * bb else 0.0),
            }[name]
        )
    return torch.tensor(found, dtype=torch.float64)


def rows(count, dim=4, seed=0):
    return torch.randn(count, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", NAMES)
def test_equal_the_loop(name):
    x, y = rows(6), rows(6, seed=1)
    y[2], y[3] = x[2], 0
    assert (rowwise_distance(x, y, name) - loop(x, y, name)).abs().max() < 1e-14
    every = pairwise_distance(x, y[:5], name)
    for i in range(6):
        assert (every[i] - loop(x[i].expand(5, -1), y[:5], name)).abs().max() < 1e-14


@pytest.mark.parametrize("name", NAMES)
def test_gradients(name):
    x, y = rows(4).requires_grad_(), rows(4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: rowwise_distance(a, b, name), (x, y))
    assert torch.autograd.gradcheck(lambda a, b: pairwise_distance(a, b, name), (x, y))


@pytest.mark.parametrize("name", NAMES)
def test_gradient_of_equal_rows_and_of_zeros_is_finite(name):
    for value in (0.0, 1.0):
        x = torch.full((3, 4), value, requires_grad=True)
        y = torch.full((3, 4), value, requires_grad=True)
        (rowwise_distance(x, y, name).sum() + pairwise_distance(x, y, name).sum()).backward()
        assert torch.isfinite(x.grad).all()
        assert x.grad.abs().max() < 1e-6


def test_unit_of_zeros_is_zeros():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    z = unit(x)
    assert torch.equal(z, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))
    z.sum().backward()
    assert torch.equal(x.grad[1], torch.zeros(2))
    assert torch.isnan(unit(torch.tensor([math.nan, 1.0]))).any()


def test_not_rounded_under_autocast():
    x, y = rows(8, 16).float(), rows(8, 16, seed=1).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for name in NAMES:
            found = pairwise_distance(x, y, name)
            assert found.dtype == torch.float32
            assert torch.allclose(found.diagonal(), rowwise_distance(x, y, name), atol=1e-5)
    assert unit(x.bfloat16()).dtype == torch.float32


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(1, 30),
    tile=st.integers(1, 32),
    name=st.sampled_from(NAMES),
    seed=st.integers(0, 1000),
    spread=st.sampled_from([1.0, 1e-6]),
)
def test_tiles_and_rows_equal_the_matrix(count, tile, name, seed, spread):
    """Also where all lie in a small cloud far from the origin, and where some coincide."""
    x = rows(count, seed=seed) * spread + (0 if spread == 1 else 3)
    x[::3] = x[0].clone()
    x = unit(x) if name == "cosine" else x
    expected = pairwise_distance(x, x, name).fill_diagonal_(torch.inf)
    apart = Distances(Batch.of(x, False, None, tile), name)
    found = torch.zeros_like(expected)
    for i, j, tile_rc in apart.walk():
        found[i, j] = tile_rc
        found[j, i] = tile_rc.T
    by_rows = torch.cat([d.clone() for _, d in apart.rows()])
    for ours in (found, by_rows):
        assert torch.equal(ours.diagonal(), expected.diagonal())
        ours = ours.clone().fill_diagonal_(0)
        error = (ours - expected.clone().fill_diagonal_(0)).abs().max()
        # 1 minus a product has an absolute rounding, distances a relative one.
        assert error <= (1e-14 if name == "cosine" else 1e-9 * expected.masked_fill(expected.isinf(), 0).max())


def test_near_rows_keep_their_digits_in_float32():
    x = rows(40, 64).float() + 100
    x[1] = x[0] + 1e-3
    apart = Distances(Batch.of(x, False, None, None), "euclidean")
    (_, _, found), *_ = list(apart.walk())
    expected = (x.double()[0] - x.double()[1]).norm()
    assert found[0, 1] == pytest.approx(expected.item(), rel=1e-2)  # float32 at 100 has steps of 8e-6
    plain = (x[0] @ x[0] + x[1] @ x[1] - 2 * x[0] @ x[1]).clamp(min=0).sqrt()
    assert abs(plain - expected) > 3 * abs(found[0, 1] - expected)


def test_wrong_input_is_named():
    x = rows(3)
    with pytest.raises(ValueError, match="no distance 'manhattan'"):
        rowwise_distance(x, x, "manhattan")
    with pytest.raises(ValueError, match=r"found \[3, 4\] and \[2, 4\]"):
        rowwise_distance(x, x[:2])
    with pytest.raises(ValueError, match=r"\(N, D\) and \(M, D\), found \[3, 4\] and \[3, 3\]"):
        pairwise_distance(x, x[:, :3])
