"""Noise schedules: ``x_t = alpha(t) x_0 + sigma(t) eps``, in discrete and in continuous time.

A process is described by alpha(t) and sigma(t) alone. What is derived from them:

    ratio = sigma / alpha                the noise in units of the signal; Karras et al. 2022 call it sigma
    log_snr = 2 log(alpha / sigma)       from plus infinity (clean) to minus infinity (noise alone)

Time runs from data to noise. All numbers here are float64 on the CPU: a level is a handful of numbers, and a small
difference of large ones is lost in float32.

T steps of training   B batch   ... the shape of one sample
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from intermodal.core.errors import ConfigError

Times = Tensor | float


class Level(NamedTuple):
    """How noisy a sample is, one for a batch or one for each sample.

    Attributes:
        t: the time that a network is told, float64, shape ``()`` or ``(B,)``, on the CPU, as the other two.
        alpha: the factor of the signal, 0 to 1.
        sigma: the factor of the noise, at least 0.
    """

    t: Tensor
    alpha: Tensor
    sigma: Tensor

    @property
    def ratio(self) -> Tensor:
        """``sigma / alpha``: 0 where the sample is clean, infinite where it is noise alone."""
        return self.sigma / self.alpha

    @property
    def log_snr(self) -> Tensor:
        """``2 log(alpha / sigma)`` in nats."""
        return 2 * (self.alpha.log() - self.sigma.log())

    @property
    def snr(self) -> Tensor:
        """``alpha^2 / sigma^2``."""
        return (self.alpha / self.sigma) ** 2


CLEAN = Level(torch.tensor(-1.0, dtype=torch.float64), torch.ones((), dtype=torch.float64), torch.zeros(()).double())
"""The level of data. No network is ever told its time."""


def weigh(x: Tensor, weight: Tensor) -> Tensor:
    """Return ``weight * x``, the weight a float64 CPU tensor ``()`` or ``(B,)``, in at least float32.

    A weight for the whole batch is a plain number: nothing is copied to a device.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    if weight.ndim == 0:
        return x.to(wide) * float(weight)
    shape = (-1, *(1,) * (x.ndim - 1))
    return x.to(wide) * weight.to(x.device, wide, non_blocking=True).view(shape)


def mix(*terms: tuple[Tensor, Tensor]) -> Tensor:
    """Return the sum of weighted tensors ``(weight, x)``, computed in at least float32, in the type of the first ``x``."""
    (first, x), *rest = terms
    total = weigh(x, first)
    for weight, other in rest:
        total = total + weigh(other, weight)
    return total.to(x.dtype)


