"""The forward process and its posterior: against composition, Bayes' rule, simulation and torch's distributions."""

import math

import pytest
import torch

from intermodal.core.errors import ConfigError
from intermodal.diffusion.continuous import Flow, VPCosine
from intermodal.diffusion.process import (
    Gaussian,
    diffuse,
    interpolated_log_variance,
    kl_divergence,
    marginal,
    posterior,
    step_variances,
    transition,
)
from intermodal.diffusion.schedules import CLEAN, DiscreteSchedule

SCHEDULE = DiscreteSchedule.linear(20, 0.01, 0.4)
PAIRS = [
    (SCHEDULE.level(7.0), SCHEDULE.level(6.0)),
    (SCHEDULE.level(19.0), SCHEDULE.level(3.0)),
    (VPCosine().level(0.8), VPCosine().level(0.1)),
    (Flow().level(0.6), Flow().level(0.55)),
    (VPCosine().level(1.0), VPCosine().level(0.5)),
]


def test_marginals_are_the_steps_composed():
    """From q(x_t | x_(t-1)) alone, mean and variance step by step."""
    x0 = torch.tensor([[2.0]], dtype=torch.float64)
    mean, variance = x0, torch.zeros(()).double()
    for t in range(20):
        beta = SCHEDULE.betas[t]
        mean, variance = (1 - beta).sqrt() * mean, (1 - beta) * variance + beta
        q = marginal(x0, SCHEDULE.level(float(t)))
        assert torch.allclose(q.mean, mean)
        assert torch.allclose(q.variance, variance)
        step = transition(x0, SCHEDULE.level(float(t)), SCHEDULE.at_step(torch.tensor(t - 1)))
        assert torch.allclose(step.mean, (1 - beta).sqrt() * x0)
        assert torch.allclose(step.variance, beta)


def test_simulated_steps_have_the_marginals():
    """100,000 chains walked through every step; means and variances within five standard errors."""
    count, generator = 100_000, torch.Generator().manual_seed(0)
    x = torch.full((count, 1), 1.5, dtype=torch.float64)
    for t in range(20):
        q = transition(x, SCHEDULE.level(float(t)), SCHEDULE.at_step(torch.tensor(t - 1)))
        x = q.at(torch.randn(count, 1, generator=generator, dtype=torch.float64))
        level = SCHEDULE.level(float(t))
        sigma = float(level.sigma)
        assert float(x.mean()) == pytest.approx(1.5 * float(level.alpha), abs=5 * sigma / math.sqrt(count))
        assert float(x.var()) == pytest.approx(sigma**2, abs=5 * sigma**2 * math.sqrt(2 / count))
    at_once = diffuse(torch.full((count, 1), 1.5).double(), torch.randn(count, 1, generator=generator).double(), level)
    assert float(at_once.mean()) == pytest.approx(float(x.mean()), abs=7 * sigma / math.sqrt(count))


@pytest.mark.parametrize(("at", "to"), PAIRS)
def test_posterior_is_bayes_rule(at, to):
    """q(x_s | x_t, x_0) from q(x_t | x_s) q(x_s | x_0) on a fine grid of x_s."""
    x0, x_t = 0.7, -1.1
    s = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    step = transition(s[:, None], at, to)
    prior = marginal(torch.full_like(s, x0)[:, None], to)
    log = -((x_t - step.mean[:, 0]) ** 2) / (2 * step.variance) - (s - prior.mean[:, 0]) ** 2 / (2 * prior.variance)
    weight = log.softmax(0)
    mean = (weight * s).sum()
    variance = (weight * (s - mean) ** 2).sum()
    got = posterior(torch.full((1, 1), x_t).double(), torch.full((1, 1), x0).double(), at, to)
    assert float(got.mean) == pytest.approx(float(mean), abs=1e-7)
    assert float(got.variance) == pytest.approx(float(variance), rel=1e-6)


def test_posterior_is_equation_7(draw):
    """With betas, as Ho et al. 2020 write it."""
    t, x_t, x0 = 7, draw(3, 2), draw(3, 2, seed=1)
    beta, bar, before = SCHEDULE.betas[t], SCHEDULE.alpha_bar[t], SCHEDULE.alpha_bar[t - 1]
    mean = before.sqrt() * beta / (1 - bar) * x0 + (1 - beta).sqrt() * (1 - before) / (1 - bar) * x_t
    got = posterior(x_t, x0, SCHEDULE.level(7.0), SCHEDULE.level(6.0))
    assert torch.allclose(got.mean, mean)
    small, large = step_variances(SCHEDULE.level(7.0), SCHEDULE.level(6.0))
    assert float(small) == pytest.approx(float((1 - before) / (1 - bar) * beta))
    assert float(large) == pytest.approx(float(beta))


def test_posterior_to_data_is_data(draw):
    x0 = draw(3, 2)
    got = posterior(draw(3, 2, seed=1), x0, SCHEDULE.level(4.0), CLEAN)
    assert torch.allclose(got.mean, x0)
    assert float(got.variance) == 0


def test_learnt_variance_lies_between(draw):
    at, to = SCHEDULE.level(7.0), SCHEDULE.level(6.0)
    small, large = (float(v) for v in step_variances(at, to))
    words = torch.tensor([[-1.0], [1.0], [0.0]], dtype=torch.float64)
    found = interpolated_log_variance(words, at, to, 1e-20).exp()
    assert found.flatten().tolist() == pytest.approx([small, large, math.sqrt(small * large)])
    assert float(interpolated_log_variance(words[:1], at, CLEAN, 1e-3).exp()) == pytest.approx(1e-3)


def test_divergence_is_torchs(draw):
    mean, other, log = draw(4, 3), draw(4, 3, seed=1), 0.3 * draw(4, 3, seed=2)
    variance = torch.tensor([0.5, 0.1, 2.0, 1.0], dtype=torch.float64)
    wanted = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, variance.sqrt()[:, None]),
        torch.distributions.Normal(other, (0.5 * log).exp()),
    )
    assert torch.allclose(kl_divergence(Gaussian(mean, variance), other, log), wanted)


def test_a_step_that_does_not_lead_back_is_refused(draw):
    x = draw(2, 2)
    for at, to in ((SCHEDULE.level(3.0), SCHEDULE.level(3.0)), (SCHEDULE.level(2.0), SCHEDULE.level(5.0))):
        with pytest.raises(ConfigError, match="to a cleaner one"):
            posterior(x, x, at, to)
