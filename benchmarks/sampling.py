"""Whole sampling runs beside diffusers: its scheduler and model in a loop as its pipelines have it, same weights and noise.

The number beside each is the largest difference of its pictures from those of diffusers in float32, as a share of the
largest magnitude in them. The weights are random, and a random network magnifies what is rounded. What it says of x0 is
not clipped: between -1 and 1 such a run is chaotic (diffusers channels-last leaves diffusers by 0.15 then).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

import harness
from intermodal.diffusion.denoiser import Denoiser, NetworkDenoiser
from intermodal.diffusion.grids import make_grid
from intermodal.diffusion.guidance import ClassifierFree
from intermodal.diffusion.samplers import ddim, dpm_solver
from intermodal.diffusion.schedules import DiscreteSchedule
from unet import Kind, Who, Work, arguments, caller, contenders, module

PICTURES: dict[Kind, int] = {"cifar10": 1, "text": 1, "small text": 4}
SCALE = 4.0
"""Of the guidance."""
Sampler = Literal["DDIM", "DPM-Solver++"]
_pictures: dict[str, torch.Tensor] = {}


@dataclass(frozen=True)
class Run:
    """``steps`` of a sampler; a network that reads a text is guided, without a classifier."""

    kind: Kind
    sampler: Sampler
    steps: int

    @property
    def guided(self) -> bool:
        """Whether there is a condition."""
        return self.kind != "cifar10"


def ours(run: Run, work: Work) -> Callable[[], torch.Tensor]:
    """Return our sampling."""
    network, schedule = caller("ours", module("ours", work)), DiscreteSchedule.linear()
    x, _, c = work.inputs()
    denoiser: Denoiser = NetworkDenoiser(network, "eps", schedule, dtype=work.dtype)
    if c is not None:
        c = c.to(work.dtype)
        denoiser = ClassifierFree(denoiser, SCALE, torch.zeros_like(c[:1]))
    if run.sampler == "DDIM":
        return lambda: ddim(denoiser, x, make_grid(schedule, run.steps, "leading"), cond=c)
    return lambda: dpm_solver(denoiser, x, make_grid(schedule, run.steps, "linspace", beyond=True), cond=c)


def theirs(who: Who, run: Run, work: Work) -> Callable[[], torch.Tensor]:
    """Return the loop of diffusers' pipelines; as there, the samples are of the network's type."""
    import diffusers

    network, inputs = caller(who, module(who, work)), arguments(who, work)
    scheduler: Any
    if run.sampler == "DDIM":
        scheduler = diffusers.DDIMScheduler(clip_sample=False)
    else:
        scheduler = diffusers.DPMSolverMultistepScheduler()
    x, context = inputs[0], inputs[2] if run.guided else None

    def sample() -> torch.Tensor:
        scheduler.set_timesteps(run.steps)
        state = x
        for t in scheduler.timesteps:
            if context is None:
                said = network(state, t)
            else:
                both = torch.cat((torch.zeros_like(context), context))
                without, with_it = network(torch.cat((state, state)), t, both).chunk(2)
                said = without + SCALE * (with_it - without)
            state = scheduler.step(said, t, state).prev_sample
        return state

    return sample


def sampling(run: Run) -> Callable[[Who, Work], Callable[[], harness.Step]]:
    """Return what makes the step of a contender: a whole run."""

    def of(who: Who, work: Work) -> Callable[[], harness.Step]:
        def make() -> harness.Step:
            sample = ours(run, work) if who == "ours" else theirs(who, run, work)

            def step() -> float | None:
                with torch.inference_mode():
                    pictures = sample().double()
                if who == "theirs" and work.dtype == torch.float32:
                    _pictures[f"{run}"] = pictures
                wanted = _pictures.get(f"{run}")  # none yet, the first time and where memory is measured
                return None if wanted is None else float((pictures - wanted).abs().max() / wanted.abs().max())

            return step

        return make

    return of


def cases(quick: bool) -> list[harness.Case]:
    """Return an unconditional run, and guided ones of the two networks that read a text."""
    warnings.filterwarnings("ignore", module="diffusers")
    runs = [Run("cifar10", "DDIM", 50)]
    kinds: tuple[Kind, ...] = ("text", "small text")
    for kind in kinds:
        runs += [Run(kind, "DDIM", 25), Run(kind, "DPM-Solver++", 20)]
    found = []
    for run in runs:
        small = Run(run.kind, run.sampler, 4) if quick else run
        work = Work(run.kind, 1 if quick else PICTURES[run.kind], torch.float32, quick)
        what = ", guided" if run.guided else ""
        title = f"U-Net '{run.kind}': {work.batch} pictures by {run.sampler}, {small.steps} steps{what}"
        found.append(harness.Case(title, contenders(sampling(small), work), 2))
    return found
