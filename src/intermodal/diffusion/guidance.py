"""Guidance: wrappers that make a denoiser follow a condition more closely than it was trained to.

Guided samples are not samples of ``p(x) p(y | x)^scale``: that would need the density at every noise level to be the
noisy version of the sharpened one at level 0, which it is not, except for scale 1 (Dieleman 2022 and Bradley & Nakkiran
2024 discuss it). What is exact at every level is the score that each wrapper writes down.

B batch   ... the shape of one sample
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from intermodal.core.errors import ConfigError
from intermodal.diffusion.denoiser import Cond, Denoiser, Prediction, times_of
from intermodal.diffusion.predictions import Kind, check_kind, split, target
from intermodal.diffusion.schedules import Level, mix


class ClassifierFree:
    """Classifier-free guidance (Ho & Salimans 2021): the predictions with and without the condition, extrapolated.

    There is no classifier: the denoiser was trained with its condition dropped now and then, and knows both. With the
    scale w, ``unconditional + w (conditional - unconditional)``: 1 is the plain conditional model, 0 the unconditional one
    (w - 1 is the paper's w). Since x is given, it is the same for eps, x0, v and flow.

    Both predictions are one evaluation of twice the batch.

    Args:
        denoiser: takes conditions.
        scale: w, finite.
        negative: the condition that stands for "none" or for what should be avoided: one sample (its first dimension 1,
            repeated for the batch), or one for each. It has the structure and, but for the batch, the shapes of the
            conditions.
        rescale: phi of Lin et al. 2023 (section 3.4), 0 to 1: how much of the guided prediction's standard deviation is
            brought back to the conditional one's, which keeps large scales from overexposing.
        rescale_kind: the prediction whose standard deviation is meant: what the network predicts.
        interval: ratios ``sigma / alpha`` ``(low, high)`` between which guidance acts (Kynkaanniemi et al. 2024); outside
            of them the conditional model alone is evaluated, at half the cost.

    Raises:
        ConfigError: for numbers out of range.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        scale: float,
        negative: Cond,
        *,
        rescale: float = 0.0,
        rescale_kind: Kind = "eps",
        interval: tuple[float, float] = (0.0, math.inf),
    ) -> None:
        if not math.isfinite(scale):
            raise ConfigError(f"A guidance scale must be a finite number, found {scale}.")
        if not 0 <= rescale <= 1:
            raise ConfigError(f"Guidance is rescaled by a share from 0 to 1, found {rescale}.")
        if not 0 <= interval[0] < interval[1]:
            raise ConfigError(
                f"A guidance interval is a smaller and a larger ratio of noise to signal, found {interval}."
            )
        if negative is None:
            raise ConfigError(
                "Guidance needs the condition that stands for none, such as the embedding of an empty text."
            )
        self.denoiser, self.scale, self.negative = denoiser, scale, negative
        self.rescale, self.rescale_kind, self.interval = rescale, check_kind(rescale_kind), interval

    def __call__(self, x: Tensor, level: Level, cond: Cond = None, /) -> Prediction:
        """Evaluate the denoiser once, on twice the batch unless guidance is off at this level."""
        if cond is None:
            raise ConfigError("Guidance needs a condition to follow.")
        ratio = level.ratio
        inside = (ratio > self.interval[0]) & (ratio <= self.interval[1])
        if self.scale == 1 or not bool(inside.any()):
            return self.denoiser(x, level, cond)
        if not bool(inside.all()):
            raise ConfigError("All samples of a batch must be on one side of the guidance interval's ends.")
        both = self.denoiser(torch.cat((x, x)), _twice(level), join(cond, self.negative, len(x)))
        (with_x0, without_x0), (with_eps, without_eps) = both.x0.chunk(2), both.eps.chunk(2)
        variance = None if both.variance is None else both.variance.chunk(2)[0]
        guided = Prediction(
            torch.lerp(without_x0, with_x0, self.scale), torch.lerp(without_eps, with_eps, self.scale), variance
        )
        if self.rescale == 0:
            return guided
        return self._rescaled(guided, Prediction(with_x0, with_eps), x, level)

    def _rescaled(self, guided: Prediction, plain: Prediction, x: Tensor, level: Level) -> Prediction:
        kind = self.rescale_kind
        output = target(kind, guided.x0, guided.eps, level)
        wanted_B = target(kind, plain.x0, plain.eps, level).flatten(1).std(1)
        factor_B = self.rescale * wanted_B / output.flatten(1).std(1) + (1 - self.rescale)
        output = output * factor_B.view(-1, *(1,) * (x.ndim - 1))
        x0, eps = split(kind, output, x, level)
        return guided._replace(x0=x0, eps=eps)


