"""Solvers of the probability-flow equation, whose solutions have the marginals of the process: Euler and Heun.

In the coordinates ``y = x / alpha`` and ``r = sigma / alpha`` the equation is ``dy/dr = eps`` (Karras et al. 2022,
equation 1 with s = 1), in ``y = x / (alpha + sigma)`` and ``tau = sigma / (alpha + sigma)`` it is ``dy/dtau = eps - x0``
(flow matching's). A step of Euler is the same in both, and the same as DDIM's with eta = 0. Heun's differs; only the
second begins where the sample is noise alone (alpha = 0, r infinite).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from torch import Tensor

from intermodal.core.errors import ConfigError
from intermodal.diffusion.denoiser import Cond, Denoiser
from intermodal.diffusion.grids import Grid
from intermodal.diffusion.samplers.common import Noise, NoiseSource, Step, Watch, noise_source, number, steps_of, wide
from intermodal.diffusion.samplers.ddim import churned, ddim_step, raise_noise
from intermodal.diffusion.schedules import Level, Schedule, mix

Coordinate = Literal["ratio", "flow"]


def euler(
    denoiser: Denoiser,
    x: Tensor,
    grid: Grid,
    noise: Noise = None,
    *,
    churn: float = 0.0,
    churn_between: tuple[float, float] = (0.0, math.inf),
    churn_noise: float = 1.0,
    schedule: Schedule | None = None,
    cond: Cond = None,
    watch: Watch | None = None,
) -> Tensor:
    """Return samples of Euler's method, an error of the first order in the step; without churn it is DDIM at eta = 0.

    Args:
        denoiser: says what is signal and what is noise.
        x: ``(B, ...)`` noise at the grid's first level.
        grid: of :func:`~intermodal.diffusion.grids.make_grid`.
        noise: where churn's noise comes from.
        churn: S_churn of Karras et al. 2022, algorithm 2: noise added before each step, so that the step removes more.
            (diffusers evaluates the network before that noise is added, the paper and this function after.)
        churn_between: ratios between which there is churn.
        churn_noise: standard deviation of its noise, S_noise.
        schedule: of the grid, needed for churn, whose levels are between those of the grid.
        cond: handed to the denoiser.
        watch: called before each step.

    Returns:
        Samples at the grid's last level, the shape and type of x.
    """
    draw, steps = noise_source(noise), len(grid) - 1
    raised = _churning(draw, steps, churn=churn, between=churn_between, scale=churn_noise, schedule=schedule)
    state = wide(x)
    for index, begin, to in steps_of(grid):
        state, at = raised(state, begin)
        said = denoiser(state, at, cond)
        if watch is not None:
            watch(Step(index, steps, at, state, said.x0))
        state = ddim_step(said, at, to)
    return state.to(x.dtype)


# --8<-- [start:heun]
def heun(
    denoiser: Denoiser,
    x: Tensor,
    grid: Grid,
    noise: Noise = None,
    *,
    coordinate: Coordinate = "ratio",
    churn: float = 0.0,
    churn_between: tuple[float, float] = (0.0, math.inf),
    churn_noise: float = 1.0,
    schedule: Schedule | None = None,
    cond: Cond = None,
    watch: Watch | None = None,
) -> Tensor:
    """Return samples of Heun's method: a step of Euler, corrected by the slope at its end (Karras et al. 2022, alg. 1).

    An error of the second order, for two evaluations a step; a step that ends clean is Euler's.

    Args:
        denoiser: says what is signal and what is noise.
        x: ``(B, ...)`` noise at the grid's first level.
        grid: of :func:`~intermodal.diffusion.grids.make_grid`.
        noise: where churn's noise comes from.
        coordinate: in which a step is straight: ``ratio`` (EDM, diffusers) or ``flow``, for flow matching and where the
            grid begins in noise alone.
        churn: see :func:`euler`, as the next three.
        churn_between: see there.
        churn_noise: see there.
        schedule: see there.
        cond: handed to the denoiser.
        watch: called before each step.

    Returns:
        Samples at the grid's last level, the shape and type of x.

    Raises:
        ConfigError: if the grid begins in noise alone (alpha = 0), where the ratio is infinite.
    """
    if coordinate not in ("ratio", "flow"):
        raise ConfigError(f"A step of Heun's is straight in the ratio or in flow, found {coordinate!r}.")
    if coordinate == "ratio" and float(grid[0].alpha) == 0:
        raise ConfigError("From noise alone the ratio of noise to signal is infinite: use coordinate='flow'.")
    draw, steps = noise_source(noise), len(grid) - 1
    raised = _churning(draw, steps, churn=churn, between=churn_between, scale=churn_noise, schedule=schedule)
    state = wide(x)
    for index, begin, to in steps_of(grid):
        state, at = raised(state, begin)
        said = denoiser(state, at, cond)
        if watch is not None:
            watch(Step(index, steps, at, state, said.x0))
        state = ddim_step(said, at, to)
        if float(to.sigma) > 0:
            then = denoiser(state, to, cond)
            half = 0.5 * _time_step(at, to, coordinate)
            state = mix((number(1), state), (half, then.eps), (-half, said.eps))
            if coordinate == "flow":
                state = mix((number(1), state), (-half, then.x0), (half, said.x0))
    return state.to(x.dtype)


# --8<-- [end:heun]


def _time_step(at: Level, to: Level, coordinate: Coordinate) -> Tensor:
    """Return how long a step is in its coordinate, in units of x."""
    if coordinate == "ratio":
        return to.alpha * (to.ratio - at.ratio)
    return to.sigma - (to.alpha + to.sigma) * at.sigma / (at.alpha + at.sigma)


def _churning(
    draw: NoiseSource,
    steps: int,
    *,
    churn: float,
    between: tuple[float, float],
    scale: float,
    schedule: Schedule | None,
) -> Callable[[Tensor, Level], tuple[Tensor, Level]]:
    """Return what adds a step's noise: samples at a level to those at a higher one; without churn to themselves."""
    if not (0 <= churn < math.inf and 0 <= scale < math.inf):
        raise ConfigError(f"Churn and its noise must be finite and not negative, found {churn} and {scale}.")
    if churn and schedule is None:
        raise ConfigError("Churn adds noise up to levels between those of the grid: give the schedule.")

    def raised(x: Tensor, at: Level) -> tuple[Tensor, Level]:
        if not churn or schedule is None or float(at.alpha) == 0 or not between[0] <= float(at.ratio) <= between[1]:
            return x, at
        higher = schedule.at_ratio(churned(at, churn, steps))
        return raise_noise(x, at, higher, draw(x) * scale), higher

    return raised
