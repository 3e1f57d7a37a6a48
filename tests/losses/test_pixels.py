"""Likelihoods of pixels against torch.distributions, SciPy's distribution functions, and what must sum to one."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from intermodal.losses import pixels

LEVELS = torch.arange(256, dtype=torch.float64) / 127.5 - 1
MEANS = (-1.7, -1.0, -0.3, 0.0, 0.5, 1.0, 2.0)
WIDTHS = (-7.0, -5.0, -2.0, 0.0, 2.0)


def number(value: float, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.tensor(value, dtype=dtype)


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("width", WIDTHS)
def test_densities_and_bins_are_those_of_reference_distributions(mean, width):
    sigma = math.exp(width)
    normal = torch.distributions.Normal(number(mean), number(sigma))
    ours = pixels.gaussian_density(LEVELS, number(mean), number(width))
    torch.testing.assert_close(ours, normal.log_prob(LEVELS), rtol=1e-12, atol=1e-12)
    edges = (np.arange(257) - 0.5) / 127.5 - 1
    edges[0], edges[-1] = -np.inf, np.inf
    for law, reference in (
        (pixels.gaussian_bins, stats.norm(mean, sigma)),
        (pixels.logistic_bins, stats.logistic(mean, sigma)),
    ):
        found = law(LEVELS, number(mean), number(width)).exp().numpy()
        low = np.diff(reference.cdf(edges))
        high = -np.diff(reference.sf(edges))
        wanted = np.where(edges[1:] < mean, low, high)
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("width", WIDTHS)
def test_bins_sum_to_one_and_have_finite_gradients_everywhere(dtype, mean, width):
    for law in (pixels.gaussian_bins, pixels.logistic_bins):
        inputs = [number(v, dtype).requires_grad_() for v in (mean, width)]
        found = law(LEVELS.to(dtype), *inputs)
        assert found.isfinite().all()
        assert found.exp().sum().item() == pytest.approx(1.0, abs=1e-8 if dtype == torch.float64 else 3e-4)
        assert all(g.isfinite() for g in torch.autograd.grad(found.sum(), inputs))


@pytest.mark.parametrize("logit", [-60.0, -3.0, -0.3, -1e-4, 0.0, 1e-4, 2e-3, 0.5, 8.0, 60.0])
def test_levels_of_the_continuous_bernoulli_are_its_integrals(logit):
    found = pixels.continuous_bernoulli_bins(LEVELS, number(logit))
    assert found.exp().sum().item() == pytest.approx(1.0, abs=1e-9 if abs(logit) > 1e-3 else 1e-3)
    if abs(logit) < 50:
        law = torch.distributions.ContinuousBernoulli(logits=number(logit), lims=(0.4999, 0.5001))
        for level in (0, 17, 128, 255):
            wanted, _ = integrate.quad(
                lambda x: law.log_prob(number(x)).exp().item(), level / 256, (level + 1) / 256, epsabs=1e-14
            )
            assert found[level].exp().item() == pytest.approx(wanted, rel=2e-3)


def test_the_bernoulli_of_black_and_white_is_that_of_torch_and_of_greys_is_no_density():
    logit = torch.linspace(-4, 4, 9, dtype=torch.float64)
    law = torch.distributions.Bernoulli(logits=logit)
    for pixel, outcome in ((-1.0, 0.0), (1.0, 1.0)):
        torch.testing.assert_close(pixels.bernoulli(number(pixel), logit), law.log_prob(number(outcome)))
    total, _ = integrate.quad(lambda p: math.exp(pixels.bernoulli(number(2 * p - 1), number(0.0)).item()), 0, 1)
    assert total == pytest.approx(0.5)  # at q = 1/2, over all greys


def test_a_wide_normal_gives_bins_their_width_times_the_density():
    pixel = LEVELS[1:-1]
    bins = pixels.gaussian_bins(pixel, number(0.1), number(0.0))
    density = pixels.gaussian_density(pixel, number(0.1), number(0.0)) + math.log(2 * pixels.HALF_BIN)
    torch.testing.assert_close(bins, density, rtol=0, atol=1e-4)
