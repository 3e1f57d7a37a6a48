"""Langevin chains against densities whose moments after so many steps are known exactly."""

from __future__ import annotations

import math

import pytest
import torch

from intermodal.core.errors import ConfigError
from intermodal.nn.langevin import LangevinConfig, independent_jumps, input_gradient, langevin


def normal_energy(mean: float, std: float):
    return lambda x: ((x - mean) ** 2).sum(1) / (2 * std**2)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_chain_in_a_parabola_has_the_moments_of_its_recursion():
    """x <- x - h (x - m) / s^2 + noise: mean and variance after K steps follow from the recursion alone."""
    mean, std, step, count = 1.5, 0.7, 0.05, 12
    config = LangevinConfig(steps=count, step_size=step)
    start = torch.full((40_000, 1), -2.0, dtype=torch.float64)
    found = langevin(normal_energy(mean, std), start, config, generator())
    keep = 1 - step / std**2
    expected_mean = mean + keep**count * (-2.0 - mean)
    expected_variance = 2 * step * sum(keep ** (2 * i) for i in range(count))
    error = math.sqrt(expected_variance / len(start))
    assert float(found.mean()) == pytest.approx(expected_mean, abs=4 * error)
    assert float(found.var()) == pytest.approx(expected_variance, rel=4 * math.sqrt(2 / len(start)))
    assert bool((start == -2.0).all()), "the start is not changed"


def test_without_noise_it_is_gradient_descent_with_the_bounds_kept():
    config = LangevinConfig(steps=3, step_size=0.1, noise=0.0, bounds=(-1.0, 0.5))
    seen = []
    found = langevin(
        normal_energy(2.0, 1.0), torch.zeros(1, 2), config, generator(), watch=lambda k, x: seen.append((k, x.clone()))
    )
    x = torch.zeros(1, 2)
    for k, at in seen:
        x = (x + 0.1 * (2.0 - x)).clamp(-1.0, 0.5)
        torch.testing.assert_close(at, x)
        assert k == len(seen[: seen.index((k, at)) + 1])
    torch.testing.assert_close(found, torch.full((1, 2), 0.5))


def test_the_gradient_is_clipped_and_parameters_get_none():
    weight = torch.nn.Parameter(torch.tensor(3.0))
    config = LangevinConfig(steps=1, step_size=1.0, noise=0.0, clip=0.25)
    found = langevin(lambda x: (weight * x).sum(1), torch.zeros(2, 1), config, generator())
    torch.testing.assert_close(found, torch.full((2, 1), -0.25))
    assert weight.grad is None and not found.requires_grad


def test_it_works_where_gradients_are_off_and_repeats_with_its_seed():
    config = LangevinConfig(steps=5, step_size=0.1)
    with torch.no_grad():
        first, again, other = (
            langevin(normal_energy(0, 1), torch.ones(4, 2), config, generator(seed)) for seed in (3, 3, 4)
        )
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_input_gradient_is_of_each_sample_alone():
    x = torch.randn(3, 2, dtype=torch.float64)
    torch.testing.assert_close(input_gradient(lambda v: (v**3).sum(1), x), 3 * x**2)


def test_temperature():
    assert LangevinConfig(step_size=0.3).temperature == 1.0
    assert LangevinConfig(step_size=2.0, noise=0.2).temperature == pytest.approx(0.01)


def test_jumps_give_two_distant_modes_the_mass_that_is_theirs():
    """A mixture of 0.2 N(-3, 0.3) and 0.8 N(3, 0.3): Langevin steps never cross, jumps do."""

    def energy(x):
        parts = torch.stack(
            [math.log(w) - (x - m).square().sum(1) / (2 * 0.3**2) for w, m in ((0.2, -3.0), (0.8, 3.0))]
        )
        return -parts.logsumexp(0)

    start = torch.where(torch.arange(4000).unsqueeze(1) % 2 == 0, -3.0, 3.0) + torch.zeros(4000, 1)
    stays = langevin(energy, start, LangevinConfig(steps=20, step_size=0.01), generator())
    assert float((stays > 0).double().mean()) == pytest.approx(0.5, abs=1e-6)
    moved = independent_jumps(energy, start, 3.0, generator(), 200)
    assert float((moved > 0).double().mean()) == pytest.approx(0.8, abs=4 * math.sqrt(0.16 / 4000))
    right = moved[moved > 0].double()
    assert float(right.mean()) == pytest.approx(3.0, abs=0.02) and float(right.std()) == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize(
    "bad", [{"steps": -1}, {"step_size": 0.0}, {"noise": -0.1}, {"clip": 0.0}, {"bounds": (1.0, -1.0)}]
)
def test_bad_numbers_are_refused(bad):
    with pytest.raises(ConfigError, match="Langevin"):
        LangevinConfig(**bad)
