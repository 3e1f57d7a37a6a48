"""How a picture is drawn by a model that works in steps, and what may be seen of it meanwhile."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError

Sampler = Literal["ddpm", "ddim", "euler", "euler-a", "heun", "dpm", "dpm-sde"]
"""``ddpm`` is ancestral sampling, ``euler-a`` Euler's ancestral form, ``dpm`` DPM-Solver++, ``dpm-sde`` that with noise."""
Spacing = Literal["trailing", "leading", "linspace", "karras", "exponential", "beta"]
MOST_PROMPT = 10_000
"""Characters of a prompt, at most."""
MOST_SEED = 2**63 - 1
"""The largest seed."""


@dataclass(frozen=True, kw_only=True)
class Drawing(Config):
    """The settings of a drawing.

    Attributes:
        steps: of the sampler, at least 1.
        sampler: see :data:`Sampler`.
        guidance: how strongly the prompt is followed: 1 as trained, more to exaggerate. Finite.
        negative: what is to be avoided, in words; empty for nothing in particular. It needs guidance other than 1.
        eta: of ``ddim``: 0 adds no noise, 1 as much as DDPM.
        order: of ``dpm`` and ``dpm-sde``, 1 to 3.
        spacing: of the steps.
        offset: added to the times of the spacing ``leading``, at least 0; 1 for Stable Diffusion.
        end: where the last step ends, ``clean`` or at the ``least`` noise of training.
        clip: keep what the picture is said to become within the range of pixels, at every step.
        keep_noise: where that changes the picture, leave the noise as it was said, as DDIM's published code does; otherwise
            it is what the noisy picture holds beside the changed one.
        rescale: how much of a guided prediction's contrast is brought back, 0 to 1 (Lin et al. 2023, section 3.4).
        interval: guide only where sigma / alpha is between these two (Kynkaanniemi et al. 2024); None guides always.
        precision: of the network's arithmetic: ``bf16`` is several times as fast on CPUs that have it, ``fp32`` exact.

    Raises:
        ConfigError: if a number is out of range or not finite.
    """

    steps: int = 25
    sampler: Sampler = "ddim"
    guidance: float = 1.0
    negative: str = ""
    eta: float = 0.0
    order: int = 2
    spacing: Spacing = "trailing"
    offset: int = 0
    end: Literal["clean", "least"] = "clean"
    clip: bool = True
    keep_noise: bool = False
    rescale: float = 0.0
    interval: tuple[float, float] | None = None
    precision: Literal["fp32", "bf16"] = "fp32"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"A picture is drawn in at least 1 step, found {self.steps}.")
        if not math.isfinite(self.guidance):
            raise ConfigError(f"A guidance scale must be a finite number, found {self.guidance}.")
        if self.sampler not in get_args(Sampler):
            raise ConfigError(f"The samplers are {', '.join(get_args(Sampler))}; found {self.sampler!r}.")
        if self.spacing not in get_args(Spacing):
            raise ConfigError(f"Steps are spaced {', '.join(get_args(Spacing))}; found {self.spacing!r}.")
        if self.order not in (1, 2, 3) or self.offset < 0 or self.end not in ("clean", "least"):
            raise ConfigError(
                "An order is 1, 2 or 3, an offset at least 0, and the end clean or least; found "
                f"{self.order}, {self.offset} and {self.end!r}."
            )
        if not 0 <= self.eta <= 1 or not 0 <= self.rescale <= 1:
            raise ConfigError(f"eta and rescale go from 0 to 1, found {self.eta} and {self.rescale}.")
        if self.interval is not None and not 0 <= self.interval[0] < self.interval[1]:
            raise ConfigError(f"An interval is a smaller and a larger ratio of noise to signal, found {self.interval}.")
        if len(self.negative) > MOST_PROMPT:
            raise ConfigError(
                f"A negative prompt has at most {MOST_PROMPT:,} characters, found {len(self.negative):,}."
            )


@dataclass(frozen=True)
class Glimpse:
    """What may be seen of pictures that are being drawn.

    Attributes:
        done: steps before this moment.
        steps: how many there are.
        noise: share of the noisy picture's variance that is noise, 1 at the start and towards 0 at the end.
        pictures: returns what the pictures are said to become, as PIL images; costs only when called.
        noisy: returns the noisy pictures themselves.
        count: how many pictures there are.
    """

    done: int
    steps: int
    noise: float
    pictures: Callable[[], list[Any]]
    noisy: Callable[[], list[Any]]
    count: int


Watcher = Callable[[Glimpse], None]
