"""What a denoising network is trained on: the simple loss, its weights, and the loss that a variance learns from.

B batch   ... the shape of one sample
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from intermodal.core.errors import ConfigError
from intermodal.diffusion.bound import reverse_step_nats, variance_floor
from intermodal.diffusion.predictions import Kind, check_kind, split, target
from intermodal.diffusion.process import spread
from intermodal.diffusion.schedules import DiscreteSchedule, Level


def simple_loss(
    output: Tensor, kind: Kind, x0: Tensor, eps: Tensor, level: Level, *, weight_B: Tensor | None = None
) -> Tensor:
    """Return the mean squared error of a network's output (Ho et al. 2020, equation 14, there for eps).

    Args:
        output: of the network for ``diffuse(x0, eps, level)``, ``(B, ...)``.
        kind: what it predicts.
        x0: clean samples.
        eps: the noise.
        level: of each sample.
        weight_B: a factor of each sample's error, such as :func:`min_snr_weight`.

    Returns:
        A scalar, float32 (float64 for float64 output), also under autocast: the mean over samples and dimensions.

    Raises:
        ConfigError: if the shapes differ; a broadcast would pass unseen.
    """
    wanted = target(kind, x0, eps, level)
    if output.shape != wanted.shape:
        raise ConfigError(
            f"The network's output must have the sample's shape {list(x0.shape)}, found {list(output.shape)}."
        )
    wide = torch.promote_types(output.dtype, torch.float32)
    error_B = (output.to(wide) - wanted.to(wide)).square().flatten(1).mean(1)
    return (error_B if weight_B is None else error_B * spread(weight_B, error_B)).mean()


def min_snr_weight(kind: Kind, level: Level, gamma: float = 5.0) -> Tensor:
    """Return the factor of each sample's error under the Min-SNR strategy (Hang et al. 2023, section 3.4).

    For x0 it is ``min(SNR, gamma)``. The error of another prediction is that of x0 times a known number, and the weight is
    divided by its square: for eps ``min(SNR, gamma) / SNR``, for v ``min(SNR, gamma) / (SNR + 1)`` (where alpha^2 +
    sigma^2 = 1), for flow ``min(SNR, gamma) sigma^2 / (alpha + sigma)^2``. All four weigh x0 alike.

    Args:
        kind: what the network predicts.
        level: of the samples.
        gamma: above 0.

    Returns:
        float64, the level's shape, on the CPU; finite at both ends.

    Raises:
        ConfigError: if gamma is not above 0.
    """
    if not gamma > 0:
        raise ConfigError(f"Min-SNR's gamma must be above 0, found {gamma}.")
    alpha, sigma = level.alpha, level.sigma
    # min(SNR, gamma) sigma^2, finite everywhere, and what the error of this kind is of sigma times that of x0.
    capped = torch.minimum(alpha**2, gamma * sigma**2)
    match check_kind(kind):
        case "eps":
            return torch.where(alpha > 0, capped / alpha**2, 1.0)
        case "x0":
            return torch.where(sigma > 0, capped / sigma**2, gamma)
        case "v":
            return capped / (alpha**2 + sigma**2) ** 2
        case _:
            return capped / (alpha + sigma) ** 2


def variance_loss(
    fraction: Tensor,
    output: Tensor,
    kind: Kind,
    x0: Tensor,
    x_t: Tensor,
    *,
    schedule: DiscreteSchedule,
    step_B: Tensor,
    values: int = 256,
) -> Tensor:
    """Return the variational bound from which a network learns its variance (Nichol & Dhariwal 2021, section 3.1).

    It is the bound's term of each sample's own step, in bits per dimension, times the number of steps: an unbiased
    estimate of the bound without its constant term when steps are drawn uniformly. The mean is held constant, so that the
    variance alone learns from it; the paper adds 0.001 of it (in nats) to the simple loss.

    Args:
        fraction: the variance's half of the output ``(B, ...)``, see
            :func:`~intermodal.diffusion.process.interpolated_log_variance`.
        output: the prediction's half, the same shape.
        kind: what it predicts.
        x0: clean samples, from -1 to 1.
        x_t: their noisy versions.
        schedule: of T steps.
        step_B: of each sample, whole numbers from 0 to T - 1.
        values: values that a dimension of the data may take, equally spaced from -1 to 1.

    Returns:
        A scalar.
    """
    steps = step_B.long().cpu()
    at, to = schedule.at_step(steps), schedule.at_step(steps - 1)
    said, _ = split(kind, output.detach(), x_t, at)
    nats_B = reverse_step_nats(said, x0, x_t, at, to, floor=variance_floor(schedule), given=fraction, values=values)
    return nats_B.mean() * len(schedule) / (x0[0].numel() * math.log(2))


def hybrid_loss(simple: Tensor, variance_bits: Tensor, weight: float = 0.001) -> Tensor:
    """Return ``simple + weight * bound`` with the bound in nats (Nichol & Dhariwal 2021, equation 16).

    Args:
        simple: the result of :func:`simple_loss`.
        variance_bits: the result of :func:`variance_loss`, in bits per dimension.
        weight: lambda.
    """
    return simple + weight * math.log(2) * variance_bits
