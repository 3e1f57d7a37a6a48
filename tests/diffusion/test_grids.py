"""Which levels a sampler visits."""

import math

import pytest
import torch

from intermodal.core.errors import ConfigError
from intermodal.diffusion.continuous import Flow, VarianceExploding, VPCosine
from intermodal.diffusion.grids import (
    beta_quantile,
    from_strength,
    grid_of_ratios,
    grid_of_times,
    make_grid,
    reverse,
    with_times,
)
from intermodal.diffusion.schedules import DiscreteSchedule

SCHEDULE = DiscreteSchedule.linear()


def times(grid):
    return [float(level.t) for level in grid]


def test_spacings_of_lin():
    """Table 2 of Lin et al. 2023, for 10 of 1,000 steps (their steps are counted from 1)."""
    assert times(make_grid(SCHEDULE, 10, "trailing")) == [999, 899, 799, 699, 599, 499, 399, 299, 199, 99, -1]
    assert times(make_grid(SCHEDULE, 10, "leading")) == [900, 800, 700, 600, 500, 400, 300, 200, 100, 0, -1]
    assert times(make_grid(SCHEDULE, 10, "linspace")) == [999, 888, 777, 666, 555, 444, 333, 222, 111, 0, -1]


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
def test_all_steps_are_all_steps(spacing):
    assert times(make_grid(SCHEDULE, 1000, spacing)) == [*range(999, -1, -1), -1]


def test_every_number_of_steps_gives_as_many():
    for steps in (*range(1, 60), 333, 500, 501, 667, 999):
        assert len(make_grid(SCHEDULE, steps)) == steps + 1


def test_ends():
    assert float(make_grid(SCHEDULE, 5)[-1].sigma) == 0
    least = make_grid(SCHEDULE, 5, end="least")[-1]
    assert float(least.alpha) == pytest.approx(math.sqrt(1 - 1e-4))
    assert times(reverse(make_grid(SCHEDULE, 2))) == [-1, 499, 999]


def test_karras_is_equation_5():
    grid = make_grid(VarianceExploding(80.0), 18, "karras", ratios=(None, 0.002))
    for i, level in enumerate(grid[:-1]):
        wanted = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
        assert float(level.sigma) == pytest.approx(wanted, rel=1e-12)
    assert float(grid[-1].sigma) == 0


def test_exponential_is_even_in_log_snr():
    grid = make_grid(SCHEDULE, 9, "exponential")
    gaps = torch.stack([level.log_snr for level in grid[:-1]]).diff()
    assert torch.allclose(gaps, gaps[0].expand(8), rtol=1e-9)
    assert float(grid[0].t) == 999
    assert len(make_grid(SCHEDULE, 1, "karras")) == 2


def test_continuous_time_is_even():
    assert times(make_grid(Flow(), 4)) == [1.0, 0.75, 0.5, 0.25, -1.0]


def test_a_part_of_a_grid():
    grid = make_grid(SCHEDULE, 10)
    assert times(from_strength(grid, 0.35)) == [299, 199, 99, -1]
    assert from_strength(grid, 1.0) == grid
    assert len(from_strength(grid, 0.01)) == 2
    assert times(with_times(grid_of_times(SCHEDULE, [5, 3]), [4.0, 2.0])) == [4, 2, -1]
    assert [float(v.ratio) for v in grid_of_ratios(Flow(), [3.0, 1.0])[:-1]] == pytest.approx([3, 1])


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: make_grid(SCHEDULE, 0), "at least 1, found 0"),
        (lambda: make_grid(SCHEDULE, -3), "at least 1, found -3"),
        (lambda: make_grid(SCHEDULE, 2.5), "whole number"),
        (lambda: make_grid(SCHEDULE, True), "whole number"),
        (lambda: make_grid(SCHEDULE, 1001), "1000 steps, which allows no 1001"),
        (lambda: make_grid(SCHEDULE, 1000, "linspace", beyond=True), "allows no 1000"),
        (lambda: make_grid(SCHEDULE, 10, "even"), "found 'even'"),
        (lambda: make_grid(SCHEDULE, 10, "leading", offset=200), "0 to 999"),
        (lambda: make_grid(SCHEDULE, 10, last=0), "first 0"),
        (lambda: make_grid(Flow(), 10, "leading"), "In continuous time"),
        (lambda: make_grid(Flow(), 10, "karras"), "needs ratios="),
        (lambda: make_grid(VPCosine(), 10, "exponential", ratios=(1.0, 2.0)), "smallest < largest"),
        (lambda: grid_of_times(SCHEDULE, [3, 3]), "must fall"),
        (lambda: grid_of_times(SCHEDULE, []), "must fall"),
        (lambda: grid_of_times(SCHEDULE, [1000]), "0 to 999"),
        (lambda: grid_of_ratios(SCHEDULE, [1.0, 2.0]), "must fall"),
        (lambda: grid_of_ratios(SCHEDULE, [1.0, 1e-5], "least"), "below the least"),
        (lambda: grid_of_times(Flow(), [0.5], "least"), "discrete schedule"),
        (lambda: from_strength(make_grid(SCHEDULE, 4), 0.0), "share"),
        (lambda: with_times(make_grid(SCHEDULE, 4), [1.0]), "as many times"),
    ],
)
def test_wrong_input_is_named(make, word):
    with pytest.raises(ConfigError, match=word):
        make()


def test_quantiles_of_the_beta_distribution():
    stats = pytest.importorskip("scipy.stats")
    share = torch.cat((torch.linspace(0, 1, 41), torch.tensor([1e-9, 1e-4, 1 - 1e-7]))).double()
    for shape in (0.6, 1.0, 2.5):
        wanted = torch.from_numpy(stats.beta.ppf(share.numpy(), shape, shape))
        assert torch.allclose(beta_quantile(share, shape), wanted, rtol=0, atol=1e-14)
