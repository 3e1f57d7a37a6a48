"""Langevin dynamics: samples of a density known up to its normaliser, by following the gradient of its energy with noise.

B batch   ... the shape of one sample
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError

Energy = Callable[[Tensor], Tensor]
"""Takes samples ``(B, ...)`` and returns their energies ``(B,)``."""


@dataclass(frozen=True, kw_only=True)
class LangevinConfig(Config):
    """How a chain moves: ``x <- x - step_size * gradient + noise * normal``.

    Attributes:
        steps: K, of one call.
        step_size: of the gradient.
        noise: standard deviation of the noise of each step. None is ``sqrt(2 * step_size)``: the unadjusted Langevin
            algorithm, whose chains end in the density ``exp(-E)`` as the step size goes to zero (Welling & Teh 2011). A
            smaller number samples ``exp(-E / T)`` at the temperature ``T = noise^2 / (2 * step_size)``: near modes, as
            pictures need in few steps (Du & Mordatch 2019, section 3).
        clip: bound on each component of the gradient; None for none.
        bounds: smallest and largest value that a sample may hold; a step that leaves them ends on them.

    Raises:
        ConfigError: if a number is out of range.
    """

    steps: int = 20
    step_size: float = 1.0
    noise: float | None = None
    clip: float | None = None
    bounds: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.steps < 0 or self.step_size <= 0 or (self.noise is not None and self.noise < 0):
            raise ConfigError("Langevin: steps and noise must not be negative, and step_size must be above 0.")
        if (self.clip is not None and self.clip <= 0) or (self.bounds is not None and self.bounds[0] >= self.bounds[1]):
            raise ConfigError("Langevin: clip must be above 0, and bounds must be a smaller and a larger number.")

    @property
    def temperature(self) -> float:
        """T of the density ``exp(-E / T)`` that chains of small steps end in."""
        return 1.0 if self.noise is None else self.noise**2 / (2 * self.step_size)


def langevin(
    energy: Energy,
    start: Tensor,
    config: LangevinConfig,
    generator: torch.Generator,
    *,
    steps: int | None = None,
    watch: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Return where chains that begin at ``start`` are after some steps, without a graph.

    Only the gradient in the samples is computed, never that of the parameters. The noise is drawn on the CPU, so that it
    is the same on every device.

    Args:
        energy: of samples.
        start: where the chains begin, ``(B, ...)``; it is not changed.
        config: the step.
        generator: on the CPU.
        steps: instead of the configuration's.
        watch: told the number of the step (from 1) and the samples after it.
    """
    noise = math.sqrt(2 * config.step_size) if config.noise is None else config.noise
    sample = start.detach()
    for step in range(config.steps if steps is None else steps):
        gradient = input_gradient(energy, sample)
        if config.clip is not None:
            gradient = gradient.clamp_(-config.clip, config.clip)
        sample = torch.add(sample, gradient, alpha=-config.step_size)
        if noise:
            drawn = torch.randn(sample.shape, generator=generator, dtype=sample.dtype)
            sample.add_(drawn.to(sample.device), alpha=noise)
        if config.bounds is not None:
            sample.clamp_(*config.bounds)
        if watch is not None:
            watch(step + 1, sample)
    return sample


def independent_jumps(energy: Energy, start: Tensor, spread: float, generator: torch.Generator, count: int) -> Tensor:
    """Offer each chain a fresh normal place so many times, and take it as Metropolis and Hastings say.

    A proposal y of the density q is accepted with probability ``min(1, exp(E(x) - E(y)) q(x) / q(y))`` (Hastings 1970; the
    independence sampler), which leaves ``exp(-E)`` as it is. Langevin steps cross no wall between modes; this does, so that
    modes get the mass that is theirs. In many dimensions almost nothing would be accepted.

    Args:
        energy: of samples.
        start: where the chains are, ``(B, D)``; it is not changed.
        spread: standard deviation of the proposals, around zero.
        generator: on the CPU.
        count: how many proposals.
    """
    sample = start.detach()
    with torch.no_grad():
        level_B = energy(sample) - sample.square().sum(1) / (2 * spread**2)  # E + log q, without the constant
        for _ in range(count):
            drawn = torch.randn(sample.shape, generator=generator, dtype=sample.dtype)
            offer = (spread * drawn).to(sample.device)
            threshold_B = torch.rand(len(sample), generator=generator, dtype=sample.dtype).log().to(sample.device)
            offered_B = energy(offer) - offer.square().sum(1) / (2 * spread**2)
            taken_B = threshold_B < level_B - offered_B
            sample = torch.where(taken_B.unsqueeze(1), offer, sample)
            level_B = torch.where(taken_B, offered_B, level_B)
    return sample


def input_gradient(energy: Energy, sample: Tensor) -> Tensor:
    """Return the gradient of the energies in the samples ``(B, ...)``; also where gradients are switched off."""
    with torch.enable_grad():
        inputs = sample.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(energy(inputs).sum(), inputs)
    return gradient
