"""The variational bound: where everything is Gaussian it is known, and it lies above the likelihood by what theory says."""

import math

import pytest
import torch

from intermodal.core.errors import ConfigError
from intermodal.diffusion.bound import (
    grid_log_likelihood,
    prior_nats,
    reverse_step_nats,
    variance_floor,
    variational_bound,
)
from intermodal.diffusion.denoiser import NetworkDenoiser, Prediction
from intermodal.diffusion.process import diffuse, posterior, step_variances
from intermodal.diffusion.schedules import DiscreteSchedule

SCHEDULE = DiscreteSchedule.linear(6, 0.05, 0.6)
VALUES = torch.linspace(-1, 1, 256, dtype=torch.float64)


@pytest.mark.parametrize("mean", [-3.0, -1.0, 0.1234, 0.9, 40.0])
@pytest.mark.parametrize("sigma", [1e-3, 0.02, 0.5, 30.0])
def test_the_decoder_is_a_distribution(mean, sigma):
    log = grid_log_likelihood(VALUES, torch.tensor(mean).double(), torch.tensor(math.log(sigma)).double())
    assert float(log.logsumexp(0)) == pytest.approx(0, abs=1e-9)
    assert not bool(log.isnan().any())


def test_the_decoder_is_the_mass_of_each_value():
    mean, sigma = 0.3, 0.05
    log = grid_log_likelihood(VALUES, torch.tensor(mean).double(), torch.tensor(math.log(sigma)).double())
    normal = torch.distributions.Normal(torch.tensor(mean).double(), sigma)
    edges = VALUES[:-1] + 1 / 255
    cdf = torch.cat((torch.zeros(1), normal.cdf(edges), torch.ones(1)))
    near = slice(120, 210)  # elsewhere the difference of two cdfs near 1 has no digits left
    assert torch.allclose(log[near], cdf.diff().log()[near], atol=1e-8)
    # Far out, where it has none, the expansion of a normal's tail, to 15 / z^6.
    far = float(
        grid_log_likelihood(VALUES[-1:], torch.tensor(-1.0).double(), torch.tensor(math.log(0.05), dtype=torch.float64))
    )
    z = (2 - 1 / 255) / 0.05
    assert far == pytest.approx(
        -(z**2) / 2 - math.log(z * math.sqrt(2 * math.pi)) + math.log1p(-1 / z**2 + 3 / z**4), abs=16 / z**6
    )


def test_the_decoder_in_float32():
    for sigma in (1e-3, 0.02, 30.0):
        args = torch.tensor(0.2), torch.tensor(math.log(sigma))
        log = grid_log_likelihood(VALUES.float(), *args)
        exact = grid_log_likelihood(VALUES, *(a.double() for a in args))
        assert torch.allclose(log.double(), exact, rtol=1e-3, atol=1e-3)


def test_prior_term_is_closed(draw):
    x0 = draw(3, 4)
    a, s = (float(v) for v in (SCHEDULE.alpha_bar[-1].sqrt(), (1 - SCHEDULE.alpha_bar[-1]).sqrt()))
    wanted = 0.5 * ((a * x0) ** 2 + s**2 - 1 - 2 * math.log(s)).sum(1)
    assert torch.allclose(prior_nats(x0, SCHEDULE), wanted)
    assert float(prior_nats(x0, SCHEDULE.zero_terminal_snr()).abs().max()) == 0


def linear_denoiser(slope):
    """One that says ``x0 = slope x`` at every level: with it the reverse process is Gaussian."""

    def denoiser(x, level, cond=None, /):
        x0 = slope * x
        return Prediction(x0, (x - float(level.alpha) * x0) / float(level.sigma))

    return denoiser


def chain(x0, slope):
    """Means and covariances of x_1 ... x_T under q given x0, and the density of all under p, for one dimension."""
    T, bar = len(SCHEDULE), SCHEDULE.alpha_bar
    mean = bar.sqrt() * x0
    covariance = torch.empty(T, T, dtype=torch.float64)
    for i in range(T):
        for j in range(i, T):
            covariance[i, j] = covariance[j, i] = (bar[j] / bar[i]).sqrt() * (1 - bar[i])
    return mean, covariance


def test_terms_are_their_expectations():
    """E_q[log q(x_1:T | x_0) - log p(x_1:T)] by linear algebra over the whole chain equals the prior's and steps' terms."""
    x0, slope = 0.6, 0.8
    mean, covariance = chain(x0, slope)
    T = len(SCHEDULE)
    entropy = 0.5 * (T * (1 + math.log(2 * math.pi)) + torch.logdet(covariance))
    expected = -entropy + 0.5 * (math.log(2 * math.pi) + covariance[-1, -1] + mean[-1] ** 2)
    for t in range(1, T):  # -E log p(x_(t-1) | x_t), index t of the table
        at, to = SCHEDULE.at_step(torch.tensor(t)), SCHEDULE.at_step(torch.tensor(t - 1))
        one = torch.ones(1, 1, dtype=torch.float64)
        factor = float(posterior(one, slope * one, at, to).mean)
        variance = max(float(step_variances(at, to)[0]), variance_floor(SCHEDULE))
        off = mean[t - 1] - factor * mean[t]
        spread = covariance[t - 1, t - 1] - 2 * factor * covariance[t - 1, t] + factor**2 * covariance[t, t]
        expected = expected + 0.5 * (math.log(2 * math.pi * variance) + (off**2 + spread) / variance)
    count = 40_000
    batch = torch.full((count, 1), x0, dtype=torch.float64)
    bound = variational_bound(linear_denoiser(slope), batch, SCHEDULE, torch.Generator().manual_seed(0))
    nats = (bound.prior_B + bound.steps_BK[:, 1:].sum(1)) * math.log(2)
    assert float(nats.mean()) == pytest.approx(float(expected), abs=5 * float(nats.std()) / math.sqrt(count))


