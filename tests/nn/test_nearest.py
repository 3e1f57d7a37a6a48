"""The search for the nearest code against all distances in float64, at sizes that divide nothing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intermodal.nn import nearest as module
from intermodal.nn.nearest import first_smallest, nearest


def squared(z_ND: torch.Tensor, codes_KD: torch.Tensor) -> torch.Tensor:
    """Return all squared distances in float64, difference by difference."""
    return (z_ND.double()[:, None] - codes_KD.double()).square().sum(2)


def check(z_ND, codes_KD, found_N):
    """Each code is a nearest one, but for rounding; and where the nearest is clear, it is that one."""
    distance_NK = squared(z_ND, codes_KD)
    best_N = distance_NK.amin(1)
    chosen_N = distance_NK.gather(1, found_N[:, None])[:, 0]
    mean_D = codes_KD.double().mean(0)
    size_N = (z_ND.double() - mean_D).norm(dim=1) * (codes_KD.double() - mean_D).norm(dim=1).max()
    size_N = size_N + (codes_KD.double() - mean_D).square().sum(1).max()
    assert ((chosen_N - best_N) <= 1e-6 * size_N + 1e-12).all()
    second_N = distance_NK.sort(1).values[:, min(1, len(codes_KD) - 1)]
    clear_N = second_N - best_N > 1e-6 * size_N
    assert torch.equal(found_N[clear_N], distance_NK.argmin(1)[clear_N])
    return float(clear_N.float().mean())


@pytest.mark.parametrize("scores", [None, 1, 1000])
@pytest.mark.parametrize(
    ("n", "k", "d"), [(1, 1, 1), (7, 3, 5), (301, 64, 3), (33, 65, 17), (257, 512, 8), (50, 1000, 64)]
)
def test_it_finds_what_all_distances_in_float64_say(n, k, d, scores):
    generator = torch.Generator().manual_seed(n + k)
    z, codes = torch.randn(n, d, generator=generator), torch.randn(k, d, generator=generator)
    found = nearest(z, codes, scores=scores)
    assert found.shape == (n,) and found.dtype == torch.int64
    share = check(z, codes, found)
    assert share > 0.99 or k == 1


def test_parts_of_rows_and_of_codes_change_nothing(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    z, codes = torch.randn(130, 6, generator=generator), torch.randn(200, 6, generator=generator)
    whole = nearest(z, codes)
    monkeypatch.setattr(module, "MOST_CODES", 64)
    assert torch.equal(nearest(z, codes), whole)
    assert torch.equal(nearest(z, codes, scores=64 * 7), whole)
    monkeypatch.setattr(module, "MOST_CODES", 1)
    assert torch.equal(nearest(z, codes), whole)


@pytest.mark.parametrize("most", [1, 16, 64, 8192])
def test_of_equally_near_codes_the_first_is_taken(most, monkeypatch):
    monkeypatch.setattr(module, "MOST_CODES", most)
    codes = torch.tensor([[5.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]).repeat(32, 1)
    assert nearest(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), codes).tolist() == [1, 2]
    assert nearest(torch.randn(9, 3), torch.zeros(128, 3)).tolist() == [0] * 9
    assert nearest(torch.zeros(9, 3), torch.ones(65, 3)).tolist() == [0] * 9


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 5), st.sampled_from([1, 2, 63, 64, 65, 128, 192]), st.integers(0, 1000), st.integers(1, 4))
def test_the_first_smallest_is_argmin(rows, columns, seed, values):
    generator = torch.Generator().manual_seed(seed)
    score = torch.randint(values, (rows, columns), generator=generator).float()
    assert torch.equal(first_smallest(score), score.argmin(1))


def test_far_from_the_origin_no_digits_are_lost():
    generator = torch.Generator().manual_seed(1)
    z, codes = torch.randn(400, 16, generator=generator) + 1000, torch.randn(96, 16, generator=generator) + 1000
    plain = (codes.square().sum(1) / 2 - z @ codes.T).argmin(1)
    exact = squared(z, codes).argmin(1)
    assert (plain == exact).float().mean() < 0.9  # what the formula does without the mean
    assert check(z, codes, nearest(z, codes)) > 0.99


def test_bfloat16_is_searched_in_float32_and_float64_in_float64():
    generator = torch.Generator().manual_seed(2)
    z, codes = torch.randn(300, 9, generator=generator), torch.randn(130, 9, generator=generator)
    half = nearest(z.bfloat16(), codes)
    assert torch.equal(half, nearest(z.bfloat16().float(), codes))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nearest(z, codes), nearest(z, codes))
        inside = nearest(z, codes)
    assert torch.equal(inside, nearest(z, codes))
    close = torch.zeros(2, 9, dtype=torch.float64)
    close[1, 0] = 1e-9
    assert nearest(torch.full((1, 9), 0.0, dtype=torch.float64), close).tolist() == [0]
    assert nearest(close[1:], close).tolist() == [1]


def test_layouts_and_nothing():
    generator = torch.Generator().manual_seed(3)
    z, codes = torch.randn(6, 40, generator=generator).T, torch.randn(6, 50, generator=generator).T
    assert torch.equal(nearest(z, codes), nearest(z.contiguous(), codes.contiguous()))
    assert nearest(torch.zeros(0, 6), codes).shape == (0,)
    assert not nearest(z.requires_grad_(), codes).requires_grad


def test_numbers_that_are_not_finite_get_a_code_that_exists():
    codes = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    z = torch.zeros(3, 4)
    z[0, 0], z[1, 1] = float("nan"), float("inf")
    found = nearest(z, codes)
    assert found[0] == 0 and 0 <= int(found[1]) < 64 and found[2] == squared(z[2:], codes).argmin()


@pytest.mark.parametrize("shapes", [((3, 4), (2, 5)), ((3,), (2, 3)), ((3, 4), (0, 4))])
def test_shapes_that_do_not_fit_are_refused(shapes):
    with pytest.raises(ValueError, match="same D"):
        nearest(torch.zeros(shapes[0]), torch.zeros(shapes[1]))
