"""Ancestral sampling: the learnt reverse process of DDPM, step by step, each a draw from a normal distribution."""

from __future__ import annotations

import torch
from torch import Tensor

from intermodal.diffusion.bound import Variance, reverse_log_variance
from intermodal.diffusion.denoiser import Cond, Denoiser, Prediction
from intermodal.diffusion.grids import Grid
from intermodal.diffusion.process import posterior
from intermodal.diffusion.samplers.common import Noise, Step, Watch, noise_source, steps_of, wide
from intermodal.diffusion.schedules import Level


# --8<-- [start:ddpm]
def ddpm_step(
    said: Prediction, x: Tensor, at: Level, to: Level, *, variance: Variance = "small", noise: Tensor | None = None
) -> Tensor:
    """Return a sample of p(x_s | x_t): the posterior for the predicted x0, with noise (Ho et al. 2020, algorithm 2).

    Args:
        said: of the denoiser for ``x``.
        x: ``(B, ...)`` at the level ``at``.
        at: the noisier level.
        to: the cleaner level.
        variance: ``small`` (the posterior's), ``large`` (the forward step's), ``learned_range`` or ``learned``.
        noise: standard normal; None for the mean alone.
    """
    mean = posterior(x, said.x0, at, to).mean
    if noise is None:
        return mean
    log_variance = reverse_log_variance(mean, at, to, variance, given=said.variance, floor=1e-20)
    return mean + torch.exp(0.5 * log_variance).to(mean.dtype) * noise


def ddpm(
    denoiser: Denoiser,
    x: Tensor,
    grid: Grid,
    noise: Noise,
    *,
    variance: Variance = "small",
    cond: Cond = None,
    watch: Watch | None = None,
) -> Tensor:
    """Return samples of the reverse process.

    Over a part of the steps it is the process that those levels make, with the variances that belong to them (Nichol &
    Dhariwal 2021, section 4). The last step, where it ends in data, adds no noise.

    Args:
        denoiser: says what is signal.
        x: ``(B, ...)`` noise at the grid's first level, from :func:`~intermodal.diffusion.samplers.common.start`.
        grid: of :func:`~intermodal.diffusion.grids.make_grid`.
        noise: where the steps' noise comes from.
        variance: see :func:`ddpm_step`.
        cond: handed to the denoiser.
        watch: called before each step.

    Returns:
        Samples at the grid's last level, the shape and type of x.
    """
    draw, state = noise_source(noise), wide(x)
    for index, at, to in steps_of(grid):
        said = denoiser(state, at, cond)
        if watch is not None:
            watch(Step(index, len(grid) - 1, at, state, said.x0))
        fresh = draw(state) if float(to.sigma) > 0 else None
        state = ddpm_step(said, state, at, to, variance=variance, noise=fresh)
    return state.to(x.dtype)


# --8<-- [end:ddpm]
