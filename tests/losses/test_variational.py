"""Bounds from samples and Gaussians with full covariances, against torch.distributions and by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from intermodal.core.errors import ConfigError
from intermodal.losses.variational import (
    elbo,
    gaussian_kl,
    gaussian_log_density,
    gaussian_sample,
    importance_bound,
)


def gaussian(*batch: int, size: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(*batch, size, generator=generator, dtype=torch.float64)
    root = torch.randn(*batch, size, size, generator=generator, dtype=torch.float64)
    covariance = root @ root.mT + 0.1 * torch.eye(size, dtype=torch.float64)
    return mean, torch.linalg.cholesky(covariance)


@pytest.mark.parametrize("batch", [(), (5,), (2, 3)])
def test_density_and_divergence_are_those_of_torch(batch):
    (mean, factor), (other_mean, other_factor) = gaussian(*batch), gaussian(*batch, seed=1)
    one, other = MultivariateNormal(mean, scale_tril=factor), MultivariateNormal(other_mean, scale_tril=other_factor)
    value = torch.randn(7, *batch, 4, dtype=torch.float64)
    torch.testing.assert_close(gaussian_log_density(value, mean, factor), one.log_prob(value), rtol=1e-12, atol=1e-12)
    found = gaussian_kl(mean, factor, other_mean, other_factor)
    torch.testing.assert_close(found, kl_divergence(one, other), rtol=1e-11, atol=1e-11)
    assert torch.all(gaussian_kl(mean, factor, mean, factor).abs() < 1e-12)


def test_their_gradients_are_those_of_torch():
    (mean, factor), (other_mean, other_factor) = gaussian(3), gaussian(3, seed=1)
    inputs = [t.requires_grad_() for t in (mean, factor, other_mean, other_factor)]
    ours = torch.autograd.grad(gaussian_kl(*inputs).sum(), inputs)
    one, other = MultivariateNormal(mean, scale_tril=factor), MultivariateNormal(other_mean, scale_tril=other_factor)
    theirs = torch.autograd.grad(kl_divergence(one, other).sum(), inputs)
    for got, want in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got.tril() if got.ndim == 3 else got, want.tril() if want.ndim == 3 else want)


def test_one_factor_serves_many_means():
    (mean, _), (_, factor) = gaussian(6), gaussian()
    zero, one = torch.zeros(4, dtype=torch.float64), torch.eye(4, dtype=torch.float64)
    each = factor.expand(6, 4, 4)
    torch.testing.assert_close(gaussian_kl(mean, factor, zero, one), gaussian_kl(mean, each, zero, one))
    value = torch.randn(3, 6, 4, dtype=torch.float64)
    torch.testing.assert_close(gaussian_log_density(value, mean, factor), gaussian_log_density(value, mean, each))
    torch.testing.assert_close(gaussian_sample(mean, factor, value), gaussian_sample(mean, each, value))


def test_samples_have_the_mean_and_the_covariance():
    mean, factor = gaussian()
    noise = torch.randn(200_000, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = gaussian_sample(mean, factor, noise)
    torch.testing.assert_close(drawn.mean(0), mean, rtol=0, atol=0.03)
    torch.testing.assert_close(torch.cov(drawn.T), factor @ factor.T, rtol=0, atol=0.1)


def test_bounds_are_what_their_equations_say():
    weight_SB = torch.randn(8, 5, dtype=torch.float64)
    for samples in (1, 2, 4, 8):
        groups = weight_SB.view(8 // samples, samples, 5)
        wanted = groups.exp().mean(1).log().mean(0)
        torch.testing.assert_close(importance_bound(weight_SB, samples), wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(importance_bound(weight_SB, 1), elbo(weight_SB))
    torch.testing.assert_close(importance_bound(weight_SB), importance_bound(weight_SB, 8))


def test_bounds_rise_with_the_number_of_samples_on_the_same_samples():
    """Burda et al. 2016, theorem 1; on one set of samples Jensen's inequality gives it without any chance."""
    weight_SB = 3 * torch.randn(64, 100, dtype=torch.float64)
    found = torch.stack([importance_bound(weight_SB, 2**i) for i in range(7)])
    assert torch.all(found.diff(dim=0) >= -1e-12)


def test_weights_beyond_the_range_of_a_float_stay_finite():
    weight = torch.tensor([[-1e5], [1e5]])
    assert importance_bound(weight).item() == pytest.approx(1e5 - math.log(2), rel=1e-6)


@pytest.mark.parametrize("samples", [0, 3, 16, -1])
def test_a_bound_of_samples_that_are_not_there_is_refused(samples):
    with pytest.raises(ConfigError, match=r"K must divide the 8 samples"):
        importance_bound(torch.zeros(8, 2), samples)