class Schedule(ABC):
    """A noise process.

    Attributes:
        t_max: the latest time.
        discrete: whether times are the whole numbers from 0 (the least noise) to ``t_max`` rather than 0 (data) to
            ``t_max``, continuous.
    """

    t_max: float
    discrete: bool = False

    @abstractmethod
    def level(self, t: Times) -> Level:
        """Return the level at times from 0 to ``t_max``, shape ``()`` or ``(B,)``.

        Raises:
            ConfigError: for a time out of range or not a number.
        """

    @abstractmethod
    def at_ratio(self, ratio: Times) -> Level:
        """Return the level whose ``sigma / alpha`` is given, at least 0; the inverse of :meth:`level`.

        Beyond the ends of a discrete schedule the network is told the time of the end.
        """

    def split(self, ratio: Tensor) -> tuple[Tensor, Tensor]:
        """Return the alpha and sigma of a ratio: ``alpha^2 + sigma^2 = 1`` unless a process says otherwise."""
        alpha = torch.rsqrt(1 + ratio**2)
        return alpha, torch.where(ratio.isinf(), 1.0, ratio * alpha)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return times for training, float64 ``(count,)`` on the CPU, uniform.

        Args:
            count: of times.
            generator: on the CPU.
        """
        uniform = torch.rand(count, generator=generator, dtype=torch.float64)
        return (uniform * (self.t_max + 1)).floor() if self.discrete else uniform * self.t_max

    def _times(self, t: Times) -> Tensor:
        t = torch.as_tensor(t, dtype=torch.float64, device="cpu")
        if not bool(((t >= 0) & (t <= self.t_max)).all()):
            raise ConfigError(f"Times of this schedule go from 0 to {self.t_max:g}, found {_extremes(t)}.")
        return t


class DiscreteSchedule(Schedule):
    """T steps of a chain that keeps the variance: ``alpha^2 = alpha_bar``, ``sigma^2 = 1 - alpha_bar``.

    Ho et al. 2020 (arXiv:2006.11239), section 2, whose step t = 1 is time 0 here, as in all published code. Between two
    steps the ratio is interpolated linearly (as diffusers does), from a ratio to a time its logarithm.

    Args:
        alpha_bar_T: the product of ``1 - beta`` up to each step, between 0 and 1, falling. The last may be 0: noise alone.

    Raises:
        ConfigError: if it is empty, does not fall strictly, or leaves 0 to 1.
    """

    discrete = True

    def __init__(self, alpha_bar_T: Tensor) -> None:
        bar = torch.as_tensor(alpha_bar_T).detach().to("cpu", torch.float64)
        falls = bar.ndim == 1 and len(bar) > 0 and bool((bar[1:] < bar[:-1]).all())
        if not falls or float(bar[-1]) < 0 or float(bar[0]) >= 1:
            raise ConfigError(
                "A schedule's alpha_bar must be a list of numbers below 1 that fall strictly, to 0 at least."
            )
        self.alpha_bar, self.t_max = bar, float(len(bar) - 1)
        self._alpha, self._sigma = bar.sqrt(), (1 - bar).sqrt()

    def __len__(self) -> int:
        return len(self.alpha_bar)

    @property
    def betas(self) -> Tensor:
        """The variance ``(T,)`` that each step adds; 1 where nothing of the signal is left."""
        before = torch.cat((torch.ones(1, dtype=torch.float64), self.alpha_bar[:-1]))
        return 1 - self.alpha_bar / before

    @classmethod
    def of_betas(cls, betas_T: Tensor) -> DiscreteSchedule:
        """Return the schedule whose steps add these variances, each above 0 and at most 1 (1 only at the end)."""
        betas = torch.as_tensor(betas_T).detach().to("cpu", torch.float64)
        return cls(torch.cumprod(1 - betas, 0))

    @classmethod
    def linear(cls, steps: int = 1000, start: float = 1e-4, end: float = 0.02) -> DiscreteSchedule:
        """Betas rise linearly (Ho et al. 2020, section 4)."""
        return cls.of_betas(torch.linspace(start, end, _positive(steps), dtype=torch.float64))

    @classmethod
    def scaled_linear(cls, steps: int = 1000, start: float = 0.00085, end: float = 0.012) -> DiscreteSchedule:
        """The roots of the betas rise linearly (Rombach et al. 2022, the published code)."""
        roots = torch.linspace(start**0.5, end**0.5, _positive(steps), dtype=torch.float64)
        return cls.of_betas(roots**2)

    @classmethod
    def cosine(cls, steps: int = 1000, offset: float = 0.008, largest: float = 0.999) -> DiscreteSchedule:
        """``alpha_bar`` falls as a squared cosine, betas capped (Nichol & Dhariwal 2021, eq. 17; "squaredcos_cap_v2")."""
        time = torch.arange(_positive(steps) + 1, dtype=torch.float64) / steps
        bar = torch.cos((time + offset) / (1 + offset) * math.pi / 2) ** 2
        return cls.of_betas((1 - bar[1:] / bar[:-1]).clamp(max=largest))

    @classmethod
    def sigmoid(cls, steps: int = 1000, start: float = 1e-4, end: float = 0.02) -> DiscreteSchedule:
        """Betas rise as a sigmoid from -6 to 6 (Xu et al. 2022, GeoDiff)."""
        rise = torch.sigmoid(torch.linspace(-6, 6, _positive(steps), dtype=torch.float64))
        return cls.of_betas(rise * (end - start) + start)

    def zero_terminal_snr(self) -> DiscreteSchedule:
        """Return the schedule moved and stretched so that its last step is noise alone (Lin et al. 2023, algorithm 1).

        The root of ``alpha_bar`` keeps its first value and becomes exactly 0 at the last. A network that predicts the
        noise cannot be sampled from there (it is told nothing of the signal): predict x0, v or flow.
        """
        if len(self) == 1:
            raise ConfigError("A schedule of one step has no end to move apart from its start.")
        root = self._alpha
        moved = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
        return DiscreteSchedule(moved**2)

    def shifted(self, factor: float) -> DiscreteSchedule:
        """Return the schedule with every ratio ``sigma / alpha`` multiplied, as continuous.Shifted does."""
        ratio_T = self._sigma / self._alpha * check_factor(factor)
        return DiscreteSchedule(1 / (1 + ratio_T**2))

    def level(self, t: Times) -> Level:
        """Return the level at times from 0 to T - 1; a fractional one is interpolated."""
        t = self._times(t)
        low = t.floor().long()
        part = t - low
        alpha, sigma = self._alpha[low], self._sigma[low]
        if bool((part > 0).any()):
            below, above = sigma / alpha, self.at_step(low + 1).ratio
            rate = torch.where(part > 0, above - below, 0.0)
            between = self.split(below + part * rate)
            alpha, sigma = (torch.where(part > 0, b, w) for b, w in zip(between, (alpha, sigma), strict=True))
        return Level(t, alpha, sigma)

    def at_step(self, step: Tensor) -> Level:
        """Return the level of whole steps; below 0 (before the first) :data:`CLEAN`, above the last the last."""
        inside = step.clamp(0, len(self) - 1)
        clean = step < 0
        return Level(
            torch.where(clean, -1.0, inside.double()),
            torch.where(clean, 1.0, self._alpha[inside]),
            torch.where(clean, 0.0, self._sigma[inside]),
        )

    def at_ratio(self, ratio: Times) -> Level:
        """Return the level of a ratio, its time interpolated in the logarithm of the ratio."""
        ratio = check_ratios(ratio)
        table = (self._sigma / self._alpha).log()
        wanted = ratio.clamp(min=1e-300).log().clamp(table[0], table[-1])
        low = (torch.searchsorted(table, wanted.contiguous(), right=True) - 1).clamp(0, max(len(self) - 2, 0))
        high = (low + 1).clamp(max=len(self) - 1)
        width = table[high] - table[low]
        part = torch.where(width > 0, (wanted - table[low]) / width, 0.0).nan_to_num(1.0)
        return Level((low + part).clamp(max=self.t_max), *self.split(ratio))


def _positive(steps: int) -> int:
    if steps < 1:
        raise ConfigError(f"A schedule needs at least one step, found {steps}.")
    return steps


def check_factor(factor: float) -> float:
    """Return a shift if it is one."""
    if not 0 < factor < math.inf:
        raise ConfigError(f"A shift must be above 0 and finite, found {factor}.")
    return factor


def check_ratios(ratio: Times) -> Tensor:
    """Return ratios as float64 on the CPU if none is negative or not a number."""
    ratio = torch.as_tensor(ratio, dtype=torch.float64, device="cpu")
    if not bool((ratio >= 0).all()):
        raise ConfigError(f"A ratio of noise to signal must be at least 0, found {_extremes(ratio)}.")
    return ratio


def _extremes(t: Tensor) -> str:
    return f"{float(t):g}" if t.numel() == 1 else f"{float(t.min()):g} to {float(t.max()):g}"
