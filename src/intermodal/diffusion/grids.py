"""Which levels a sampler visits: any subset of a schedule's, from the noisiest to the cleanest, and where it ends.

A grid of n steps is n + 1 levels. The network is evaluated at the first n; the last is where the sample ends: clean, or the
least noise of the schedule.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from intermodal.core.errors import ConfigError
from intermodal.diffusion.schedules import CLEAN, DiscreteSchedule, Level, Schedule

Grid = tuple[Level, ...]
Spacing = Literal["trailing", "leading", "linspace", "karras", "exponential", "beta"]
BY_RATIO = ("karras", "exponential", "beta")
"""The spacings of the ratio ``sigma / alpha``; the others are of time."""
End = Literal["clean", "least"]


def make_grid(
    schedule: Schedule,
    steps: int,
    spacing: Spacing = "trailing",
    *,
    end: End = "clean",
    offset: int = 0,
    whole: bool = True,
    beyond: bool = False,
    last: int | None = None,
    ratios: tuple[float | None, float | None] = (None, None),
    rho: float = 7.0,
) -> Grid:
    """Return the levels of a number of steps.

    ``trailing``, ``leading`` and ``linspace`` are the three ways to take evenly spaced times that Lin et al. 2023 (table 2)
    name. Only ``trailing`` and ``linspace`` begin at the noisiest time, and only ``trailing`` with as much time after the
    last step as between steps. In continuous time ``trailing`` is even steps from ``t_max`` to 0.

    ``karras`` (Karras et al. 2022, equation 5), ``exponential`` (even steps of log-SNR; Lu et al. 2022) and ``beta`` (the
    quantiles of a beta distribution, many at both ends; Lee et al. 2024, as diffusers takes them) space the ratio
    ``sigma / alpha`` between two ends, whatever the schedule.

    Args:
        schedule: that the network was trained on.
        steps: n, at least 1; with whole times at most the schedule's.
        spacing: see above.
        end: ``clean`` or ``least``: the first step of a discrete schedule.
        offset: added to the times of ``leading`` (1 for Stable Diffusion).
        whole: round the times of ``linspace`` to whole steps (Euler and Heun in diffusers do not).
        beyond: let ``linspace`` and ``leading`` take n + 1 times, of which the cleanest is left out (DPM-Solver in
            diffusers).
        last: use only the first so many steps of a discrete schedule, where the last ones are all but noise alone
            (diffusers' ``lambda_min_clipped``); all by default.
        ratios: largest and smallest ratio for ``karras``, ``exponential`` and ``beta``; None for the schedule's ends.
        rho: of ``karras``, above 0.

    Raises:
        ConfigError: for a number of steps that is no whole number, below 1 or beyond the training steps, or an option that
            the schedule has not.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ConfigError(f"Sampling takes a whole number of steps, at least 1, found {steps!r}.")
    if spacing not in get_args(Spacing):
        raise ConfigError(f"Steps are spaced {', '.join(get_args(Spacing))}, found {spacing!r}.")
    if spacing in BY_RATIO:
        return grid_of_ratios(schedule, _ratios(schedule, steps, spacing, ratios, rho), end)
    if not isinstance(schedule, DiscreteSchedule):
        if spacing != "trailing" or end != "clean":
            raise ConfigError(
                "In continuous time steps are spaced trailing, karras, exponential or beta, and end clean."
            )
        times = torch.linspace(schedule.t_max, 0, steps + 1, dtype=torch.float64)[:-1]
        return grid_of_times(schedule, times, end)
    total = len(schedule)
    used = total if last is None else last
    if not 1 <= used <= total:
        raise ConfigError(f"The schedule has {total} steps, of which the first {last} cannot be taken.")
    if steps + (beyond and spacing != "trailing") > used:
        raise ConfigError(f"The schedule was trained with {total} steps, which allows no {steps} of them for sampling.")
    index = torch.arange(steps, dtype=torch.float64)
    match spacing:
        case "trailing":
            times = (used - index * (total / steps)).round() - 1
            times = times[times >= 0]
        case "leading":
            gap = used // (steps + 1) if beyond else total // steps
            times = (index.flip(0) + beyond) * gap + offset
        case _:
            times = torch.linspace(0, used - 1, steps + beyond, dtype=torch.float64).flip(0)[:steps]
            if steps + beyond == 1:
                times = torch.zeros(1, dtype=torch.float64)
            times = times.round() if whole else times
    return grid_of_times(schedule, times, end)


def grid_of_times(schedule: Schedule, times: Tensor | Sequence[float], end: End = "clean") -> Grid:
    """Return the levels of chosen times, any that fall.

    Raises:
        ConfigError: if they do not fall strictly, or leave the schedule.
    """
    t = torch.as_tensor(times, dtype=torch.float64)
    if t.ndim != 1 or len(t) == 0 or not bool((t[1:] < t[:-1]).all()):
        raise ConfigError(f"Times of sampling must fall from each step to the next, found {t.flatten().tolist()[:8]}.")
    return _closed(schedule, schedule.level(t), end)


def grid_of_ratios(schedule: Schedule, ratios: Tensor | Sequence[float], end: End = "clean") -> Grid:
    """Return the levels of chosen ratios ``sigma / alpha``, any that fall; their times are read off the schedule."""
    r = torch.as_tensor(ratios, dtype=torch.float64)
    if r.ndim != 1 or len(r) == 0 or not bool((r[1:] < r[:-1]).all()):
        raise ConfigError(f"Ratios of sampling must fall from each step to the next, found {r.flatten().tolist()[:8]}.")
    return _closed(schedule, schedule.at_ratio(r), end)


def with_times(grid: Grid, times: Tensor | Sequence[float]) -> Grid:
    """Return the grid with other times told to the network, one a step (published code rounds those of ``karras``)."""
    t = torch.as_tensor(times, dtype=torch.float64)
    if len(t) != len(grid) - 1:
        raise ConfigError(f"A grid of {len(grid) - 1} steps needs as many times, found {len(t)}.")
    return (*(level._replace(t=one) for level, one in zip(grid, t, strict=False)), grid[-1])


def reverse(grid: Grid) -> Grid:
    """Return the grid from its cleanest level to its noisiest, for inversion."""
    return grid[::-1]


def from_strength(grid: Grid, strength: float) -> Grid:
    """Return the last steps of a grid: where a sampler begins that changes a given sample instead of making one.

    Args:
        grid: of all steps.
        strength: share of the steps that is taken, above 0 to 1; at least one step.
    """
    if not 0 < strength <= 1:
        raise ConfigError(f"A strength is a share of the steps above 0 to 1, found {strength}.")
    steps = max(1, min(len(grid) - 1, int((len(grid) - 1) * strength)))
    return grid[-steps - 1 :]


def _closed(schedule: Schedule, levels: Level, end: End) -> Grid:
    if end == "clean":
        final = CLEAN
    elif end == "least" and isinstance(schedule, DiscreteSchedule):
        final = schedule.level(0.0)
        if float(levels.ratio[-1]) < float(final.ratio) * (1 - 1e-9):
            raise ConfigError("The grid ends below the least noise of the schedule.")
    else:
        raise ConfigError(f"A grid ends clean, or with a discrete schedule at its least noise, found {end!r}.")
    return (*(Level(*values) for values in zip(*levels, strict=True)), final)


def _ratios(
    schedule: Schedule, steps: int, spacing: Spacing, ends: tuple[float | None, float | None], rho: float
) -> Tensor:
    largest = float(schedule.level(schedule.t_max).ratio) if ends[0] is None else ends[0]
    smallest = float(schedule.level(0.0).ratio) if ends[1] is None else ends[1]
    if not 0 < smallest < largest < math.inf or not rho > 0:
        raise ConfigError(
            f"Steps spaced {spacing} need ends 0 < smallest < largest < infinity, found {smallest:g} and {largest:g}: a "
            "schedule that begins in noise alone or ends in data needs ratios=(largest, smallest)."
        )
    if steps == 1:
        return torch.tensor([largest], dtype=torch.float64)
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    if spacing == "exponential":
        return torch.exp(math.log(largest) + ramp * (math.log(smallest) - math.log(largest)))
    if spacing == "beta":
        return smallest + beta_quantile(1 - ramp) * (largest - smallest)
    root, low = largest ** (1 / rho), smallest ** (1 / rho)
    return (root + ramp * (low - root)) ** rho


def beta_quantile(share: Tensor, shape: float = 0.6) -> Tensor:
    """Return the quantiles of the beta distribution with both parameters alike, which is symmetric about 1/2.

    Up to 1/2 its distribution function is a power series in x that gains a bit with each term (DLMF 8.17.7 and 15.2.1);
    bisection inverts it.

    Args:
        share: probabilities, float64.
        shape: of the distribution; Lee et al. 2024 take 0.6.
    """
    terms = torch.arange(60, dtype=torch.float64)
    ratios = torch.cat((torch.ones(1, dtype=torch.float64), (terms + 1 - shape) / (terms + 1)))[:60]
    factors = torch.cumprod(ratios, 0) / (terms + shape)
    beta = math.exp(2 * math.lgamma(shape) - math.lgamma(2 * shape))
    lower = torch.minimum(share, 1 - share)
    low, high = torch.zeros_like(lower), torch.full_like(lower, 0.5)
    for _ in range(60):
        x = (low + high) / 2
        below = x**shape / beta * (factors * x[..., None] ** terms).sum(-1) < lower
        low, high = torch.where(below, x, low), torch.where(below, high, x)
    return torch.where(share > 0.5, 1 - high, low)
