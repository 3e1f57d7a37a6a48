"""DPM-Solver++ (Lu et al. 2022, arXiv:2211.01095): multistep solvers that are exact in the linear part of the equation.

With ``lambda = log(alpha / sigma)`` and a step h of it, x_s is an integral of the predicted x0 over lambda, weighted by an
exponential; taking x0 constant is DDIM, taking it linear through the last two predictions is the second order, a parabola
through the last three the third.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from intermodal.core.errors import ConfigError
from intermodal.diffusion.denoiser import Cond, Denoiser
from intermodal.diffusion.grids import Grid
from intermodal.diffusion.samplers.common import Noise, Step, Watch, noise_source, number, steps_of, wide
from intermodal.diffusion.schedules import Level, Schedule, mix

Solver = Literal["midpoint", "heun"]


# --8<-- [start:dpm]
def dpm_solver(
    denoiser: Denoiser,
    x: Tensor,
    grid: Grid,
    noise: Noise = None,
    *,
    order: int = 2,
    solver: Solver = "midpoint",
    published: bool = False,
    stochastic: bool = False,
    euler_at_final: bool = False,
    lower_order_final: bool = True,
    cond: Cond = None,
    watch: Watch | None = None,
) -> Tensor:
    """Return samples of DPM-Solver++(2M) or (3M), or with ``stochastic`` of SDE-DPM-Solver++.

    One evaluation a step: the first step is of the first order, later ones use the predictions of the steps before.

    Args:
        denoiser: says what is signal.
        x: ``(B, ...)`` noise at the grid's first level.
        grid: of :func:`~intermodal.diffusion.grids.make_grid`.
        noise: where the steps' noise comes from, for ``stochastic``.
        order: 1 (DDIM, or with ``stochastic`` DDPM's small variance), 2 or 3.
        solver: ``midpoint`` (the paper's) or ``heun``: how the slope of x0 enters a step of the second order; they differ
            beyond the order.
        published: for order 3, let the second difference of x0 enter by half, as diffusers does, which
            leaves an error of the second order (the Taylor expansion has twice that difference, divided by two).
        stochastic: solve the reverse stochastic equation.
        euler_at_final: make the last step one of the first order. A step that ends clean always is one.
        lower_order_final: the same where there are fewer than 15 steps, and the step before it at most of the second order.
        cond: handed to the denoiser.
        watch: called before each step.

    Returns:
        Samples at the grid's last level, the shape and type of x.
    """
    if order not in (1, 2, 3) or solver not in ("midpoint", "heun"):
        raise ConfigError(f"DPM-Solver++ is of order 1, 2 or 3 and midpoint or heun, found {order} and {solver!r}.")
    if published and stochastic and order == 3:
        raise ConfigError("The published third order has a wrong sign where there is noise: leave published out.")
    draw, state, steps = noise_source(noise), wide(x), len(grid) - 1
    latest: list[tuple[Level, Tensor]] = []  # predictions, the last first
    for index, at, to in steps_of(grid):
        x0 = denoiser(state, at, cond).x0
        if watch is not None:
            watch(Step(index, steps, at, state, x0))
        few, left = lower_order_final and steps < 15, steps - 1 - index
        low = left == 0 and (euler_at_final or few or float(to.sigma) == 0)
        latest = [(at, x0), *latest][: 1 if low else min(order, 2 if few and left == 1 else 3)]
        slope, curve = _differences(latest, to)
        if published and curve is not None:
            curve = 0.5 * curve
        fresh = draw(state) if stochastic else None
        state = dpm_solver_step(state, x0, at, to, slope=slope, curve=curve, solver=solver, noise=fresh)
    return state.to(x.dtype)


def dpm_solver_step(
    x: Tensor,
    x0: Tensor,
    at: Level,
    to: Level,
    *,
    slope: Tensor | None = None,
    curve: Tensor | None = None,
    solver: Solver = "midpoint",
    noise: Tensor | None = None,
) -> Tensor:
    """Return x_s by one step (Lu et al. 2022, equations 13 and 14; with noise, section 6).

    x0 is taken as ``x0 + share slope + share^2 curve`` after a share of the step.

    Args:
        x: ``(B, ...)`` at the level ``at``.
        x0: the prediction there.
        at: the noisier level.
        to: the cleaner level.
        slope: how much x0 changes over a step of this length (D_1); None for the first order.
        curve: by how much that changes, halved; None for the second order.
        solver: ``midpoint`` or ``heun``, without a curve.
        noise: standard normal, for the stochastic equation.
    """
    h = _length(at, to) * (1 if noise is None else 2)
    gain = -to.alpha * torch.expm1(-h)  # alpha_s (1 - e^-h)
    terms = [(to.sigma / at.sigma * (1 if noise is None else to.ratio / at.ratio), x), (gain, x0)]
    if slope is not None:
        exact = to.alpha - gain / h
        terms.append((0.5 * gain if solver == "midpoint" and curve is None else exact, slope))
        if curve is not None:
            terms.append((to.alpha - 2 / h * exact, curve))
    if noise is not None:
        terms.append((to.sigma * (-torch.expm1(-h)).sqrt(), noise))
    return mix(*terms)


# --8<-- [end:dpm]


def dpm_solver_singlestep(
    denoiser: Denoiser,
    x: Tensor,
    grid: Grid,
    schedule: Schedule,
    *,
    middle: float = 0.5,
    cond: Cond = None,
    watch: Watch | None = None,
) -> Tensor:
    """Return samples of DPM-Solver++(2S): of the second order, for two evaluations a step (Lu et al. 2022, algorithm 1).

    Args:
        denoiser: says what is signal.
        x: ``(B, ...)`` noise at the grid's first level.
        grid: of :func:`~intermodal.diffusion.grids.make_grid`.
        schedule: of the grid: the second evaluation is between its levels.
        middle: where between them, in log-SNR, above 0 and below 1.
        cond: handed to the denoiser.
        watch: called before each step.

    Returns:
        Samples at the grid's last level; a step that ends clean or begins in noise alone is of the first order.
    """
    if not 0 < middle < 1:
        raise ConfigError(f"The middle of a step is a share above 0 and below 1, found {middle}.")
    state = wide(x)
    for index, at, to in steps_of(grid):
        x0 = denoiser(state, at, cond).x0
        if watch is not None:
            watch(Step(index, len(grid) - 1, at, state, x0))
        slope = None
        if float(to.sigma) > 0 and float(at.alpha) > 0:
            between = schedule.at_ratio(math.exp((1 - middle) * at.ratio.log() + middle * to.ratio.log()))
            then = denoiser(dpm_solver_step(state, x0, at, between), between, cond).x0
            share = number(1 / middle)
            slope = mix((share, then), (-share, x0))
        state = dpm_solver_step(state, x0, at, to, slope=slope)
    return state.to(x.dtype)


def _differences(latest: list[tuple[Level, Tensor]], to: Level) -> tuple[Tensor | None, Tensor | None]:
    """Return the slope and the curve of x0 over the step to a level, by its one, two or three latest predictions."""
    if len(latest) == 1:
        return None, None
    (at, now), (before, then), *rest = latest
    h, h_0 = _length(at, to), _length(before, at)
    slope = mix((h / h_0, now), (-h / h_0, then))
    if not rest:
        return slope, None
    first, oldest = rest[0]
    h_1 = _length(first, before)
    share = h / (h_0 + h_1)
    curve = mix((share, slope), (-share * h / h_1, then), (share * h / h_1, oldest))
    return mix((number(1), slope), (h_0 / h, curve)), curve


def _length(at: Level, to: Level) -> Tensor:
    """Return the step h of ``lambda = log(alpha / sigma)``; infinite where it begins in noise alone or ends clean."""
    return (at.ratio / to.ratio).log()
