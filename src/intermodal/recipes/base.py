"""What a recipe is: one frozen configuration that holds all that a result depends on.

A recipe is a Python function, named in :data:`intermodal.recipes.RECIPES`, that returns a subclass of :class:`Recipe`. Its
docstring states the command, the time and the score. The configuration builds the method and judges it; the training loop
asks nothing else of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError
from intermodal.core.progress import Progress
from intermodal.data.named import source_named
from intermodal.data.source import SourceConfig
from intermodal.data.transforms import ImageAugment
from intermodal.evaluate.result import Evaluation
from intermodal.methods.base import Method, NativeEngine


@dataclass(frozen=True, kw_only=True)
class OptimConfig(Config):
    """AdamW and its schedule.

    Attributes:
        lr: the learning rate at its peak.
        betas: decay of the first and second moment.
        eps: added to the root of the second moment.
        weight_decay: decoupled; not applied to biases, norms and scalars.
        schedule: ``cosine`` falls to ``final_lr`` x lr, ``constant`` stays.
        warmup: steps of linear rise at the start.
        final_lr: where the cosine ends, as a share of lr.
        clip_norm: largest norm of the whole gradient; None for no bound.
        ema: decay of the weights' moving average, which is then what is judged and saved; None for none.
        layer_decay: each layer of a tower learns at so many times the rate of the one above it, for going on from a trained
            tower (Clark et al. 2020, section 3.2); 1 for the same rate everywhere.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    weight_decay: float = 0.1
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: int = 100
    final_lr: float = 0.0
    clip_norm: float | None = 1.0
    ema: float | None = None
    layer_decay: float = 1.0


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """How long, how much at once, and what is written on the way.

    Attributes:
        steps: optimiser steps.
        batch_size: samples a step, over all processes and accumulated batches.
        accumulate: split each step's batch in this many parts, one after the other.
        precision: ``fp32``, ``bf16`` or ``fp16``, through autocast.
        compile: run the method through ``torch.compile``.
        workers: worker processes that read data; 0 reads in the training process.
        native: let a method that trains itself do so (word2vec); False trains it in the ordinary loop.
        seed: of everything random.
        log_every: steps between lines of metrics.
        eval_every: steps between evaluations on the validation split; 0 for none before the end.
        checkpoint_every: steps between checkpoints.
        keep: how many checkpoints stay.

    Raises:
        ConfigError: if a number is below its smallest value.
    """

    steps: int = 1000
    batch_size: int = 256
    accumulate: int = 1
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: bool = False
    workers: int = 0
    native: bool = True
    seed: int = 0
    log_every: int = 10
    eval_every: int = 0
    checkpoint_every: int = 500
    keep: int = 2

    def __post_init__(self) -> None:
        for name, least in (
            ("steps", 0),
            ("batch_size", 1),
            ("log_every", 1),
            ("eval_every", 0),
            ("checkpoint_every", 1),
        ):
            if getattr(self, name) < least:
                raise ConfigError(f"train.{name} is at least {least}, found {getattr(self, name)}.")


@dataclass(frozen=True, kw_only=True)
class Expect(Config):
    """The band in which a recipe's result lies, and where that was seen.

    Attributes:
        metric: a name in the evaluation's metrics.
        low, high: the band, both ends included.
        on: the data it is measured on.
        hardware: what it ran on.
        minutes: how long training took there.
    """

    metric: str
    low: float
    high: float
    on: str
    hardware: str
    minutes: float


ONE_THREAD = "one thread of a two-core CPU (AMD EPYC)"


def reaches(  # noqa: PLR0917 - as a sentence: the metric, its band, on what, in what time, on what machine
    metric: str, low: float, high: float, on: str, minutes: float, hardware: str = ONE_THREAD
) -> tuple[Expect, ...]:
    """Return what a recipe reaches: one band; see :class:`Expect`."""
    return (Expect(metric=metric, low=low, high=high, on=on, hardware=hardware, minutes=minutes),)


@dataclass(frozen=True, kw_only=True)
class Recipe(Config):
    """A method on data: everything that a result depends on.

    Attributes:
        name: of the recipe; names the run's folder.
        method: the method's id.
        source: the data.
        augment: random changes of the training pictures; None for none.
        optim: the optimiser.
        train: the budget.
        final_split: what the trained model is judged on in the end; data without a test split has ``validation``.
        expect: what it reaches.
    """

    name: str
    method: str
    source: SourceConfig
    augment: ImageAugment | None = None
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    final_split: str = "test"
    expect: tuple[Expect, ...] = ()

    def build(self) -> Method:
        """Return the method with its processors, freshly initialised from the seed (or from a published checkpoint)."""
        raise ConfigError(f"The recipe {self.name!r} does not say how its method is built.")

    def engine(self, method: Method, folder: Path, progress: Progress) -> NativeEngine:
        """Return the engine that trains a method natively; temporary files go into ``folder``."""
        raise ConfigError(
            f"The recipe {self.name!r} does not say how its method trains itself: set train.native=False."
        )

    def evaluate(self, method: Method, split: str, progress: Progress) -> Evaluation:
        """Judge a trained method on a split: in full on ``final_split``, quickly on another while training."""
        raise ConfigError(f"The recipe {self.name!r} does not say how its method is judged.")

    def smoke(self) -> Self:
        """Return a recipe that runs in seconds on a CPU, offline: the same path, too short to learn much."""
        raise ConfigError(f"The recipe {self.name!r} has no smoke version.")

    def on(self, source: SourceConfig) -> Self:
        """Return the recipe on other data, without the result that is expected on its own."""
        return self.replace(source=source, expect=())

    def on_named(self, data: str) -> Self:
        """Return the recipe on data that a person names; a recipe that takes other files (lists of pairs) reads them.

        Raises:
            DataError: if there is no such data.
        """
        return self.on(source_named(data))
