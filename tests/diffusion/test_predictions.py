"""What networks predict: every kind from every other, exactly."""

import itertools
import math

import pytest
import torch

from intermodal.core.errors import ConfigError
from intermodal.diffusion.continuous import Flow, VarianceExploding, VPCosine, VPLinear
from intermodal.diffusion.predictions import KINDS, convert, score, split, target
from intermodal.diffusion.process import diffuse
from intermodal.diffusion.schedules import DiscreteSchedule

SCHEDULES = [DiscreteSchedule.linear(), VPCosine(), VPLinear(), Flow(), VarianceExploding()]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("source", "to"), list(itertools.product(KINDS, KINDS)))
def test_every_kind_from_every_other(schedule, source, to, draw):
    t = torch.tensor([0.02, 0.3, 0.7, 0.97]).double() * schedule.t_max
    level = schedule.level(t.round() if schedule.discrete else t)
    x0, eps = draw(4, 3, 2), draw(4, 3, 2, seed=1)
    x = diffuse(x0, eps, level)
    there = convert(source, to, target(source, x0, eps, level), x, level)
    assert torch.allclose(there, target(to, x0, eps, level), atol=1e-9)
    # A network's output is no truth: the round trip must hold for any numbers.
    output = draw(4, 3, 2, seed=2)
    back = convert(to, source, convert(source, to, output, x, level), x, level)
    assert torch.allclose(back, output, atol=1e-8)


def test_definitions(draw):
    x0, eps = draw(2, 3), draw(2, 3, seed=1)
    level = VPCosine().level(0.3)
    a, s = math.cos(0.15 * math.pi), math.sin(0.15 * math.pi)
    assert torch.allclose(target("v", x0, eps, level), a * eps - s * x0)
    assert torch.allclose(target("flow", x0, eps, level), eps - x0)
    # v is the derivative of x by the angle, flow that of the straight path by time.
    step = 1e-6
    ahead = VPCosine().level(0.3 + step * 2 / math.pi)
    slope = (diffuse(x0, eps, ahead) - diffuse(x0, eps, level)) / step
    assert torch.allclose(slope, target("v", x0, eps, level), atol=1e-5)
    slope = (diffuse(x0, eps, Flow().level(0.3 + step)) - diffuse(x0, eps, Flow().level(0.3))) / step
    assert torch.allclose(slope, target("flow", x0, eps, level), atol=1e-5)


@pytest.mark.parametrize("kind", ["v", "flow"])
@pytest.mark.parametrize("t", [0.0, 1.0])
def test_v_and_flow_hold_at_both_ends(kind, t, draw):
    x0, eps = draw(2, 3), draw(2, 3, seed=1)
    level = VPCosine().level(t)
    got = split(kind, target(kind, x0, eps, level), diffuse(x0, eps, level), level)
    assert torch.allclose(got[0], x0)
    assert torch.allclose(got[1], eps)


def test_what_an_end_does_not_say_is_refused(draw):
    x = draw(2, 3)
    with pytest.raises(ConfigError, match="alpha = 0 a prediction of eps says nothing of the clean sample"):
        split("eps", x, x, VPCosine().level(1.0))
    with pytest.raises(ConfigError, match="sigma = 0 a prediction of x0 says nothing of the noise"):
        split("x0", x, x, VPCosine().level(torch.tensor([0.5, 0.0])))
    with pytest.raises(ConfigError, match="the score"):
        score(x, VPCosine().level(0.0))
    with pytest.raises(ConfigError, match="eps, x0, v, flow, found 'velocity'"):
        target("velocity", x, x, VPCosine().level(0.5))
    # The kinds that do not ask for the other are untouched there.
    assert convert("eps", "eps", x, x, VPCosine().level(1.0)) is x


def test_score_is_the_gradient_of_the_log_density(mixture, draw):
    x, level = draw(5, 2).requires_grad_(), VPCosine().level(0.4)
    (gradient,) = torch.autograd.grad(mixture.log_prob(x, level).sum(), x)
    said = mixture(x.detach(), level)
    assert torch.allclose(score(said.eps, level), gradient, atol=1e-12)
    assert torch.allclose(mixture.score(x.detach(), level), gradient, atol=1e-12)
