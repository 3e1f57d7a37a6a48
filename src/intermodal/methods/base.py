"""What every method is: an ``nn.Module`` that knows its loss, its data and what it can say about its own health."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from intermodal.core.checkpoint import read_checkpoint, save_checkpoint
from intermodal.core.config import Config
from intermodal.core.errors import CheckpointError, DataError
from intermodal.core.fields import SEED, Field
from intermodal.data.processors import Processor

Batch = dict[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Losses:
    """What one call of :meth:`Method.loss` returns.

    Attributes:
        total: the scalar to descend, with its graph.
        parts: named scalars worth a curve, detached: terms of the loss, accuracies, temperatures.
    """

    total: Tensor
    parts: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Phase:
    """One of the descents that make a training step.

    Attributes:
        loss: the name of the method that returns its :class:`Losses` for a batch.
        trains: prefixes of the names of the parameters that it trains; the others are frozen while it lasts.
        lr_scale: its learning rate, as a share of the recipe's.
    """

    loss: str = "loss"
    trains: tuple[str, ...] = ("",)
    lr_scale: float = 1.0


def check_generation(count: int, steps: int | None = None) -> None:
    """Check what a person asks of ``generate``.

    Raises:
        DataError: if ``count`` or ``steps`` is below 1.
    """
    if count < 1 or (steps is not None and steps < 1):
        raise DataError(f"Generating needs a count and steps of at least 1, found {count} and {steps}.")


def refuse_prompt(prompt: str | None, why: str = "it generates from noise alone") -> None:
    """Refuse a prompt, for a model that takes none.

    Raises:
        DataError: if there is one.
    """
    if prompt is not None:
        raise DataError(f"This model takes no prompt ({prompt!r} was given): {why}.")


def generator_of(batch: Batch) -> torch.Generator:
    """Return a generator on the CPU that the seeds of a batch decide: same batch, same random numbers.

    Draw on the CPU and move, so that a result does not depend on the device.
    """
    seeds = batch["seed"].cpu().to(torch.int64)
    mixed = 0x4BF29CE484222325
    for value in seeds.tolist():  # FNV-1a over the samples' seeds: the order of the samples counts
        mixed = ((mixed ^ value) * 0x100000001B3) & 0x7FFFFFFFFFFFFFFF
    return torch.Generator().manual_seed(mixed)


@contextmanager
def seeded(generator: torch.Generator) -> Iterator[None]:
    """Let ``generator`` decide what draws from torch's global generator, as dropout does, and leave no trace there."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        yield