def test_the_bound_lies_above_the_likelihood():
    """The model's own density, with its decoder, by quadrature over each step of the chain on a grid."""
    slope, x0 = 0.8, VALUES[170]
    grid = torch.linspace(-6, 6, 1201, dtype=torch.float64)
    width = grid[1] - grid[0]
    density = torch.exp(-(grid**2) / 2) / math.sqrt(2 * math.pi)
    floor = variance_floor(SCHEDULE)
    for t in range(len(SCHEDULE) - 1, 0, -1):
        at, to = SCHEDULE.at_step(torch.tensor(t)), SCHEDULE.at_step(torch.tensor(t - 1))
        mean = posterior(grid[:, None], slope * grid[:, None], at, to).mean[:, 0]
        variance = max(float(step_variances(at, to)[0]), floor)
        step = torch.exp(-((grid[None] - mean[:, None]) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)
        density = (density[:, None] * step).sum(0) * width
    at, to = SCHEDULE.at_step(torch.tensor(0)), SCHEDULE.at_step(torch.tensor(-1))
    last = posterior(grid[:, None], slope * grid[:, None], at, to).mean[:, 0]
    decoder = grid_log_likelihood(x0.expand_as(grid), last, torch.tensor(0.5 * math.log(floor)).double())
    bits = -float(((density * width).log() + decoder).logsumexp(0)) / math.log(2)
    count = 20_000
    bound = variational_bound(
        linear_denoiser(slope), x0.expand(count, 1), SCHEDULE, torch.Generator().manual_seed(1)
    ).total_B
    error = float(bound.std()) / math.sqrt(count)
    assert float(bound.mean()) > bits
    assert float(bound.mean()) < bits + 3  # and not by nonsense
    assert error < 0.1


def test_an_exact_denoiser_has_the_smallest_bound(mixture):
    """Among denoisers, the posterior mean minimises every term."""
    schedule = DiscreteSchedule.linear(20, 0.01, 0.3)
    x0, _ = mixture.sample(4000, torch.Generator().manual_seed(0))
    x0 = x0.clamp(-1, 1).mul(255 / 2).round() * 2 / 255

    def off(x, level, cond=None, /):
        said = mixture(x, level)
        return said._replace(x0=said.x0 * 1.1)

    exact, worse = (
        variational_bound(d, x0, schedule, torch.Generator().manual_seed(1), steps=range(4, 20)) for d in (mixture, off)
    )
    assert bool((exact.steps_BK.mean(0) < worse.steps_BK.mean(0)).all())


def test_a_part_of_the_steps_estimates_all(draw):
    schedule = DiscreteSchedule.linear(40, 0.01, 0.3)
    x0 = (draw(500, 3).clamp(-3, 3) / 3 * 127.5).round() / 127.5
    network = NetworkDenoiser(lambda x, t: torch.tanh(x), "eps", schedule)
    all_steps = variational_bound(network, x0, schedule, torch.Generator().manual_seed(0))
    assert all_steps.steps_BK.shape == (500, 40)
    assert torch.allclose(all_steps.total_B, all_steps.prior_B + all_steps.steps_BK.sum(1))
    assert torch.equal(all_steps.decoder_B, all_steps.steps_BK[:, 0])
    some = variational_bound(network, x0, schedule, torch.Generator().manual_seed(0), steps=[3, 0, 20])
    assert torch.allclose(some.total_B, some.prior_B + some.steps_BK.mean(1) * 40)
    assert torch.equal(some.decoder_B, some.steps_BK[:, 1])
    with pytest.raises(ConfigError, match="0 to 39"):
        variational_bound(network, x0, schedule, torch.Generator(), steps=[40])
    with pytest.raises(ConfigError, match="was not evaluated"):
        _ = variational_bound(network, x0, schedule, torch.Generator(), steps=[4]).decoder_B


def test_variances(draw):
    schedule = DiscreteSchedule.linear(10, 0.01, 0.3)
    x0 = (draw(50, 3).clamp(-3, 3) / 3 * 127.5).round() / 127.5
    plain = NetworkDenoiser(lambda x, t: 0.5 * x, "eps", schedule)

    def with_word(word):
        return NetworkDenoiser(
            lambda x, t: torch.cat((0.5 * x, torch.full_like(x, word)), 1), "eps", schedule, learns_variance=True
        )

    def total(denoiser, variance):
        return variational_bound(denoiser, x0, schedule, torch.Generator().manual_seed(0), variance=variance).total_B

    assert torch.allclose(total(with_word(-1.0), "learned_range"), total(plain, "small"))
    assert torch.allclose(total(with_word(1.0), "learned_range"), total(plain, "large"))
    with pytest.raises(ConfigError, match="twice as many channels"):
        total(plain, "learned_range")
    with pytest.raises(ConfigError, match="small, large, learned or learned_range, found 'medium'"):
        total(plain, "medium")
    one = DiscreteSchedule.linear(1)
    nats = reverse_step_nats(
        x0,
        x0,
        diffuse(x0, x0, one.level(0.0)),
        one.level(0.0),
        one.at_step(torch.tensor(-1)),
        floor=variance_floor(one),
        given=None,
        values=256,
        variance="large",
    )
    assert nats.shape == (50,)
    with pytest.raises(ConfigError, match="at least 2, found 1"):
        grid_log_likelihood(x0, x0, x0, 1)
