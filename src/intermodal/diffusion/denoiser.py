"""What samplers speak to: a denoiser takes a noisy sample and its level, and says what of it is signal and what is noise.

Guidance, clipping and other ways to steer are wrappers that take a denoiser and are one.

B batch   ... the shape of one sample   C channels, the first dimension of a sample
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from intermodal.core.errors import ConfigError
from intermodal.diffusion.predictions import Kind, check_kind, split
from intermodal.diffusion.schedules import Level, Schedule, mix

Cond = Any
"""A condition: None, a tensor whose first dimension is the batch, or a tuple, list or dictionary of such."""


class Prediction(NamedTuple):
    """What a denoiser says of ``x = alpha x0 + sigma eps``.

    Attributes:
        x0: the signal, the shape of x.
        eps: the noise, the same shape.
        variance: the network's word on the variance of a step back, the same shape; None from most networks.
    """

    x0: Tensor
    eps: Tensor
    variance: Tensor | None = None


class Denoiser(Protocol):
    """A denoiser, a function of noisy samples ``(B, ...)``, their level and a condition."""

    def __call__(self, x: Tensor, level: Level, cond: Cond = None, /) -> Prediction:
        """Return what of ``x`` is signal and what is noise."""
        ...


Network = Callable[..., Tensor]
"""``network(x, t_B)`` or ``network(x, t_B, cond)``: noisy samples and their times to a prediction."""


class NetworkDenoiser:
    """A network that predicts eps, x0, v or flow, as a denoiser.

    Args:
        network: called as ``network(x, t)``, and ``network(x, t, cond)`` where there is a condition. t is ``(B,)`` on the
            device of x, float32 (float64 for float64 x). It returns the shape of x, or twice its channels where it
            predicts a variance too.
        kind: what it predicts.
        schedule: that it was trained on; it is only asked whether its end suits ``kind``.
        learns_variance: whether the second half of its channels is a variance.
        time_scale: what the level's time is multiplied by before the network is told: 1,000 for networks that were
            trained on continuous time in thousandths.
        dtype: that the network computes in; None for that of x. What it returns is converted to that of x.

    Raises:
        ConfigError: for eps with a schedule that ends in noise alone: from there it cannot say what the signal is.
    """

    def __init__(
        self,
        network: Network,
        kind: Kind,
        schedule: Schedule,
        *,
        learns_variance: bool = False,
        time_scale: float = 1.0,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.network, self.kind, self.schedule = network, check_kind(kind), schedule
        self.learns_variance, self.time_scale, self.dtype = learns_variance, time_scale, dtype
        if kind == "eps" and schedule.discrete and float(schedule.level(schedule.t_max).alpha) == 0:
            raise ConfigError(
                "A network that predicts eps cannot be sampled with a schedule whose last step is noise alone (zero "
                "terminal SNR): train it to predict v, x0 or flow."
            )

    def __call__(self, x: Tensor, level: Level, cond: Cond = None, /) -> Prediction:
        """Evaluate the network once."""
        dtype = self.dtype or x.dtype
        t_B = times_of(level, x, self.time_scale)
        output = self.network(x.to(dtype), t_B) if cond is None else self.network(x.to(dtype), t_B, cond)
        output, variance = output.to(x.dtype), None
        channels = x.shape[1] * (2 if self.learns_variance else 1)
        if output.shape != (x.shape[0], channels, *x.shape[2:]):
            raise ConfigError(
                f"For samples of the shape {list(x.shape)} the network should return {channels} channels, found "
                f"{list(output.shape)}."
            )
        if self.learns_variance:
            output, variance = output.chunk(2, 1)
        return Prediction(*split(self.kind, output, x, level), variance)


def times_of(level: Level, x: Tensor, scale: float = 1.0) -> Tensor:
    """Return the times ``(B,)`` that a network is told, on the device of x, in at least float32."""
    return (level.t * scale).to(x.device, torch.promote_types(x.dtype, torch.float32)).expand(len(x))


class Constrained:
    """A denoiser whose x0 is kept to a range.

    Args:
        denoiser: to constrain.
        constrain: takes x0 and returns it within its range: :func:`clip` or :func:`dynamic_threshold`.
        keep_eps: leave eps as the network said it, so that both together no longer make x (DDIM's published code); if
            not, eps is what x holds beside the constrained x0 ("use_clipped_model_output" in diffusers).
    """

    def __init__(self, denoiser: Denoiser, constrain: Callable[[Tensor], Tensor], *, keep_eps: bool = False) -> None:
        self.denoiser, self.constrain, self.keep_eps = denoiser, constrain, keep_eps

    def __call__(self, x: Tensor, level: Level, cond: Cond = None, /) -> Prediction:
        """Evaluate the denoiser once and keep what it says of x0 to its range."""
        said = self.denoiser(x, level, cond)
        x0 = self.constrain(said.x0)
        if self.keep_eps or bool((level.sigma == 0).any()):
            return said._replace(x0=x0)
        return said._replace(x0=x0, eps=mix((1 / level.sigma, x), (-level.alpha / level.sigma, x0)))


def clip(limit: float = 1.0) -> Callable[[Tensor], Tensor]:
    """Return a function that clips to ``-limit..limit``."""
    if not limit > 0:
        raise ConfigError(f"A limit to clip to must be above 0, found {limit}.")
    return lambda x0: x0.clamp(-limit, limit)


def dynamic_threshold(share: float = 0.995, most: float = 1e30) -> Callable[[Tensor], Tensor]:
    """Return Imagen's dynamic thresholding (Saharia et al. 2022, section 2.3).

    s is the value that a share of a sample's magnitudes does not exceed, at least 1; the sample is clipped to -s..s and
    divided by s.

    Args:
        share: above 0, to 1.
        most: the largest s, at least 1 (diffusers' default 1 makes it the plain clip to -1..1).
    """
    if not 0 < share <= 1 or not most >= 1:
        raise ConfigError(
            f"A threshold needs a share above 0 to 1 and a bound of at least 1, found {share} and {most}."
        )

    def threshold(x0: Tensor) -> Tensor:
        flat_BN = x0.to(torch.promote_types(x0.dtype, torch.float32)).flatten(1)
        rows = [torch.quantile(row, share) for row in flat_BN.abs()]  # one by one: quantile takes 2^24 numbers at most
        s_B1 = torch.stack(rows).clamp(1, most)[:, None]
        return (flat_BN.clamp(-s_B1, s_B1) / s_B1).view(x0.shape).to(x0.dtype)

    return threshold
