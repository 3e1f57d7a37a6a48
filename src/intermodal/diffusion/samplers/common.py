"""What samplers share: where their noise comes from, and who may watch them.

B batch   ... the shape of one sample
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from intermodal.core.errors import ConfigError
from intermodal.diffusion.grids import Grid
from intermodal.diffusion.schedules import Level

NoiseSource = Callable[[Tensor], Tensor]
Noise = torch.Generator | Sequence[torch.Generator] | NoiseSource | None
"""A generator on the CPU; a list of them, one for each sample, so that a sample does not depend on the batch it is in; or a
function that returns standard normal noise like the tensor it is given. None where a sampler adds none."""


class Step(NamedTuple):
    """What a sampler shows while it works.

    Attributes:
        done: steps before this one.
        steps: how many there are.
        level: of ``x``.
        x: the noisy samples, before the step.
        x0: what the denoiser says that they will become.
    """

    done: int
    steps: int
    level: Level
    x: Tensor
    x0: Tensor


Watch = Callable[[Step], None]


def noise_source(noise: Noise) -> NoiseSource:
    """Return a function that draws standard normal noise like a tensor.

    From generators it is drawn in float32 on the CPU and then moved, so that it is the same on every device and in every
    type.

    Raises:
        ConfigError: by the function, if there is no source, a generator is not on the CPU, or there is not one for each
            sample.
    """
    if noise is None:
        return _none
    if isinstance(noise, torch.Generator):
        generator = _on_cpu(noise)
        return lambda x: torch.randn(x.shape, generator=generator).to(x)
    if not isinstance(noise, Sequence):
        return noise
    generators = [_on_cpu(g) for g in noise]

    def draw(x: Tensor) -> Tensor:
        if len(generators) != len(x):
            raise ConfigError(f"Noise for {len(x)} samples needs as many generators, found {len(generators)}.")
        return torch.stack([torch.randn(x.shape[1:], generator=g) for g in generators]).to(x)

    return draw


def start(
    shape: Sequence[int], grid: Grid, noise: Noise, like: Tensor | None = None, *, scale: float | None = None
) -> Tensor:
    """Return the noise that sampling begins with: sigma of the grid's first level times a standard normal.

    Args:
        shape: ``(B, ...)``.
        grid: of the sampler.
        noise: where it comes from.
        like: a tensor whose type and device it takes; float32 on the CPU by default.
        scale: its standard deviation, in place of sigma.
    """
    blank = (
        torch.empty(tuple(shape)) if like is None else torch.empty(tuple(shape), dtype=like.dtype, device=like.device)
    )
    return noise_source(noise)(blank) * (float(grid[0].sigma) if scale is None else scale)


def steps_of(grid: Grid) -> list[tuple[int, Level, Level]]:
    """Return the steps of a grid: their index, where each begins and where it ends.

    Raises:
        ConfigError: if there are none.
    """
    if len(grid) < 2:
        raise ConfigError("Sampling takes a grid of at least one step.")
    return [(index, at, to) for index, (at, to) in enumerate(pairwise(grid))]


def wide(x: Tensor) -> Tensor:
    """Return the state that a sampler keeps: at least float32, since small steps are lost in less."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def number(value: float) -> Tensor:
    """Return a plain number as the float64 weight of :func:`~intermodal.diffusion.schedules.mix`."""
    return torch.tensor(value, dtype=torch.float64)


def _none(x: Tensor) -> Tensor:
    raise ConfigError("This sampler adds noise: give it a torch.Generator on the CPU.")


def _on_cpu(generator: torch.Generator) -> torch.Generator:
    if generator.device.type != "cpu":
        raise ConfigError(
            f"Noise is drawn on the CPU, the same for every device; the generator is on {generator.device}."
        )
    return generator