class NativeEngine(Protocol):
    """Trains a method outside autograd, in place; a step is an equal share of the whole work."""

    data: str
    """What a person would call the data."""
    samples: int
    """How many samples the whole work holds."""
    about: str
    """How much of what is worked on, and how (``"5 x 18,300,000 words of text-15m, 2 threads"``)."""

    def step(self, number: int) -> dict[str, float]:
        """Do one step and return its figures: ``loss`` and ``lr`` at least, and ``epoch``."""
        ...

    def state(self) -> dict[str, Any]:
        """Return all that the next step depends on, the method's own parameters included."""
        ...

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state` returned."""
        ...

    def close(self) -> None:
        """End threads and remove temporary files."""
        ...


@runtime_checkable
class TrainsNatively(Protocol):
    """A method that can train itself, where compiled code is many times faster than autograd.

    Its recipe builds the engine (``Recipe.engine``); with ``train.native=False`` it trains in the ordinary loop.
    """

    def native(self, **budget: Any) -> NativeEngine:
        """Return the engine for a budget that the method defines."""
        ...


class Method(nn.Module):
    """Base of all methods.

    A subclass states the batch that it takes (:attr:`needs`), computes its loss, and offers capabilities by having
    their methods (:mod:`intermodal.core.capabilities`).

    Attributes:
        id: the name that ``intermodal methods`` prints.
        needs: the fields of a batch, checked against the source before the first step; where they depend on the
            configuration, an instance sets its own. A loss that is random asks for ``"seed": SEED``.
        contrasts_batch: the loss compares samples of one batch with one another, so gradient accumulation over smaller
            batches would change it.
        config: the configuration that the method was built from.
        processors: raw data <-> tensors, one for each input, saved inside every checkpoint.
    """

    id: ClassVar[str]
    needs: Mapping[str, Field]
    contrasts_batch: bool = False

    def __init__(self, config: Config, processors: Mapping[str, Processor]) -> None:
        super().__init__()
        self.config = config
        self.processors: dict[str, Processor] = dict(processors)

    def loss(self, batch: Batch) -> Losses:
        """Return the loss of one batch of processed tensors (:attr:`needs` says which, with a leading batch axis)."""
        raise NotImplementedError(f"{type(self).__name__} has no loss: it cannot be trained.")

    def phases(self) -> tuple[Phase, ...]:
        """Return the descents of one training step, in order: one for most methods, two for a GAN.

        No parameter that is trained may belong to two of them.
        """
        return (Phase(),)

    def layers_above(self, parameter: str) -> int:
        """Return how many layers lie between a parameter and the head, for rates that fall with depth; 0 for most methods.

        Args:
            parameter: its name, as :meth:`named_parameters` gives it.
        """
        del parameter
        return 0

    def begin_step(self, step: int, steps: int) -> None:
        """Take note that training step ``step`` of ``steps``, from 0, begins: for what is annealed or warmed up."""

    def forward(self, batch: Batch, loss: str = "loss") -> Losses:
        """Call :meth:`loss`, or another phase's: what a distributed wrapper calls, so that its hooks run."""
        return getattr(self, loss)(batch)

    @property
    def inputs(self) -> dict[str, Processor]:
        """The processors of the fields that a batch is made of."""
        return {name: self.processors[name] for name, field in self.needs.items() if field != SEED}

    @property
    def needs_seed(self) -> bool:
        """Whether the loss is random, so that the loader must draw seeds."""
        return any(field == SEED for field in self.needs.values())

    def prepare(self, tensors: Mapping[str, Tensor]) -> Batch:
        """Turn what a loader yields, already on the method's device, into the batch that :meth:`loss` takes."""
        return {k: self.processors[k].prepare(v) if k in self.processors else v for k, v in tensors.items()}

    def health(self) -> list[str]:
        """Return warnings in words about the state of training; empty when all is well."""
        return []

    def train_flops(self, batch_size: int) -> float:
        """Return the floating-point operations of one training step's forward and backward, or 0 when unknown."""
        del batch_size
        return 0.0

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Be in evaluation mode within the block, and behind it, whatever happens, in the mode of before."""
        was_training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(was_training)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def save(self, path: str | Path) -> None:
        """Write a checkpoint folder: weights, configuration and processors, atomically."""
        save_checkpoint(
            path,
            method=self.id,
            config=self.config,
            tensors={k: v.detach() for k, v in self.state_dict().items()},
            processors=self.processors,
        )

    @classmethod
    def class_for(cls, config: dict[str, Any]) -> type[Method]:
        """Return the class that a checkpoint of this id with this configuration is of: this one, for most methods.

        A method in stages keeps them under one id; its class tells the others by their configuration.
        """
        del config
        return cls

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> Self:
        """Read a checkpoint folder that :meth:`save` wrote, strictly.

        Raises:
            CheckpointError: if it is of another method or format, or a key is missing, left over or of another shape.
        """
        checkpoint = read_checkpoint(path)
        if checkpoint.method != cls.id:
            raise CheckpointError(f"{path} holds the method {checkpoint.method!r}, not {cls.id!r}.")
        processors = {k: Processor.from_folder(v, checkpoint.folder) for k, v in checkpoint.processors.items()}
        with torch.device("meta"):
            model = cls(Config.from_dict(checkpoint.config), processors)
        expected = {k: tuple(v.shape) for k, v in model.state_dict().items()}
        tensors = checkpoint.tensors(expected)
        model.load_state_dict(tensors, strict=True, assign=True)
        model.requires_grad_(True)
        return model.to(device).eval()
