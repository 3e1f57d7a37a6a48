"""Named choices, for configurations and command lines: a schedule by its name, a sampler by its name."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from intermodal.core.config import Config
from intermodal.core.drawing import Drawing
from intermodal.core.errors import ConfigError
from intermodal.diffusion.bound import Variance
from intermodal.diffusion.continuous import Flow, VPCosine, VPLinear
from intermodal.diffusion.denoiser import Cond, Denoiser
from intermodal.diffusion.grids import BY_RATIO, Grid, make_grid, with_times
from intermodal.diffusion.samplers import Noise, Watch, ddim, ddpm, dpm_solver, euler, euler_ancestral, heun
from intermodal.diffusion.samplers.ode import Coordinate
from intermodal.diffusion.schedules import DiscreteSchedule, Schedule

ScheduleName = Literal["linear", "scaled_linear", "cosine", "sigmoid", "table", "vp_cosine", "vp_linear", "flow"]
RISING = {
    "linear": DiscreteSchedule.linear,
    "scaled_linear": DiscreteSchedule.scaled_linear,
    "sigmoid": DiscreteSchedule.sigmoid,
}
"""Chains whose variances rise from one number to another."""
CONTINUOUS = {"vp_cosine": VPCosine, "vp_linear": VPLinear, "flow": Flow}
RATIOS = (80.0, 2e-3)
"""Between which the steps are spaced by ratio where a schedule begins in noise alone or ends in none (Karras 2022)."""
NOISE_ALONE = 1000.0
"""A ratio above which there is all but noise alone."""
KARRAS = ("euler", "euler-a", "heun")
"""Samplers that are written in terms of the ratio."""


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig(Config):
    """A noise schedule.

    Attributes:
        name: the first five are chains of ``steps`` steps, the others continuous.
        steps: T of a chain.
        start: the variance that the first step of ``linear``, ``scaled_linear`` or ``sigmoid`` adds; None for the usual one.
        end: the same of the last step.
        betas: the variance that each step of ``table`` adds.
        zero_terminal_snr: bend a chain so that its last step is noise alone (Lin et al. 2023).

    Raises:
        ConfigError: for an unknown name, or what a schedule has not.
    """

    name: ScheduleName = "cosine"
    steps: int = 1000
    start: float | None = None
    end: float | None = None
    betas: tuple[float, ...] | None = None
    zero_terminal_snr: bool = False

    def __post_init__(self) -> None:
        if self.name not in get_args(ScheduleName):
            raise ConfigError(f"The schedules are {', '.join(get_args(ScheduleName))}; found {self.name!r}.")
        if self.zero_terminal_snr and self.name in CONTINUOUS:
            raise ConfigError(f"The schedule {self.name!r} is continuous and has no last step to bend.")
        if self.steps < 1:
            raise ConfigError(f"A schedule has at least 1 step, found {self.steps}.")
        for value in (self.start, self.end):
            if value is not None and (self.name not in RISING or not 0 < value < 1):
                raise ConfigError(
                    f"The schedules {', '.join(RISING)} start and end with variances between 0 and 1; found {value} of "
                    f"{self.name!r}."
                )
        if (self.betas is None) == (self.name == "table") or len(self.betas or ()) not in (0, self.steps):
            raise ConfigError(
                f"The schedule 'table', and no other, has betas, one for each of its {self.steps} steps; found "
                f"{len(self.betas or ())} of {self.name!r}."
            )

    def build(self) -> Schedule:
        """Return the schedule, on the CPU also where a model is being built elsewhere."""
        with torch.device("cpu"):
            return self._built()

    def _built(self) -> Schedule:
        if self.name in CONTINUOUS:
            return CONTINUOUS[self.name]()
        if self.betas is not None:
            chain = DiscreteSchedule.of_betas(torch.tensor(self.betas, dtype=torch.float64))
        elif self.name == "cosine":
            chain = DiscreteSchedule.cosine(self.steps)
        else:
            ends = {"start": self.start, "end": self.end}
            chain = RISING[self.name](self.steps, **{key: value for key, value in ends.items() if value is not None})
        return chain.zero_terminal_snr() if self.zero_terminal_snr else chain


def grid_of(schedule: Schedule, drawing: Drawing) -> Grid:
    """Return the levels that a drawing's steps visit.

    They are those of diffusers' scheduler of the sampler's name: spaced ``linspace``, Euler's and Heun's are between the
    steps of training; spaced ``linspace`` or ``leading``, DPM-Solver++ leaves out the one of the least noise, before a last
    step that ends clean; where the ratio is spaced, DPM-Solver++ tells the network whole times. (Only with ``cosine``, which
    begins in all but noise alone, diffusers spaces the ratio from there, and we from :data:`RATIOS`.)

    Raises:
        ConfigError: if the schedule has no such steps: more than it was trained with, or spaced in a way that it lacks.
    """
    steps, spacing, solver = drawing.steps, drawing.spacing, drawing.sampler in ("dpm", "dpm-sde")
    if spacing in BY_RATIO:
        largest, smallest = float(schedule.level(schedule.t_max).ratio), float(schedule.level(0.0).ratio)
        ratios = (RATIOS[0] if largest > NOISE_ALONE else None, RATIOS[1] if smallest == 0 else None)
        grid = make_grid(schedule, steps, spacing, end=drawing.end, ratios=ratios)
        if not (solver and schedule.discrete):
            return grid
        times = torch.stack([level.t for level in grid[:-1]])
        return with_times(grid, times.round() if spacing == "karras" else times.floor())
    if not isinstance(schedule, DiscreteSchedule):
        return make_grid(schedule, steps, spacing, end=drawing.end)
    beyond = solver and steps < len(schedule)
    whole = drawing.sampler not in KARRAS
    return make_grid(schedule, steps, spacing, end=drawing.end, offset=drawing.offset, whole=whole, beyond=beyond)


def start_scale(grid: Grid, drawing: Drawing) -> float:
    """Return the standard deviation of the noise that a drawing begins with.

    It is that of noisy data of unit variance, 1 where the variance is kept: x_T in Ho et al. 2020, algorithm 2, also where
    the first step is not the noisiest. For Euler's and Heun's methods it is sigma (Karras et al. 2022), but for the spacing
    ``leading``. So in diffusers.
    """
    alpha, sigma = float(grid[0].alpha), float(grid[0].sigma)
    return sigma if drawing.sampler in KARRAS and drawing.spacing != "leading" else math.hypot(alpha, sigma)


def sample(
    denoiser: Denoiser,
    x: Tensor,
    grid: Grid,
    noise: Noise,
    drawing: Drawing,
    *,
    variance: Variance = "small",
    cond: Cond = None,
    watch: Watch | None = None,
) -> Tensor:
    """Return samples by the sampler that a drawing names.

    Args:
        denoiser: with its guidance.
        x: ``(B, ...)`` noise at the grid's first level.
        grid: of :func:`~intermodal.diffusion.grids.make_grid`.
        noise: where the steps' noise comes from.
        drawing: names the sampler, eta of DDIM and the order of DPM-Solver++.
        variance: of the steps of ``ddpm``.
        cond: handed to the denoiser.
        watch: called before each step.
    """
    match drawing.sampler:
        case "ddpm":
            return ddpm(denoiser, x, grid, noise, variance=variance, cond=cond, watch=watch)
        case "ddim":
            return ddim(denoiser, x, grid, noise, eta=drawing.eta, cond=cond, watch=watch)
        case "euler":
            return euler(denoiser, x, grid, cond=cond, watch=watch)
        case "euler-a":
            return euler_ancestral(denoiser, x, grid, noise, cond=cond, watch=watch)
        case "heun":
            coordinate: Coordinate = "flow" if float(grid[0].alpha) == 0 else "ratio"
            return heun(denoiser, x, grid, coordinate=coordinate, cond=cond, watch=watch)
        case "dpm":
            return dpm_solver(denoiser, x, grid, order=drawing.order, cond=cond, watch=watch)
        case "dpm-sde":
            return dpm_solver(denoiser, x, grid, noise, order=drawing.order, stochastic=True, cond=cond, watch=watch)
