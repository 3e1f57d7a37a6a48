"""Training objectives: against the equations and brute force."""

import math

import pytest
import torch

from intermodal.core.errors import ConfigError
from intermodal.diffusion.continuous import Flow, VarianceExploding, VPCosine
from intermodal.diffusion.objectives import hybrid_loss, min_snr_weight, simple_loss, variance_loss
from intermodal.diffusion.predictions import KINDS, split, target
from intermodal.diffusion.process import diffuse
from intermodal.diffusion.schedules import DiscreteSchedule

SCHEDULE = DiscreteSchedule.linear(50, 1e-3, 0.3)


def test_simple_loss_is_the_mean_square(draw):
    x0, eps, output = draw(3, 2, 4), draw(3, 2, 4, seed=1), draw(3, 2, 4, seed=2)
    level = SCHEDULE.level(torch.tensor([0.0, 20.0, 49.0]))
    for kind in KINDS:
        wanted = ((output - target(kind, x0, eps, level)) ** 2).mean()
        assert torch.allclose(simple_loss(output, kind, x0, eps, level), wanted)
    weight = torch.tensor([0.5, 2.0, 0.0], dtype=torch.float64)
    squares = ((output - eps) ** 2).mean((1, 2))
    assert torch.allclose(simple_loss(output, "eps", x0, eps, level, weight_B=weight), (weight * squares).mean())
    with pytest.raises(ConfigError, match=r"shape \[3, 2, 4\], found \[3, 1, 4\]"):
        simple_loss(output[:, :1], "eps", x0, eps, level)


def test_half_precision_is_averaged_in_float32(draw):
    x = draw(2, 1000).bfloat16()
    loss = simple_loss(x, "x0", torch.zeros_like(x), x, SCHEDULE.level(3.0))
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(float(x.float().square().mean()), rel=1e-6)


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_is_the_published_one(gamma):
    """Hang et al. 2023, section 3.4 and appendix, for each kind."""
    snr = SCHEDULE.alpha_bar / (1 - SCHEDULE.alpha_bar)
    capped = snr.clamp(max=gamma)
    level = SCHEDULE.level(torch.arange(50))
    for kind, wanted in (("eps", capped / snr), ("v", capped / (snr + 1)), ("x0", capped)):
        assert torch.allclose(min_snr_weight(kind, level, gamma), wanted, rtol=1e-9)


@pytest.mark.parametrize("schedule", [SCHEDULE, VPCosine(), Flow(), VarianceExploding()])
def test_all_kinds_weigh_the_clean_sample_alike(schedule, draw):
    level = schedule.level(
        torch.tensor([0.1, 0.5, 0.9]).double().mul(schedule.t_max).round(decimals=0 if schedule.discrete else 3)
    )
    x0, eps, error = draw(3, 4), draw(3, 4, seed=1), draw(3, 4, seed=2)
    x = diffuse(x0, eps, level)
    losses = []
    for kind in KINDS:  # each network errs by the same in x0
        wrong_eps = split("x0", x0 + error, x, level)[1]
        output = target(kind, x0 + error, wrong_eps, level)
        losses.append(simple_loss(output, kind, x0, eps, level, weight_B=min_snr_weight(kind, level)))
    assert torch.allclose(torch.stack(losses), losses[0].expand(4), rtol=1e-9)


def test_min_snr_at_the_ends():
    clean, noise = VPCosine().level(0.0), VPCosine().level(1.0)
    assert [float(min_snr_weight(k, clean)) for k in KINDS] == [0, 5, 0, 0]
    assert [float(min_snr_weight(k, noise)) for k in KINDS] == [1, 0, 0, 0]
    with pytest.raises(ConfigError, match="gamma must be above 0, found nan"):
        min_snr_weight("eps", clean, math.nan)


def by_hand(fraction, said, x0, x_t, t):
    """The bound's term of one sample in bits per dimension, scalar by scalar (Nichol & Dhariwal 2021, equations 4-6, 15)."""
    bar = SCHEDULE.alpha_bar.tolist()
    before = bar[t - 1] if t else 1.0
    beta = 1 - bar[t] / before
    small = (1 - before) / (1 - bar[t]) * beta
    floor = (1 - bar[0]) / (1 - bar[1]) * (1 - bar[1] / bar[0])
    total = 0.0
    for f, s, x, n in zip(fraction, said, x0, x_t, strict=True):
        v = (f + 1) / 2
        log_variance = v * math.log(beta) + (1 - v) * math.log(max(small, floor))

        def mean(value, noisy=n):
            a, b = math.sqrt(before) * beta / (1 - bar[t]), math.sqrt(1 - beta) * (1 - before) / (1 - bar[t])
            return a * value + b * noisy

        if t:
            q = max(small, floor)
            kl = log_variance - math.log(q) - 1 + (q + (mean(x) - mean(s)) ** 2) / math.exp(log_variance)
            total += kl / 2
        else:
            sigma, half = math.exp(log_variance / 2), 1 / 255

            def cdf(z, sigma=sigma):
                return 0.5 * math.erfc(-z / sigma / math.sqrt(2))

            upper = 1.0 if x > 0.999 else cdf(x + half - mean(s))
            lower = 0.0 if x < -0.999 else cdf(x - half - mean(s))
            total -= math.log(upper - lower)
    return total / len(x0) / math.log(2)


def test_variance_loss_is_the_bound_by_hand(draw):
    steps = torch.tensor([0, 1, 7, 49])
    x0 = torch.tensor([[-1.0, 1.0, 3 / 255], [1 / 255, -0.2, 0.6], [0.1, 0.2, 0.3], [-0.5, 0.4, 0.0]]).double()
    x_t = diffuse(x0, draw(4, 3), SCHEDULE.at_step(steps))
    output, fraction = draw(4, 3, seed=1), draw(4, 3, seed=2).tanh()
    said = split("eps", output, x_t, SCHEDULE.at_step(steps))[0]
    wanted = [
        by_hand(f, s, x, n, t)
        for f, s, x, n, t in zip(
            fraction.tolist(), said.tolist(), x0.tolist(), x_t.tolist(), steps.tolist(), strict=True
        )
    ]
    got = variance_loss(fraction, output, "eps", x0, x_t, schedule=SCHEDULE, step_B=steps)
    assert float(got) == pytest.approx(50 * sum(wanted) / 4, rel=1e-9)


def test_the_mean_learns_nothing_from_the_variance(draw):
    x0, steps = draw(3, 2).clamp(-1, 1), torch.tensor([0, 4, 40])
    x_t = diffuse(x0, draw(3, 2, seed=1), SCHEDULE.at_step(steps))
    output, fraction = draw(3, 2, seed=2).requires_grad_(), torch.zeros(3, 2).double().requires_grad_()
    bits = variance_loss(fraction, output, "v", x0, x_t, schedule=SCHEDULE, step_B=steps)
    simple = simple_loss(output, "v", x0, draw(3, 2, seed=1), SCHEDULE.at_step(steps))
    total = hybrid_loss(simple, bits)
    assert torch.allclose(total, simple + 0.001 * math.log(2) * bits, rtol=1e-12)
    total.backward()
    wanted = torch.autograd.grad(simple_loss(output, "v", x0, draw(3, 2, seed=1), SCHEDULE.at_step(steps)), output)[0]
    assert torch.equal(output.grad, wanted)
    assert bool((fraction.grad != 0).all())
    assert torch.autograd.gradcheck(
        lambda f: variance_loss(f, output.detach(), "v", x0, x_t, schedule=SCHEDULE, step_B=steps), fraction
    )
