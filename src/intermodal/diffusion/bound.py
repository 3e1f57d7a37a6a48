"""The variational bound on the negative log-likelihood, term by term (Ho et al. 2020, equation 5).

    L_T      how far the noisiest sample is from the prior:   KL(q(x_T | x_0) || N(0, 1)), which nothing can train
    L_t      one for each step between:                       KL(q(x_s | x_t, x_0) || p(x_s | x_t))
    L_0      the decoder of the last step:                    -log p(x_0 | x_1), of data on a grid of values

Their sum is at least the negative log-likelihood of the data under the model.

B batch   T steps   ... the shape of one sample
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from intermodal.core.errors import ConfigError
from intermodal.diffusion.process import (
    diffuse,
    interpolated_log_variance,
    kl_divergence,
    marginal,
    posterior,
    spread,
    step_variances,
)
from intermodal.diffusion.schedules import DiscreteSchedule, Level

if TYPE_CHECKING:
    from intermodal.diffusion.denoiser import Denoiser

Variance = Literal["small", "large", "learned", "learned_range"]


@dataclass(frozen=True)
class Bound:
    """The terms of the bound in bits per dimension, float32 or float64 on the samples' device.

    Attributes:
        prior_B: L_T.
        steps_BK: the terms of the steps that were evaluated, in the order of ``steps``; where step 0 is among them, its
            entry is L_0.
        steps: K whole numbers from 0 to T - 1: step t goes from level t to level t - 1, step 0 to the data.
        of: T.
    """

    prior_B: Tensor
    steps_BK: Tensor
    steps: tuple[int, ...]
    of: int

    @property
    def total_B(self) -> Tensor:
        """The bound; where not all steps were evaluated, the estimate that their mean stands for all."""
        return self.prior_B + self.steps_BK.mean(1) * self.of

    @property
    def decoder_B(self) -> Tensor:
        """L_0."""
        if 0 not in self.steps:
            raise ConfigError("The decoder's term was not evaluated: it is that of step 0.")
        return self.steps_BK[:, self.steps.index(0)]


@torch.no_grad()
def variational_bound(
    denoiser: Denoiser,
    x0: Tensor,
    schedule: DiscreteSchedule,
    generator: torch.Generator,
    *,
    variance: Variance = "small",
    values: int = 256,
    steps: Sequence[int] | None = None,
    cond: object = None,
) -> Bound:
    """Return the variational bound of samples, each term estimated with one draw of x_t.

    Args:
        denoiser: of the steps' levels.
        x0: ``(B, ...)``, data on a grid of ``values`` values equally spaced from -1 to 1.
        schedule: of T steps, which the bound is one of.
        generator: on the CPU; of the noise. Each evaluated step draws anew.
        variance: of the reverse steps: ``small`` (the posterior's), ``large`` (the forward step's), ``learned_range``
            or ``learned`` (the denoiser's; see :class:`~intermodal.diffusion.denoiser.Prediction`).
        values: values that a dimension of the data may take.
        steps: which steps to evaluate; all T by default, one evaluation of the denoiser each.
        cond: handed to the denoiser.

    Raises:
        ConfigError: for a step out of range.
    """
    chosen = tuple(range(len(schedule))) if steps is None else tuple(steps)
    if not chosen or min(chosen) < 0 or max(chosen) >= len(schedule):
        raise ConfigError(f"The bound has the steps 0 to {len(schedule) - 1}, found {list(chosen)[:8]}.")
    scale, floor = x0[0].numel() * math.log(2), variance_floor(schedule)
    terms = []
    for step in chosen:
        at, to = schedule.at_step(torch.tensor(step)), schedule.at_step(torch.tensor(step - 1))
        eps = torch.randn(x0.shape, generator=generator).to(x0)
        x_t = diffuse(x0, eps, at)
        said = denoiser(x_t, at, cond)
        given = said.variance if variance.startswith("learned") else None
        nats = reverse_step_nats(said.x0, x0, x_t, at, to, floor=floor, given=given, values=values, variance=variance)
        terms.append(nats / scale)
    return Bound(prior_nats(x0, schedule) / scale, torch.stack(terms, 1), chosen, len(schedule))


def prior_nats(x0: Tensor, schedule: DiscreteSchedule) -> Tensor:
    """Return L_T in nats, ``(B,)``: what is left of the signal at the noisiest level."""
    last = schedule.at_step(torch.tensor(len(schedule) - 1))
    zero = torch.zeros((), dtype=torch.promote_types(x0.dtype, torch.float32), device=x0.device)
    return kl_divergence(marginal(x0, last), torch.zeros_like(x0), zero).flatten(1).sum(1)


def reverse_step_nats(
    said_x0: Tensor,
    x0: Tensor,
    x_t: Tensor,
    at: Level,
    to: Level,
    *,
    floor: float,
    given: Tensor | None,
    values: int,
    variance: Variance = "learned_range",
) -> Tensor:
    """Return the bound's term of a reverse step in nats, ``(B,)``: a divergence, or where it ends in data, the decoder's.

    Args:
        said_x0: what the network says of x0, ``(B, ...)``.
        x0: the truth.
        x_t: the noisy samples.
        at: their level.
        to: the level where the step ends; :data:`~intermodal.diffusion.schedules.CLEAN` for the last.
        floor: see :func:`variance_floor`.
        given: the network's word on the variance, for a learnt one.
        values: values that a dimension of the data may take.
        variance: which reverse variance.
    """
    mean = posterior(x_t, said_x0, at, to).mean
    log_variance = reverse_log_variance(mean, at, to, variance, given=given, floor=floor)
    last = (to.sigma == 0).to(mean.device)
    nats = torch.zeros(mean.shape, dtype=log_variance.dtype, device=mean.device)
    if not bool(last.all()):
        q = posterior(x_t, x0, at, to)
        nats = kl_divergence(q._replace(variance=q.variance.clamp(min=floor)), mean, log_variance)
    if bool(last.any()):
        decoder = -grid_log_likelihood(x0, mean, 0.5 * log_variance, values)
        nats = torch.where(spread(last, mean).bool(), decoder, nats)
    return nats.flatten(1).sum(1)


def reverse_log_variance(
    like: Tensor, at: Level, to: Level, variance: Variance, *, given: Tensor | None, floor: float
) -> Tensor:
    """Return the logarithm of a reverse step's variance, which broadcasts with ``like``.

    ``small`` and ``learned_range`` are kept from zero by ``floor``. ``learned`` takes the network's number for the variance
    itself (as diffusers does).
    """
    if variance in ("learned", "learned_range") and given is None:
        raise ConfigError("A learnt variance needs a network that predicts one: twice as many channels as the sample.")
    low, high = step_variances(at, to)
    match variance:
        case "small":
            return spread(low.clamp(min=floor).log(), like)
        case "large":
            return spread(high.log(), like)
        case "learned":
            assert given is not None
            return given.to(torch.promote_types(given.dtype, torch.float32)).log()
        case "learned_range":
            assert given is not None
            return interpolated_log_variance(given, at, to, floor)
        case _:
            raise ConfigError(f"A reverse variance is small, large, learned or learned_range, found {variance!r}.")


def variance_floor(schedule: DiscreteSchedule) -> float:
    """Return the posterior variance of step 1, which stands for that of step 0, where it is zero.

    So in the published code of Ho et al. 2020 and Nichol & Dhariwal 2021. A schedule of one step has no other: 1e-20.
    """
    if len(schedule) == 1:
        return 1e-20
    small, _ = step_variances(schedule.at_step(torch.tensor(1)), schedule.at_step(torch.tensor(0)))
    return float(small)


def grid_log_likelihood(x0: Tensor, mean: Tensor, log_sigma: Tensor, values: int = 256) -> Tensor:
    """Return ``log P(x0)`` in nats of each dimension under a normal that is rounded to a grid (Ho et al. 2020, equation 13).

    The probability of a value is the mass within half a grid step of it; the first and last take the tails, so that all
    add up to 1.

    Args:
        x0: values of the grid: ``values`` equally spaced from -1 to 1.
        mean: of the normal, any number, the same shape.
        log_sigma: logarithm of its standard deviation, a shape that broadcasts.
        values: at least 2.
    """
    if values < 2:
        raise ConfigError(f"A grid of values has at least 2, found {values}.")
    half = 1 / (values - 1)
    wide = torch.promote_types(x0.dtype, torch.float32)
    x0, mean, scale = x0.to(wide), mean.to(wide), torch.exp(-log_sigma)
    above, below = (x0 + half - mean) * scale, (x0 - half - mean) * scale
    left, right = torch.special.log_ndtr(above), torch.special.log_ndtr(-below)
    # By symmetry the difference is taken in the left tail, where log_ndtr is exact however far out.
    flip = above + below > 0
    log_high = torch.where(flip, right, left)
    log_low = torch.special.log_ndtr(torch.where(flip, -above, below))
    gap = (log_low - log_high).clamp(max=-torch.finfo(log_high.dtype).eps)
    middle = log_high + torch.log(-torch.expm1(gap))
    return torch.where(x0 < half - 1, left, torch.where(x0 > 1 - half, right, middle))
