"""Samplers on distributions whose denoiser is exact: orders of error, equal processes, inversion, seeds."""

import itertools
import math

import pytest
import torch

from intermodal.core.errors import ConfigError
from intermodal.diffusion.continuous import Flow, VarianceExploding, VPCosine, VPLinear
from intermodal.diffusion.denoiser import NetworkDenoiser
from intermodal.diffusion.grids import make_grid
from intermodal.diffusion.mixtures import Mixture
from intermodal.diffusion.samplers import (
    ddim,
    ddim_inversion,
    ddpm,
    dpm_solver,
    dpm_solver_singlestep,
    euler,
    euler_ancestral,
    heun,
    slerp,
    start,
)
from intermodal.diffusion.schedules import DiscreteSchedule

HIGH, LOW = 20.0, 0.02
CONTINUOUS = {"linear": VPLinear(), "cosine": VPCosine(), "flow": Flow(), "exploding": VarianceExploding()}
SOLVERS = {
    "ddim": (1, ddim),
    "euler": (1, euler),
    "heun": (2, heun),
    "heun in flow": (2, lambda *a, **k: heun(*a, **k, coordinate="flow")),
    "dpm 2m": (2, dpm_solver),
    "dpm 2m heun": (2, lambda *a, **k: dpm_solver(*a, **k, solver="heun")),
    "dpm 3m": (3, lambda *a, **k: dpm_solver(*a, **k, order=3)),
    "dpm 3m as published": (2, lambda *a, **k: dpm_solver(*a, **k, order=3, published=True)),
    "dpm order 1": (1, lambda *a, **k: dpm_solver(*a, **k, order=1)),
}


def even(schedule, steps):
    """Levels even in log-SNR between two ends, the last not clean: there the equation is smooth throughout."""
    ratios = torch.exp(torch.linspace(math.log(HIGH), math.log(LOW), steps + 1, dtype=torch.float64))
    return tuple(schedule.at_ratio(r) for r in ratios)


def solution(mixture, schedule, x):
    """The probability-flow equation by a Runge-Kutta method of the fourth order, in ``y = x / alpha`` over log ratio."""
    steps, log = 300, math.log(HIGH)
    h = (math.log(LOW) - log) / steps

    def slope(y, log):
        level = schedule.at_ratio(math.exp(log))
        return math.exp(log) * mixture(y * level.alpha, level).eps

    y = x / schedule.at_ratio(HIGH).alpha
    for _ in range(steps):
        a = slope(y, log)
        b = slope(y + h / 2 * a, log + h / 2)
        c = slope(y + h / 2 * b, log + h / 2)
        d = slope(y + h * c, log + h)
        y, log = y + h / 6 * (a + 2 * b + 2 * c + d), log + h
    return y * schedule.at_ratio(LOW).alpha


