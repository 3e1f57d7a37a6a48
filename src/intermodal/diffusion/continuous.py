"""Schedules in continuous time: closed forms of alpha(t) and sigma(t), t from 0 (data) to the noisiest."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from intermodal.core.errors import ConfigError
from intermodal.diffusion.schedules import Level, Schedule, Times, check_factor, check_ratios


class VPCosine(Schedule):
    """``alpha = cos(pi t / 2)``, ``sigma = sin(pi t / 2)`` for t from 0 to 1 (Salimans & Ho 2022, section 2)."""

    t_max = 1.0

    def level(self, t: Times) -> Level:
        """Return the level at times from 0 to 1, where 1 is noise alone."""
        t = self._times(t)
        return Level(t, torch.sin(math.pi / 2 * (1 - t)), torch.sin(math.pi / 2 * t))

    def at_ratio(self, ratio: Times) -> Level:
        """Return the level of a ratio: ``t = (2 / pi) atan(ratio)``."""
        ratio = check_ratios(ratio)
        return Level(2 / math.pi * torch.atan(ratio), *self.split(ratio))


class VPLinear(Schedule):
    """The limit of many steps of the linear schedule: ``beta(t) = low + t (high - low)`` (Song et al. 2021, appendix C).

    ``log alpha = -t^2 (high - low) / 4 - t low / 2`` for t from 0 to 1.

    Args:
        low: beta at 0, above 0.
        high: beta at 1, above ``low``.
    """

    t_max = 1.0

    def __init__(self, low: float = 0.1, high: float = 20.0) -> None:
        if not 0 < low < high < math.inf:
            raise ConfigError(f"The linear schedule's betas must be 0 < low < high, found {low} and {high}.")
        self.low, self.high = low, high

    def level(self, t: Times) -> Level:
        """Return the level at times from 0 to 1."""
        t = self._times(t)
        log_alpha = -(t**2) * (self.high - self.low) / 4 - t * self.low / 2
        return Level(t, log_alpha.exp(), (-torch.expm1(2 * log_alpha)).sqrt())

    def at_ratio(self, ratio: Times) -> Level:
        """Return the level of a ratio: the root of the quadratic in t."""
        ratio = check_ratios(ratio)
        square = 2 * torch.log1p(ratio**2)  # -4 log alpha
        rise = self.high - self.low
        return Level(square / (self.low + (self.low**2 + rise * square).sqrt()), *self.split(ratio))


class Flow(Schedule):
    """The straight line from data to noise: ``alpha = 1 - t``, ``sigma = t`` for t from 0 to 1.

    Flow matching with the optimal-transport path (Lipman et al. 2023, whose time runs the other way) and rectified flow
    (Liu et al. 2023).
    """

    t_max = 1.0

    def level(self, t: Times) -> Level:
        """Return the level at times from 0 to 1, where 1 is noise alone."""
        t = self._times(t)
        return Level(t, 1 - t, t)

    def at_ratio(self, ratio: Times) -> Level:
        """Return the level of a ratio: ``t = ratio / (1 + ratio)``."""
        ratio = check_ratios(ratio)
        alpha, sigma = self.split(ratio)
        return Level(sigma, alpha, sigma)

    def split(self, ratio: Tensor) -> tuple[Tensor, Tensor]:
        """Return the alpha and sigma of a ratio, which add up to 1."""
        alpha = 1 / (1 + ratio)
        return alpha, torch.where(ratio.isinf(), 1.0, ratio * alpha)


class VarianceExploding(Schedule):
    """Noise is added, the signal kept: ``alpha = 1``, ``sigma = t`` (Karras et al. 2022, table 1, the last column).

    Args:
        largest: the latest time, above 0.
    """

    def __init__(self, largest: float = 80.0) -> None:
        if not 0 < largest < math.inf:
            raise ConfigError(f"The largest sigma must be above 0 and finite, found {largest}.")
        self.t_max = largest

    def level(self, t: Times) -> Level:
        """Return the level at times from 0 to ``largest``."""
        t = self._times(t)
        return Level(t, torch.ones_like(t), t)

    def at_ratio(self, ratio: Times) -> Level:
        """Return the level of a ratio, which is its own sigma and time."""
        ratio = check_ratios(ratio)
        return Level(ratio, *self.split(ratio))

    def split(self, ratio: Tensor) -> tuple[Tensor, Tensor]:
        """Return 1 and the ratio."""
        return torch.ones_like(ratio), ratio


class Shifted(Schedule):
    """A continuous schedule with every ratio ``sigma / alpha`` multiplied: log-SNR minus ``2 log factor`` at every time.

    Large pictures show what noise hides in small ones, and need more of it: a picture d times as wide asks for a factor
    of d (Hoogeboom et al. 2023, section 2.1; Esser et al. 2024, equation 23, where it is ``t' = s t / (1 + (s - 1) t)``).

    Args:
        base: the schedule; a discrete one has :meth:`DiscreteSchedule.shifted`.
        factor: above 0; 1 changes nothing.
    """

    def __init__(self, base: Schedule, factor: float) -> None:
        if base.discrete:
            raise ConfigError("A discrete schedule is shifted by its own method: schedule.shifted(factor).")
        self.base, self.factor, self.t_max = base, check_factor(factor), base.t_max

    def level(self, t: Times) -> Level:
        """Return the level at times from 0 to the base's last."""
        level = self.base.level(t)
        return Level(level.t, *self.split(level.ratio * self.factor))

    def at_ratio(self, ratio: Times) -> Level:
        """Return the level of a ratio."""
        ratio = check_ratios(ratio)
        return Level(self.base.at_ratio(ratio / self.factor).t, *self.split(ratio))

    def split(self, ratio: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the base holds of a ratio."""
        return self.base.split(ratio)


def draw_logit_normal(count: int, generator: torch.Generator, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Return times from 0 to 1, ``sigmoid(normal)``, which dwell in the middle (Esser et al. 2024, equation 19).

    Args:
        count: of times.
        generator: on the CPU.
        mean: of the normal; above 0 more noise.
        std: of the normal, above 0.
    """
    return torch.sigmoid(mean + std * torch.randn(count, generator=generator, dtype=torch.float64))
