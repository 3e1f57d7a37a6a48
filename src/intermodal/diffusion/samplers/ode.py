"""Solvers of the probability-flow equation, whose solutions have the marginals of the process: Euler and Heun.

In the coordinates ``y = x / alpha`` and ``r = sigma / alpha`` the equation is ``dy/dr = eps`` (Karras et al. 2022,
equation 1 with s = 1), in ``y = x / (alpha + sigma)`` and ``tau = sigma / (alpha + sigma)`` it is ``dy/dtau = eps - x0``
(flow matching's). A step of Euler is the same in both, and the same as DDIM's with eta = 0. Heun's differs; only the
second begins where the sample is noise alone (alpha = 0, r infinite).
"""

from __future__ import annotations

import math
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
    raise_to, draw = _check_churn(churn, churn_noise, schedule), noise_source(noise)
    state = wide(x)
    for index, begin, to in steps_of(grid):
        at = begin
        if raise_to is not None and churn_between[0] <= float(at.ratio) <= churn_between[1]:
            state, at = _churn(state, begin, raise_to, churn=churn, scale=churn_noise, steps=len(grid) - 1, draw=draw)
        said = denoiser(state, at, cond)
        if watch is not None:
            watch(Step(index, len(grid) - 1, at, state, said.x0))
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
    raise_to, draw = _check_churn(churn, churn_noise, schedule), noise_source(noise)
    state = wide(x)
    for index, begin, to in steps_of(grid):
        at = begin
        if raise_to is not None and churn_between[0] <= float(at.ratio) <= churn_between[1]:
            state, at = _churn(state, begin, raise_to, churn=churn, scale=churn_noise, steps=len(grid) - 1, draw=draw)
        said = denoiser(state, at, cond)
        if watch is not None:
            watch(Step(index, len(grid) - 1, at, state, said.x0))
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


def _check_churn(churn: float, churn_noise: float, schedule: Schedule | None) -> Schedule | None:
    if not (0 <= churn < math.inf and 0 <= churn_noise < math.inf):
        raise ConfigError(f"Churn and its noise must be finite and not negative, found {churn} and {churn_noise}.")
    if churn == 0:
        return None
    if schedule is None:
        raise ConfigError("Churn adds noise up to levels between those of the grid: give the schedule.")
    return schedule


def _churn(
    x: Tensor, at: Level, schedule: Schedule, *, churn: float, scale: float, steps: int, draw: NoiseSource
) -> tuple[Tensor, Level]:
    if float(at.alpha) == 0:
        return x, at
    higher = schedule.at_ratio(churned(at, churn, steps))
    return raise_noise(x, at, higher, draw(x) * scale), higher
