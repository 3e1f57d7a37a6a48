"""The mixture itself: its samples, density and denoiser against quadrature and torch's distributions."""

import math

import pytest
import torch
from torch import distributions as D

from intermodal.core.errors import ConfigError
from intermodal.diffusion.continuous import Flow, VPCosine
from intermodal.diffusion.mixtures import Mixture
from intermodal.diffusion.schedules import CLEAN


def test_density_is_torchs(mixture, draw):
    x = draw(20, 2)
    covariance = torch.einsum("kij,kj,klj->kil", mixture.basis, mixture.scale, mixture.basis)
    for level in (CLEAN, VPCosine().level(0.3), Flow().level(0.8)):
        noisy = D.MultivariateNormal(
            level.alpha * mixture.mean, level.alpha**2 * covariance + level.sigma**2 * torch.eye(2).double()
        )
        torchs = D.MixtureSameFamily(D.Categorical(mixture.weight), noisy)
        assert torch.allclose(mixture.log_prob(x, level), torchs.log_prob(x))


def test_denoiser_is_the_posterior_mean_by_quadrature():
    mixture = Mixture(
        torch.tensor([[-1.0], [0.8]]), torch.tensor([[[0.09]], [[0.3]]]), torch.tensor([0.3, 0.7], dtype=torch.float64)
    )
    clean = torch.linspace(-8, 8, 40_001, dtype=torch.float64)
    for level in (VPCosine().level(0.1), VPCosine().level(0.6), Flow().level(0.9)):
        for x in (-1.3, 0.2, 2.0):
            log = mixture.log_prob(clean[:, None]) - (x - level.alpha * clean) ** 2 / (2 * level.sigma**2)
            weight = log.softmax(0)
            said = mixture(torch.tensor([[x]], dtype=torch.float64), level)
            assert float(said.x0) == pytest.approx(float((weight * clean).sum()), abs=1e-8)
            noise = (x - level.alpha * clean) / level.sigma
            assert float(said.eps) == pytest.approx(float((weight * noise).sum()), abs=1e-8)


def test_ends(mixture, draw):
    x = draw(5, 2)
    clean, noise = mixture(x, CLEAN), mixture(x, VPCosine().level(1.0))
    assert torch.allclose(clean.x0, x, atol=1e-12)
    assert float(clean.eps.abs().max()) == 0
    assert torch.allclose(noise.x0, (mixture.weight[:, None] * mixture.mean).sum(0).expand(5, 2), atol=1e-12)
    assert torch.allclose(noise.eps, x, atol=1e-12)


def test_samples_have_its_moments(mixture):
    x, which = mixture.sample(100_000, torch.Generator().manual_seed(0))
    mean = (mixture.weight[:, None] * mixture.mean).sum(0)
    assert torch.allclose(x.mean(0), mean, atol=5 * float(x.std()) / math.sqrt(100_000))
    share = torch.bincount(which) / 100_000
    assert torch.allclose(share.double(), mixture.weight, atol=5 * 0.5 / math.sqrt(100_000))
    again, _ = mixture.sample(100_000, torch.Generator().manual_seed(0))
    assert torch.equal(x, again)


def test_classes(mixture, draw):
    x, level = draw(30, 2), VPCosine().level(0.4)
    of = [mixture.log_class(x, level, torch.full((30,), c)) for c in (0, 1)]
    assert torch.allclose(of[0].exp() + of[1].exp(), torch.ones(30).double())
    any_class = torch.full((30,), -1)
    assert torch.equal(mixture(x, level, any_class).x0, mixture(x, level).x0)
    prior = [mixture.weight[0], mixture.weight[1:].sum()]
    joint = torch.stack([mixture.log_prob(x, level, torch.full((30,), c)) + prior[c].log() for c in (0, 1)])
    assert torch.allclose(joint.logsumexp(0), mixture.log_prob(x, level))


def test_float32_and_a_level_for_each(mixture, draw):
    x = draw(3, 2)
    level = VPCosine().level(torch.tensor([0.1, 0.5, 0.9]))
    said = mixture(x.float(), level)
    assert said.x0.dtype == torch.float32
    assert torch.allclose(said.x0.double(), mixture(x, level).x0, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((torch.zeros(2, 3), torch.eye(3)[None]), "needs as many"),
        ((torch.zeros(1, 2), -torch.eye(2)[None]), "positive definite"),
        ((torch.zeros(1, 2), torch.eye(2)[None], torch.tensor([0.9])), "add up to 1"),
    ],
)
def test_wrong_input_is_named(arguments, word):
    with pytest.raises(ConfigError, match=word):
        Mixture(*arguments)
