"""DDIM: a family of reverse processes with the marginals of DDPM, deterministic at one end; its inversion.

What is non-Markovian is the forward process that DDIM assumes, in which x_t depends on x_0 as well as on x_s; its
marginals q(x_t | x_0) are DDPM's, and so a network trained for one serves the other. Generation stays sequential.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from intermodal.core.errors import ConfigError
from intermodal.diffusion.denoiser import Cond, Denoiser, Prediction
from intermodal.diffusion.grids import Grid
from intermodal.diffusion.samplers.common import Noise, Step, Watch, noise_source, number, steps_of, wide
from intermodal.diffusion.schedules import Level, mix


# --8<-- [start:ddim]
def ddim_step(said: Prediction, at: Level, to: Level, *, eta: float = 0.0, noise: Tensor | None = None) -> Tensor:
    """Return x_s (Song et al. 2021, equation 12): the predicted signal, the predicted noise, and fresh noise.

    The fresh noise has ``eta`` times the standard deviation of DDPM's posterior, and the predicted noise what is left of
    sigma_s. At eta = 1 it is DDPM with the small variance.

    Args:
        said: of the denoiser at the level ``at``.
        at: the noisier level.
        to: the cleaner level.
        eta: 0 (deterministic) to 1.
        noise: standard normal, for eta above 0.
    """
    if eta == 0 or noise is None:
        return mix((to.alpha, said.x0), (to.sigma, said.eps))
    deviation = eta * to.sigma * (1 - (to.ratio / at.ratio) ** 2).clamp(min=0).sqrt()
    direction = (to.sigma**2 - deviation**2).clamp(min=0).sqrt()
    return mix((to.alpha, said.x0), (direction, said.eps), (deviation, noise))


def ddim(
    denoiser: Denoiser,
    x: Tensor,
    grid: Grid,
    noise: Noise = None,
    *,
    eta: float = 0.0,
    cond: Cond = None,
    watch: Watch | None = None,
) -> Tensor:
    """Return samples of DDIM.

    Args:
        denoiser: says what is signal and what is noise; clipping is a wrapper of it
            (:class:`~intermodal.diffusion.denoiser.Constrained`).
        x: ``(B, ...)`` noise at the grid's first level.
        grid: of :func:`~intermodal.diffusion.grids.make_grid`.
        noise: where the steps' noise comes from; needed for eta above 0.
        eta: 0 to 1.
        cond: handed to the denoiser.
        watch: called before each step.

    Returns:
        Samples at the grid's last level, the shape and type of x.

    Raises:
        ConfigError: for eta out of range, or above 0 without a source of noise.
    """
    if not 0 <= eta <= 1:
        raise ConfigError(f"DDIM's eta goes from 0 (deterministic) to 1 (DDPM), found {eta}.")
    draw, state = noise_source(noise), wide(x)
    for index, at, to in steps_of(grid):
        said = denoiser(state, at, cond)
        if watch is not None:
            watch(Step(index, len(grid) - 1, at, state, said.x0))
        fresh = draw(state) if eta > 0 else None
        state = ddim_step(said, at, to, eta=eta, noise=fresh)
    return state.to(x.dtype)


# --8<-- [end:ddim]


def ddim_inversion(
    denoiser: Denoiser, x: Tensor, grid: Grid, *, refine: int = 0, cond: Cond = None, watch: Watch | None = None
) -> Tensor:
    """Return the noise from which :func:`ddim` with eta = 0 makes given samples.

    A step up to x_t needs the noise that the denoiser will see *in* x_t, which is not there yet: it is read off x_s, told
    the time t (as diffusers' DDIMInverseScheduler does), which is wrong by the order of the step. ``refine`` repeats each
    step with the x_t that was found, a fixed point iteration (Pan et al. 2023) whose end is the exact inverse of DDIM's
    step.

    Args:
        denoiser: the one that generates.
        x: ``(B, ...)`` at the grid's last level: data, if it ends clean.
        grid: the one that generates, from noisy to clean.
        refine: repetitions of each step.
        cond: handed to the denoiser.
        watch: called before each step, with the level of x.

    Returns:
        Samples at the grid's first level.

    Raises:
        ConfigError: if refine is negative, or where a network that predicts x0 meets clean data, of whose noise it says
            nothing: end the grid at its least noise.
    """
    if refine < 0:
        raise ConfigError(f"Inversion is refined a number of times from 0, found {refine}.")
    state = wide(x)
    for index, at, to in steps_of(grid[::-1]):  # from the cleaner level to the noisier
        said = denoiser(state, Level(to.t, at.alpha, at.sigma), cond)
        if watch is not None:
            watch(Step(index, len(grid) - 1, at, state, said.x0))
        higher = mix((to.alpha, said.x0), (to.sigma, said.eps))
        for _ in range(refine):
            eps = denoiser(higher, to, cond).eps
            factor = to.alpha / at.alpha
            higher = mix((factor, state), (to.sigma - factor * at.sigma, eps))
        state = higher
    return state.to(x.dtype)


def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Return points between a and b on a great circle, sample by sample: interpolation of noise (Song et al. 2021, eq. 67).

    Between two draws of noise a straight line is shorter in the middle than any draw of a standard normal; a circle keeps
    the length. Where two samples point the same way or one is zero it is the straight line.

    Args:
        a: ``(B, ...)``.
        b: the same shape.
        share: 0 is a, 1 is b.

    Raises:
        ConfigError: if the shapes differ, or two samples point in exactly opposite ways, between which there is no
            shortest circle.
    """
    if a.shape != b.shape:
        raise ConfigError(
            f"Only samples of one shape have points between them, found {list(a.shape)} and {list(b.shape)}."
        )
    flat_a, flat_b = wide(a).flatten(1), wide(b).flatten(1)
    lengths = flat_a.norm(dim=1) * flat_b.norm(dim=1)
    cosine = ((flat_a * flat_b).sum(1) / torch.where(lengths > 0, lengths, 1)).clamp(-1, 1)
    if bool((cosine < -1 + 1e-6).any()):
        raise ConfigError("Between exactly opposite samples there is no shortest way round.")
    angle = torch.acos(cosine)
    straight = (angle < 1e-4) | (lengths == 0)
    sine = torch.where(straight, 1, torch.sin(angle))
    of_a = torch.where(straight, 1 - share, torch.sin((1 - share) * angle) / sine)
    of_b = torch.where(straight, share, torch.sin(share * angle) / sine)
    return (of_a[:, None] * flat_a + of_b[:, None] * flat_b).view(a.shape).to(a.dtype)


def euler_ancestral(
    denoiser: Denoiser, x: Tensor, grid: Grid, noise: Noise, *, cond: Cond = None, watch: Watch | None = None
) -> Tensor:
    """Return samples of k-diffusion's ancestral Euler method: a step down past the level, and fresh noise back up to it.

    It is DDIM at eta = 1 under another name, and with a schedule that keeps the variance DDPM with the small variance;
    the tests hold all three, and diffusers' EulerAncestralDiscreteScheduler, equal.
    """
    return ddim(denoiser, x, grid, noise, eta=1.0, cond=cond, watch=watch)


def churned(at: Level, amount: float, steps: int) -> float:
    """Return the ratio to which churn raises the noise before a step (Karras et al. 2022, algorithm 2)."""
    return float(at.ratio) * (1 + min(amount / steps, math.sqrt(2) - 1))


def raise_noise(x: Tensor, at: Level, higher: Level, noise: Tensor) -> Tensor:
    """Return samples with noise added from one level to a noisier one, the forward step of any schedule."""
    factor = higher.alpha / at.alpha
    fresh = (higher.sigma**2 - (factor * at.sigma) ** 2).clamp(min=0).sqrt()
    return mix((factor, x), (fresh, noise)) if float(fresh) > 0 else mix((number(float(factor)), x))
