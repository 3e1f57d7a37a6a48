"""What a network may predict of a noisy sample, and how each follows exactly from the others.

With ``x = alpha x0 + sigma eps``:

    eps     the noise                        Ho et al. 2020
    x0      the clean sample                 "sample" in diffusers
    v       alpha eps - sigma x0             Salimans & Ho 2022, appendix D
    flow    eps - x0                         Lipman et al. 2023, Liu et al. 2023: the velocity of the straight path

All four are one line through x: knowing x and any of them, the others follow, for every alpha and sigma (v and flow are
mostly used where ``alpha^2 + sigma^2 = 1`` and ``alpha + sigma = 1``, but need neither). The line ends in two places:
at alpha = 0 (noise alone) eps says nothing of x0, and at sigma = 0 (data) x0 says nothing of eps. There a conversion is
refused; from v and flow it is defined everywhere.
"""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from intermodal.core.errors import ConfigError
from intermodal.diffusion.schedules import Level, mix

Kind = Literal["eps", "x0", "v", "flow"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def target(kind: Kind, x0: Tensor, eps: Tensor, level: Level) -> Tensor:
    """Return what a network that predicts ``kind`` should have said.

    Args:
        kind: ``eps``, ``x0``, ``v`` or ``flow``.
        x0: clean samples ``(B, ...)``.
        eps: the noise, the same shape.
        level: one for all or one for each sample; no end is singular here.
    """
    match check_kind(kind):
        case "eps":
            return eps
        case "x0":
            return x0
        case "v":
            return mix((level.alpha, eps), (-level.sigma, x0))
        case _:
            return eps - x0


def split(kind: Kind, output: Tensor, x: Tensor, level: Level) -> tuple[Tensor, Tensor]:
    """Return x0 and eps, of which the noisy sample consists, from what a network said.

    Args:
        kind: of the output.
        output: ``(B, ...)``.
        x: the noisy samples, the same shape.
        level: of the noisy samples.

    Returns:
        x0 and eps, the shape and type of x.

    Raises:
        ConfigError: at the end where ``kind`` says nothing of the other: eps at alpha = 0, x0 at sigma = 0.
    """
    alpha, sigma = level.alpha, level.sigma
    match check_kind(kind):
        case "eps":
            _not_zero(alpha, "alpha", "eps", "the clean sample", "predict x0, v or flow, or begin at an earlier time")
            return mix((1 / alpha, x), (-sigma / alpha, output)), output
        case "x0":
            _not_zero(sigma, "sigma", "x0", "the noise", "there is none left to remove")
            return output, mix((1 / sigma, x), (-alpha / sigma, output))
        case "v":
            scale = 1 / (alpha**2 + sigma**2)
            x0 = mix((alpha * scale, x), (-sigma * scale, output))
            return x0, mix((sigma * scale, x), (alpha * scale, output))
        case _:
            scale = 1 / (alpha + sigma)
            x0 = mix((scale, x), (-sigma * scale, output))
            return x0, mix((scale, x), (alpha * scale, output))


def convert(source: Kind, to: Kind, output: Tensor, x: Tensor, level: Level) -> Tensor:
    """Return a prediction of one kind as another; see :func:`split`."""
    if check_kind(source) == check_kind(to):
        return output
    return target(to, *split(source, output, x, level), level)


def score(eps: Tensor, level: Level) -> Tensor:
    """Return the gradient of ``log p(x_t)`` by ``x_t`` that a noise prediction stands for: ``-eps / sigma``.

    Tweedie's formula; Song et al. 2021 (arXiv:2011.13456), and Vincent 2011.

    Raises:
        ConfigError: at sigma = 0, where the prediction says nothing of the density.
    """
    _not_zero(level.sigma, "sigma", "eps", "the score", "it is defined above it")
    return mix((-1 / level.sigma, eps))


def check_kind(kind: Kind) -> Kind:
    """Return ``kind`` if it is one.

    Raises:
        ConfigError: if it is not.
    """
    if kind not in KINDS:
        raise ConfigError(f"A network predicts one of {', '.join(KINDS)}, found {kind!r}.")
    return kind


def _not_zero(value: Tensor, name: str, kind: str, other: str, advice: str) -> None:
    if bool((value == 0).any()):
        raise ConfigError(f"At {name} = 0 a prediction of {kind} says nothing of {other}: {advice}.")
