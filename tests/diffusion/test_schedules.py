"""Schedules: their definitions, their inverses, their ends."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from intermodal.core.errors import ConfigError
from intermodal.diffusion.continuous import Flow, Shifted, VarianceExploding, VPCosine, VPLinear, draw_logit_normal
from intermodal.diffusion.schedules import CLEAN, DiscreteSchedule, mix

CONTINUOUS = [VPCosine(), VPLinear(), Flow(), VarianceExploding(80.0), Shifted(Flow(), 3.0), Shifted(VPCosine(), 0.5)]
DISCRETE = [
    DiscreteSchedule.linear(),
    DiscreteSchedule.scaled_linear(),
    DiscreteSchedule.cosine(),
    DiscreteSchedule.sigmoid(),
    DiscreteSchedule.cosine(50),
    DiscreteSchedule.linear(100).zero_terminal_snr(),
    DiscreteSchedule.linear().shifted(2.0),
]


def test_discrete_equals_the_definition():
    """Products of ``1 - beta`` in plain Python (Ho et al. 2020, section 2)."""
    schedule, bar = DiscreteSchedule.linear(), 1.0
    for t in range(1000):
        bar *= 1 - (1e-4 + (0.02 - 1e-4) * t / 999)
        if t in (0, 1, 500, 999):
            level = schedule.level(float(t))
            assert float(level.alpha) == pytest.approx(math.sqrt(bar), rel=1e-12)
            assert float(level.sigma) == pytest.approx(math.sqrt(1 - bar), rel=1e-9)


def test_cosine_equals_equation_17():
    schedule = DiscreteSchedule.cosine(1000)

    def f(t):
        return math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2

    for step in (1, 10, 500, 990):
        assert float(schedule.alpha_bar[step - 1]) == pytest.approx(f(step) / f(0), rel=1e-10)
    assert float(schedule.betas.max()) == pytest.approx(0.999)


@pytest.mark.parametrize("schedule", [*CONTINUOUS, *DISCRETE])
def test_noise_grows_and_the_inverse_is_one(schedule):
    t = torch.arange(schedule.t_max + 1).double() if schedule.discrete else torch.linspace(0, schedule.t_max, 301)
    level = schedule.level(t)
    assert bool((level.ratio.diff() > 0).all())
    assert bool((level.log_snr.diff() < 0).all())
    back = schedule.at_ratio(level.ratio)
    assert torch.allclose(back.t, level.t, atol=1e-6 * schedule.t_max)
    assert torch.allclose(back.alpha, level.alpha, atol=1e-12)
    assert torch.allclose(back.sigma, level.sigma, atol=1e-9)
    if schedule.discrete or isinstance(schedule, VPCosine | VPLinear):
        assert torch.allclose(level.alpha**2 + level.sigma**2, torch.ones(()).double(), atol=1e-12)
    if isinstance(schedule, Flow):
        assert torch.equal(level.alpha + level.sigma, torch.ones_like(t, dtype=torch.float64))


@pytest.mark.parametrize("schedule", [VPCosine(), Flow(), Shifted(Flow(), 3.0), DISCRETE[5]])
def test_noise_alone_is_exact(schedule):
    end = schedule.level(schedule.t_max)
    assert (float(end.alpha), float(end.sigma)) == (0.0, 1.0)
    assert math.isinf(float(end.ratio))
    assert float(schedule.at_ratio(math.inf).t) == schedule.t_max


def test_zero_terminal_snr_keeps_the_first_step():
    before = DiscreteSchedule.scaled_linear()
    after = before.zero_terminal_snr()
    assert float(after.alpha_bar[0]) == pytest.approx(float(before.alpha_bar[0]), rel=1e-12)
    assert float(after.alpha_bar[-1]) == 0
    assert float(after.betas[-1]) == 1
    root = before.alpha_bar.sqrt()
    assert torch.allclose(after.alpha_bar.sqrt(), (root - root[-1]) * root[0] / (root[0] - root[-1]))


@given(st.floats(0.05, 20), st.floats(0.001, 0.999))
def test_shift_of_flow_is_the_published_one(factor, t):
    """Esser et al. 2024, equation 23; and log-SNR moves by ``-2 log factor``."""
    moved = Shifted(Flow(), factor).level(t)
    assert float(moved.sigma) == pytest.approx(factor * t / (1 + (factor - 1) * t), rel=1e-9)
    assert float(moved.log_snr) == pytest.approx(float(Flow().level(t).log_snr) - 2 * math.log(factor), abs=1e-9)


def test_shift_of_a_table_keeps_its_times():
    schedule = DiscreteSchedule.linear()
    moved = schedule.shifted(4.0)
    t = torch.arange(1000.0)
    assert torch.allclose(moved.level(t).ratio, 4 * schedule.level(t).ratio, rtol=1e-9)


def test_between_steps():
    schedule = DiscreteSchedule.linear()
    low, middle, high = (schedule.level(t) for t in (700.0, 700.25, 701.0))
    assert float(middle.ratio) == pytest.approx(0.75 * float(low.ratio) + 0.25 * float(high.ratio), rel=1e-12)
    end = DISCRETE[5].level(98.5)
    assert (float(end.alpha), float(end.sigma)) == (0.0, 1.0)
    assert schedule.at_step(torch.tensor([-1, 0, 5])).t.tolist() == [-1, 0, 5]
    assert float(schedule.at_ratio(0.0).t) == 0
    assert float(schedule.at_ratio(1e9).t) == 999


def test_log_linear_is_the_limit_of_many_steps():
    fine = DiscreteSchedule.linear(100_000, 0.1 / 100_000, 20 / 100_000)
    level, limit = fine.level(49_999.0), VPLinear().level(0.5)
    assert float(level.alpha) == pytest.approx(float(limit.alpha), rel=1e-3)


def test_times_are_drawn_from_the_generator():
    for schedule in (DISCRETE[0], Flow()):
        a, b = (schedule.draw(20_000, torch.Generator().manual_seed(3)) for _ in range(2))
        assert torch.equal(a, b)
        assert 0 <= float(a.min()) < float(a.max()) <= schedule.t_max
        assert float(a.mean()) == pytest.approx(schedule.t_max / 2, rel=0.02)
    assert set(DiscreteSchedule.linear(4).draw(200, torch.Generator().manual_seed(0)).tolist()) == {0, 1, 2, 3}
    t = draw_logit_normal(20_000, torch.Generator().manual_seed(0), mean=0.5)
    logit = torch.log(t / (1 - t))
    assert float(logit.mean()) == pytest.approx(0.5, abs=5 / math.sqrt(20_000))
    assert float(logit.std()) == pytest.approx(1, abs=5 / math.sqrt(40_000))


def test_mix_computes_in_float32_at_least():
    x = torch.full((2, 3), 1.0, dtype=torch.bfloat16)
    third = torch.tensor([1 / 3, 2 / 3], dtype=torch.float64)
    assert mix((third, x), (1 - third, x)).tolist() == [[1.0] * 3] * 2
    assert mix((third, x)).dtype == torch.bfloat16
    assert mix((third, x.double())).dtype == torch.float64
    assert float(CLEAN.alpha) == 1


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: DiscreteSchedule(torch.tensor([0.5, 0.5])), "fall strictly"),
        (lambda: DiscreteSchedule(torch.tensor([])), "fall strictly"),
        (lambda: DiscreteSchedule(torch.tensor([1.0, 0.5])), "below 1"),
        (lambda: DiscreteSchedule(torch.tensor([0.9, math.nan])), "fall strictly"),
        (lambda: DiscreteSchedule.linear(0), "at least one step"),
        (lambda: DiscreteSchedule.linear(1).zero_terminal_snr(), "one step"),
        (lambda: DiscreteSchedule.linear().level(1000.0), "from 0 to 999, found 1000"),
        (lambda: DiscreteSchedule.linear().level(torch.tensor([3.0, math.nan])), "from 0 to 999"),
        (lambda: Flow().level(1.01), "from 0 to 1"),
        (lambda: Flow().at_ratio(-1.0), "at least 0"),
        (lambda: Shifted(Flow(), 0.0), "above 0"),
        (lambda: Shifted(DiscreteSchedule.linear(), 2.0), "its own method"),
        (lambda: VPLinear(2.0, 1.0), "low < high"),
        (lambda: VarianceExploding(math.inf), "finite"),
    ],
)
def test_wrong_input_is_named(make, word):
    with pytest.raises(ConfigError, match=word):
        make()
