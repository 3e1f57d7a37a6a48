"""The forward process q, from data to noise, and its posterior, which a step of the learnt reverse process imitates.

Every function takes any two levels of a schedule, neighbours or not: a sampler that visits a few of a thousand steps uses
the same posterior between those (Kingma et al. 2021, appendix A; Nichol & Dhariwal 2021, section 4).

    at: the noisier level, of time t     to: the cleaner level, of time s < t
    B batch   ... the shape of one sample
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from intermodal.core.errors import ConfigError
from intermodal.diffusion.schedules import Level, mix


class Gaussian(NamedTuple):
    """A normal distribution with independent dimensions of one variance.

    Attributes:
        mean: ``(B, ...)``.
        variance: float64 ``()`` or ``(B,)`` on the CPU, at least 0.
    """

    mean: Tensor
    variance: Tensor

    def at(self, noise: Tensor) -> Tensor:
        """Return the sample that standard normal noise of the mean's shape stands for."""
        return mix((torch.ones_like(self.variance), self.mean), (self.variance.sqrt(), noise))


def diffuse(x0: Tensor, eps: Tensor, level: Level) -> Tensor:
    """Return ``x_t = alpha x0 + sigma eps``, a sample of q(x_t | x_0) (Ho et al. 2020, equation 4).

    Args:
        x0: clean samples ``(B, ...)``.
        eps: standard normal noise, the same shape.
        level: one for all or one for each.
    """
    return mix((level.alpha, x0), (level.sigma, eps))


def marginal(x0: Tensor, level: Level) -> Gaussian:
    """Return q(x_t | x_0)."""
    return Gaussian(mix((level.alpha, x0)), level.sigma**2)


def transition(x_s: Tensor, at: Level, to: Level) -> Gaussian:
    """Return q(x_t | x_s), the forward step from the cleaner level to the noisier (Ho et al. 2020, equation 2)."""
    alpha, variance = _step(at, to)
    return Gaussian(mix((alpha, x_s)), variance)


def posterior(x_t: Tensor, x0: Tensor, at: Level, to: Level) -> Gaussian:
    """Return q(x_s | x_t, x_0), which is normal as well (Ho et al. 2020, equations 6 and 7).

    With the x0 that a network predicts it is the reverse step. From noise alone (alpha = 0) it is q(x_s | x_0); to data
    (sigma = 0) it is x_0 itself.

    Args:
        x_t: noisy samples ``(B, ...)``.
        x0: clean samples, the same shape.
        at: the level of ``x_t``, sigma above 0.
        to: the cleaner level.

    Raises:
        ConfigError: if ``to`` is not the cleaner of the two.
    """
    alpha, variance = _step(at, to)
    share = (to.sigma / at.sigma) ** 2
    mean = mix((alpha * share, x_t), (to.alpha * variance / at.sigma**2, x0))
    return Gaussian(mean, variance * share)


def step_variances(at: Level, to: Level) -> tuple[Tensor, Tensor]:
    """Return the smallest and the largest variance that a reverse step may sensibly have.

    They are right where the data is one point and where it is standard normal (Ho et al. 2020, section 3.2; "fixed small"
    and "fixed large" in code): that of the posterior, and that of the forward step (beta, for neighbours).
    """
    _, variance = _step(at, to)
    return variance * (to.sigma / at.sigma) ** 2, variance


def interpolated_log_variance(fraction: Tensor, at: Level, to: Level, smallest: float) -> Tensor:
    """Return the logarithm of a learnt variance (Nichol & Dhariwal 2021, equation 15).

    ``v log(largest) + (1 - v) log(smallest)`` with ``v = (fraction + 1) / 2`` (the published code's scale, on which an
    untrained network's 0 is the geometric mean).

    Args:
        fraction: what the network says, ``(B, ...)``; -1 to 1 is between the two variances, nothing forbids more.
        at: the noisier level.
        to: the cleaner level.
        smallest: a floor of the smaller variance, above 0: where ``to`` is data it would be 0, and published code takes
            that of the step before (:func:`variance_floor`).
    """
    low, high = step_variances(at, to)
    low = low.clamp(min=smallest)
    share = (fraction.to(torch.promote_types(fraction.dtype, torch.float32)) + 1) / 2
    return mix((high.log(), share), (low.log(), 1 - share))


def kl_divergence(q: Gaussian, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return KL(q || p) in nats of each dimension, ``(B, ...)``, for a normal p.

    Args:
        q: with a variance above 0.
        mean: of p, ``(B, ...)``.
        log_variance: of p, a shape that broadcasts with the mean.
    """
    wide = torch.promote_types(mean.dtype, torch.float32)
    variance = spread(q.variance, mean)
    squares = (q.mean.to(wide) - mean.to(wide)) ** 2
    return 0.5 * (log_variance - variance.log() - 1 + (variance + squares) * torch.exp(-log_variance))


def spread(value: Tensor, x: Tensor) -> Tensor:
    """Return a number for the batch, or one for each sample, in the type and on the device of x, ready to broadcast."""
    value = value.to(x.device, torch.promote_types(x.dtype, torch.float32))
    return value.view(-1, *(1,) * (x.ndim - 1)) if value.ndim else value


def _step(at: Level, to: Level) -> tuple[Tensor, Tensor]:
    """Return the factor and the variance of q(x_t | x_s)."""
    alpha = at.alpha / to.alpha
    variance = at.sigma**2 - (alpha * to.sigma) ** 2
    if not bool((variance > 0).all()):
        raise ConfigError("A step back goes from a level to a cleaner one, with less noise for its signal.")
    return alpha, variance
