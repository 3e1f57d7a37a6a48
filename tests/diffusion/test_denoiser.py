"""Networks as denoisers, and what keeps a denoiser's word within bounds."""

import math

import pytest
import torch

from intermodal.core.errors import ConfigError
from intermodal.diffusion.continuous import VPCosine
from intermodal.diffusion.denoiser import Constrained, NetworkDenoiser, clip, dynamic_threshold
from intermodal.diffusion.predictions import KINDS, target
from intermodal.diffusion.process import diffuse
from intermodal.diffusion.schedules import CLEAN, DiscreteSchedule

SCHEDULE = DiscreteSchedule.linear()


@pytest.mark.parametrize("kind", KINDS)
def test_a_perfect_network_finds_both_parts(kind, draw):
    x0, eps = draw(3, 2, 4), draw(3, 2, 4, seed=1)
    level = SCHEDULE.level(torch.tensor([0.0, 500.0, 999.0]))
    said = NetworkDenoiser(lambda x, t: target(kind, x0, eps, level), kind, SCHEDULE)(diffuse(x0, eps, level), level)
    assert torch.allclose(said.x0, x0, atol=1e-9)
    assert torch.allclose(said.eps, eps, atol=1e-9)
    assert said.variance is None


def test_what_the_network_is_told(draw):
    told = []

    def network(x, t, cond=None):
        told.append((x.dtype, t, cond))
        return x

    NetworkDenoiser(network, "v", SCHEDULE)(draw(3, 2).float(), SCHEDULE.level(7.0))
    NetworkDenoiser(network, "v", VPCosine(), time_scale=1000)(draw(3, 2).float(), VPCosine().level(0.5), "cond")
    said = NetworkDenoiser(network, "v", SCHEDULE, dtype=torch.bfloat16)(draw(3, 2).float(), SCHEDULE.level(7.0))
    assert told[0][1].tolist() == [7, 7, 7]
    assert told[0][1].dtype == torch.float32
    assert told[0][2] is None
    assert (told[1][1].tolist(), told[1][2]) == ([500, 500, 500], "cond")
    assert told[2][0] == torch.bfloat16
    assert said.x0.dtype == torch.float32


def test_a_learnt_variance_is_the_second_half(draw):
    x = draw(2, 3, 4)
    network = NetworkDenoiser(lambda x, t: torch.cat((x, 2 * x), 1), "x0", SCHEDULE, learns_variance=True)
    said = network(x, SCHEDULE.level(5.0))
    assert torch.equal(said.x0, x)
    assert torch.equal(said.variance, 2 * x)


def test_wrong_networks_are_named(draw):
    x, level = draw(2, 3, 4), SCHEDULE.level(5.0)
    with pytest.raises(ConfigError, match=r"should return 3 channels, found \[2, 6, 4\]"):
        NetworkDenoiser(lambda x, t: torch.cat((x, x), 1), "eps", SCHEDULE)(x, level)
    with pytest.raises(ConfigError, match="should return 6 channels"):
        NetworkDenoiser(lambda x, t: x, "eps", SCHEDULE, learns_variance=True)(x, level)
    with pytest.raises(ConfigError, match="zero terminal SNR"):
        NetworkDenoiser(lambda x, t: x, "eps", SCHEDULE.zero_terminal_snr())
    with pytest.raises(ConfigError, match="found 'noise'"):
        NetworkDenoiser(lambda x, t: x, "noise", SCHEDULE)


@pytest.mark.parametrize("keep", [False, True])
def test_constrained(mixture, draw, keep):
    x, level = 3 * draw(5, 2), SCHEDULE.level(300.0)
    free, said = mixture(x, level), Constrained(mixture, clip(0.5), keep_eps=keep)(x, level)
    assert torch.equal(said.x0, free.x0.clamp(-0.5, 0.5))
    if keep:
        assert torch.equal(said.eps, free.eps)
    else:
        assert torch.allclose(diffuse(said.x0, said.eps, level), x)
    assert torch.equal(Constrained(mixture, clip(0.5))(x, CLEAN).eps, mixture(x, CLEAN).eps)


def test_dynamic_threshold_is_imagens(draw):
    x = torch.cat((3 * draw(1, 2, 50), 0.1 * draw(1, 2, 50, seed=1)))
    got = dynamic_threshold(0.9)(x)
    s = x[0].abs().flatten().quantile(0.9)
    assert torch.allclose(got[0], x[0].clamp(-s, s) / s)
    assert torch.equal(got[1], x[1])  # within -1..1 nothing happens
    assert torch.allclose(dynamic_threshold(0.9, 1.0)(x), x.clamp(-1, 1))
    assert dynamic_threshold()(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("make", [lambda: clip(0.0), lambda: clip(math.nan)])
def test_wrong_limits_are_named(make):
    with pytest.raises(ConfigError, match="above 0"):
        make()


@pytest.mark.parametrize("arguments", [(0.0,), (1.1,), (0.9, 0.5), (math.nan,)])
def test_wrong_thresholds_are_named(arguments):
    with pytest.raises(ConfigError, match="share above 0"):
        dynamic_threshold(*arguments)