LogProb = Callable[[Tensor, Tensor, Cond], Tensor]
"""``log_prob(x, t_B, cond)``: log p(cond | x_t) in nats, ``(B,)``, differentiable by x."""


class ClassifierGuided:
    """Classifier guidance (Dhariwal & Nichol 2021, algorithm 2): the score plus the gradient of ``log p(y | x_t)``.

    ``eps - scale sigma gradient``, and x0 with it. The classifier is a model of its own, trained on noisy samples of the
    same process. Its gradient enters every sampler through the prediction; the paper's algorithm 1, which shifts the mean
    of an ancestral step by ``scale variance gradient``, agrees to first order in the step.

    Args:
        denoiser: conditional or not.
        log_prob: of the classifier.
        scale: finite; 1 is Bayes' rule.
        unconditional: whether the denoiser itself is not told the condition.
        time_scale: of the times that the classifier is told, as in
            :class:`~intermodal.diffusion.denoiser.NetworkDenoiser`.

    At alpha = 0 a sample says nothing of its class, and nothing is added.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        log_prob: LogProb,
        scale: float,
        *,
        unconditional: bool = True,
        time_scale: float = 1.0,
    ) -> None:
        if not math.isfinite(scale):
            raise ConfigError(f"A guidance scale must be a finite number, found {scale}.")
        self.denoiser, self.log_prob, self.scale = denoiser, log_prob, scale
        self.unconditional, self.time_scale = unconditional, time_scale

    def __call__(self, x: Tensor, level: Level, cond: Cond = None, /) -> Prediction:
        """Evaluate the denoiser once, and the classifier with its gradient once."""
        if cond is None:
            raise ConfigError("Guidance needs a condition to follow.")
        said = self.denoiser(x, level, None if self.unconditional else cond)
        if self.scale == 0 or bool((level.alpha == 0).all()):
            return said
        with torch.enable_grad():
            inputs = x.detach().requires_grad_(True)
            t_B = times_of(level, x, self.time_scale)
            total = self.log_prob(inputs, t_B, cond).sum()
            (gradient,) = torch.autograd.grad(total, inputs)
        gradient = gradient.to(x.dtype)
        one = torch.ones_like(level.sigma)
        return said._replace(
            x0=mix((one, said.x0), (self.scale * level.sigma**2 / level.alpha, gradient)),
            eps=mix((one, said.eps), (-self.scale * level.sigma, gradient)),
        )


def join(first: Cond, second: Cond, count: int) -> Cond:
    """Return two conditions of one structure as one of twice the batch.

    Args:
        first: whose tensors hold ``count`` samples.
        second: whose tensors hold ``count`` samples, or one, which is repeated.
        count: B.

    Raises:
        ConfigError: if they differ in structure or shape.
    """
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        if len(second) == 1:
            second = second.expand(count, *second.shape[1:])
        if first.shape != second.shape or len(first) != count:
            raise ConfigError(
                f"A condition and its negative must have one shape for {count} samples, found {list(first.shape)} and "
                f"{list(second.shape)}: pad the shorter one and pass a mask."
            )
        return torch.cat((first, second.to(first)))
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        return {name: join(first[name], second[name], count) for name in first}
    if isinstance(first, tuple | list) and isinstance(second, tuple | list) and len(first) == len(second):
        return tuple(join(a, b, count) for a, b in zip(first, second, strict=True))
    if first is None and second is None:
        return None
    raise ConfigError("A condition and its negative must have the same structure of tensors.")


def _twice(level: Level) -> Level:
    return level if level.t.ndim == 0 else Level(*(torch.cat((value, value)) for value in level))