@pytest.fixture(scope="module")
def solved(mixture):
    """Starting noise and where it should end, for each schedule."""
    found = {}
    for name, schedule in CONTINUOUS.items():
        x = torch.randn(32, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        x = x * schedule.at_ratio(HIGH).sigma
        found[name] = x, solution(mixture, schedule, x)
    return found


@pytest.mark.parametrize("solver", [*SOLVERS, "dpm 2s"])
@pytest.mark.parametrize("name", CONTINUOUS)
def test_the_error_has_the_order_of_theory(solver, name, mixture, solved):
    """The error is C h^p (1 + O(h)): between n and 2n steps it falls by 2^p, to within 0.1 of p at n = 64 and 128.

    The third order is measured at half as many: its first step, of the first order, errs by a tiny h^2 that shows later.
    """
    schedule, (x, wanted) = CONTINUOUS[name], solved[name]
    order, sample = SOLVERS.get(solver, (2, lambda d, x, g: dpm_solver_singlestep(d, x, g, schedule)))
    counts = (32, 64, 128) if order == 3 else (64, 128, 256)
    errors = [float((sample(mixture, x, even(schedule, n)) - wanted).norm(dim=1).mean()) for n in counts]
    slopes = [math.log2(errors[i] / errors[i + 1]) for i in (0, 1)]
    assert abs(slopes[1] - order) < 0.1, slopes
    assert abs(slopes[1] - order) <= abs(slopes[0] - order) + 0.02, slopes  # and it comes closer


def moments(sample, schedule, steps, variance=0.5):
    """Mean square of a sampler's result on a Gaussian, exactly: it is linear in its start and in each step's noise."""
    gaussian = Mixture(torch.zeros(1, 1), torch.full((1, 1, 1), variance))
    grid = even(schedule, steps)
    x = torch.zeros(steps + 1, 1, dtype=torch.float64)
    x[0] = (float(grid[0].alpha) ** 2 * variance + float(grid[0].sigma) ** 2) ** 0.5
    place = iter(range(1, steps + 1))

    def noise(like):
        one = torch.zeros_like(like)
        one[next(place)] = 1
        return one

    got = float(sample(gaussian, x, grid, noise).square().sum())
    wanted = float(grid[-1].alpha) ** 2 * variance + float(grid[-1].sigma) ** 2
    return got, wanted


@pytest.mark.parametrize(
    ("sample", "order"),
    [
        (ddpm, 1),
        (lambda *a: ddpm(*a, variance="large"), 1),
        (euler_ancestral, 1),
        (lambda *a: ddim(*a, eta=0.5), 1),
        (lambda *a: dpm_solver(*a, order=1, stochastic=True), 1),
    ],
)
def test_the_variance_of_stochastic_samplers_converges(sample, order):
    errors = []
    for steps in (64, 128, 256):
        got, wanted = moments(sample, VPLinear(), steps)
        errors.append(abs(got - wanted))
    slope = math.log2(errors[1] / errors[2])
    assert abs(slope - order) < 0.1, errors


def test_the_second_order_is_better_with_noise_too():
    def error(steps, **options):
        got, wanted = moments(lambda *a: dpm_solver(*a, stochastic=True, **options), VPLinear(), steps)
        return abs(got - wanted)

    for steps in (32, 64, 128):
        assert error(steps, order=3) < error(steps) < error(steps, order=1) / 2


def test_four_names_of_one_process(mixture, draw):
    """DDPM with the small variance, DDIM at eta = 1, ancestral Euler, and the stochastic DPM-Solver of order 1."""
    schedule = DiscreteSchedule.linear()
    grid, x = make_grid(schedule, 12), draw(6, 2)
    results = []
    for sample in (
        ddpm,
        lambda *a: ddim(*a, eta=1.0),
        euler_ancestral,
        lambda *a: dpm_solver(*a, order=1, stochastic=True),
    ):
        generator = torch.Generator().manual_seed(4)
        results.append(sample(mixture, x, grid, lambda y, g=generator: torch.randn(y.shape, generator=g).to(y)))
    for other in results[1:]:
        assert torch.allclose(other, results[0], atol=1e-9)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_three_names_of_one_solver(name, mixture, solved):
    """DDIM, Euler's method in either coordinate, and DPM-Solver++ of the first order."""
    schedule, x = CONTINUOUS[name], solved[name][0]
    grid = even(schedule, 9)
    first = ddim(mixture, x, grid)
    assert torch.allclose(euler(mixture, x, grid), first, atol=1e-12)
    assert torch.allclose(dpm_solver(mixture, x, grid, order=1), first, atol=1e-12)
    state = x
    for at, to in itertools.pairwise(grid):  # dx = (eps - x0) dt, and dy = eps dr
        said = mixture(state, at)
        flow = state / (at.alpha + at.sigma) + (to.sigma / (to.alpha + to.sigma) - at.sigma / (at.alpha + at.sigma)) * (
            said.eps - said.x0
        )
        ratio = state / at.alpha + (to.ratio - at.ratio) * said.eps
        state = flow * (to.alpha + to.sigma)
        assert torch.allclose(state, ratio * to.alpha, atol=1e-12)
    assert torch.allclose(state, first, atol=1e-12)


def test_one_step_from_noise_alone_is_the_mean(mixture, draw):
    mean = (mixture.weight[:, None] * mixture.mean).sum(0)
    for schedule in (Flow(), VPCosine(), DiscreteSchedule.linear().zero_terminal_snr()):
        grid = make_grid(schedule, 1)
        for sample in (ddim, euler, dpm_solver, lambda *a: heun(*a, coordinate="flow")):
            assert torch.allclose(sample(mixture, draw(3, 2), grid), mean.expand(3, 2), atol=1e-12)


@pytest.mark.parametrize("schedule", [Flow(), VPCosine(), DiscreteSchedule.scaled_linear().zero_terminal_snr()])
def test_from_noise_alone_every_sampler_is_finite(schedule, mixture, draw):
    grid, x = make_grid(schedule, 8), draw(4, 2)
    noise = torch.Generator().manual_seed(0)
    for sample in (
        ddim,
        ddpm,
        euler_ancestral,
        dpm_solver,
        lambda *a: dpm_solver(*a, stochastic=True),
        lambda d, x, g, n: heun(d, x, g, coordinate="flow"),
        lambda d, x, g, n: euler(d, x, g, n, churn=1.0, schedule=schedule),
        lambda d, x, g, n: dpm_solver_singlestep(d, x, g, schedule),
    ):
        assert bool(sample(mixture, x, grid, noise).isfinite().all())
    with pytest.raises(ConfigError, match="coordinate='flow'"):
        heun(mixture, x, grid)


def test_samples_have_the_distribution(mixture):
    """Shares of the three components and the moments, of 4,000 samples by DDPM and by DDIM."""
    schedule, count = DiscreteSchedule.linear(), 4000
    truth, _ = mixture.sample(200_000, torch.Generator().manual_seed(9))
    for sample, steps in ((ddpm, 200), (ddim, 100), (dpm_solver, 40)):
        generator = torch.Generator().manual_seed(1)
        grid = make_grid(schedule, steps)
        got = sample(mixture, start((count, 2), grid, generator).double(), grid, generator)
        assert torch.allclose(got.mean(0), truth.mean(0), atol=0.08)
        assert torch.allclose(got.T.cov(), truth.T.cov(), atol=0.12)


def test_churn_keeps_the_distribution():
    """With much churn and many steps a Gaussian's variance stays right; without the noise it would not."""

    def run(churn_noise):
        gaussian = Mixture(torch.zeros(1, 1), torch.full((1, 1, 1), 0.5))
        generator = torch.Generator().manual_seed(0)
        schedule = VPLinear()
        grid = even(schedule, 120)
        x = start((10_000, 1), grid, generator).double()
        options = {"churn": 40.0, "churn_noise": churn_noise, "schedule": schedule}
        return float(heun(gaussian, x, grid, generator, **options).var())

    assert run(1.0) == pytest.approx(0.5, rel=0.04)
    assert run(0.5) < 0.4


def test_inversion_and_back(mixture):
    schedule = DiscreteSchedule.linear()
    x0, _ = mixture.sample(16, torch.Generator().manual_seed(3))
    gaps = []
    for steps, refine in ((50, 0), (100, 0), (50, 3), (50, 30)):
        grid = make_grid(schedule, steps, "leading", end="least")
        noise = ddim_inversion(mixture, x0, grid, refine=refine)
        gaps.append(float((ddim(mixture, noise, grid) - x0).norm(dim=1).mean()))
    assert gaps[1] < 0.7 * gaps[0]  # the plain inversion errs by the order of the step
    assert gaps[2] < 0.1 * gaps[0]
    assert gaps[3] < 1e-9  # the fixed point is the exact inverse


def test_inversion_of_clean_data_needs_more_than_x0(draw):
    schedule = DiscreteSchedule.linear()
    denoiser = NetworkDenoiser(lambda x, t: x, "x0", schedule)
    with pytest.raises(ConfigError, match="nothing of the noise"):
        ddim_inversion(denoiser, draw(2, 2), make_grid(schedule, 5))
    with pytest.raises(ConfigError, match="from 0, found -1"):
        ddim_inversion(denoiser, draw(2, 2), make_grid(schedule, 5), refine=-1)


def test_slerp(draw):
    a, b = draw(4, 3, 5), draw(4, 3, 5, seed=1)
    assert torch.allclose(slerp(a, b, 0.0), a)
    assert torch.allclose(slerp(a, b, 1.0), b)
    unit_a, unit_b = (v / v.flatten(1).norm(dim=1)[:, None, None] for v in (a, b))
    for share in (0.2, 0.5, 0.9):
        middle = slerp(unit_a, unit_b, share)
        assert torch.allclose(middle.flatten(1).norm(dim=1), torch.ones(4).double())
        cosine = (middle * unit_a).flatten(1).sum(1)
        whole = torch.acos((unit_a * unit_b).flatten(1).sum(1))
        assert torch.allclose(torch.acos(cosine), share * whole)
    assert torch.allclose(slerp(a, 2 * a, 0.5), 1.5 * a)
    assert torch.allclose(slerp(a, 0 * a, 0.25), 0.75 * a)
    with pytest.raises(ConfigError, match="opposite"):
        slerp(a, -a, 0.5)
    with pytest.raises(ConfigError, match="one shape"):
        slerp(a, b[:3], 0.5)


def test_seeds(mixture):
    schedule = DiscreteSchedule.linear()
    grid = make_grid(schedule, 6)

    def run(noise, count=3, like=None):
        return ddpm(mixture, start((count, 2), grid, noise, like), grid, noise)

    one, same, other = (run(torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    # In another type the noise is the same, not another draw.
    double = run(torch.Generator().manual_seed(0), like=torch.empty(0, dtype=torch.float64))
    assert torch.allclose(double.float(), one, atol=1e-4)
    # One generator a sample: each is what it would be alone.
    many = run([torch.Generator().manual_seed(s) for s in (5, 6, 7)])
    alone = run([torch.Generator().manual_seed(6)], 1)
    assert torch.allclose(many[1:2], alone, atol=1e-6)
    with pytest.raises(ConfigError, match="3 samples needs as many generators, found 2"):
        run([torch.Generator(), torch.Generator()])
    with pytest.raises(ConfigError, match="adds noise"):
        ddpm(mixture, torch.zeros(1, 2), grid, None)
    with pytest.raises(ConfigError, match="adds noise"):
        ddim(mixture, torch.zeros(1, 2), grid, eta=0.5)


def test_watch_sees_every_step(mixture, draw):
    schedule, x = DiscreteSchedule.linear(), draw(3, 2)
    grid = make_grid(schedule, 5)
    noise = torch.Generator().manual_seed(0)
    for sample in (ddpm, ddim, euler, heun, dpm_solver, euler_ancestral):
        seen = []
        got = sample(mixture, x, grid, noise, watch=seen.append)
        assert [(s.done, s.steps, float(s.level.t)) for s in seen] == [(i, 5, float(grid[i].t)) for i in range(5)]
        assert torch.equal(seen[0].x, x)
        assert torch.equal(seen[0].x0, mixture(x, grid[0]).x0)
        assert torch.allclose(seen[-1].x0, got)  # a last step that ends clean ends at the prediction


def test_conditions_reach_the_denoiser(mixture, draw):
    grid, cond = make_grid(DiscreteSchedule.linear(), 4), torch.tensor([1, 0, 1])
    x, noise = draw(3, 2), torch.Generator().manual_seed(0)
    for sample in (ddim, euler, heun, dpm_solver):
        with_cond = sample(mixture, x, grid, cond=cond)
        assert torch.equal(with_cond, sample(lambda x, level, c: mixture(x, level, cond), x, grid))
        assert not torch.allclose(with_cond, sample(mixture, x, grid))
    assert ddpm(mixture, x, grid, noise, cond=cond).shape == x.shape


def test_half_precision_keeps_its_state_in_float32(mixture, draw):
    schedule, x = DiscreteSchedule.linear(), draw(8, 2)
    grid = make_grid(schedule, 100)
    half = ddim(mixture, x.bfloat16(), grid)
    assert half.dtype == torch.bfloat16
    assert torch.allclose(half.double(), ddim(mixture, x.bfloat16().double(), grid), atol=0.05)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda d, x, g: ddim(d, x, g, eta=1.5), "found 1.5"),
        (lambda d, x, g: ddim(d, x, g, eta=math.nan), "found nan"),
        (lambda d, x, g: ddim(d, x, g[:1]), "at least one step"),
        (lambda d, x, g: heun(d, x, g, coordinate="time"), "found 'time'"),
        (lambda d, x, g: euler(d, x, g, churn=-1.0), "not negative"),
        (lambda d, x, g: euler(d, x, g, churn=1.0), "give the schedule"),
        (lambda d, x, g: dpm_solver(d, x, g, order=4), "order 1, 2 or 3"),
        (lambda d, x, g: dpm_solver(d, x, g, order=3, published=True, stochastic=True), "wrong sign"),
        (lambda d, x, g: dpm_solver(d, x, g, solver="euler"), "midpoint or heun"),
        (lambda d, x, g: dpm_solver_singlestep(d, x, g, DiscreteSchedule.linear(), middle=1.0), "share"),
    ],
)
def test_wrong_input_is_named(call, word, mixture, draw):
    with pytest.raises(ConfigError, match=word):
        call(mixture, draw(2, 2), make_grid(DiscreteSchedule.linear(), 4))
