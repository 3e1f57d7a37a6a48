"""The parts that every loader is made of: tickets, encoded samples, batches, collation, workers."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torchdata.stateful_dataloader import StatefulDataLoader

from intermodal.core.errors import DataError
from intermodal.data.processors import Processor
from intermodal.data.source import Sample, Unreadable
from intermodal.data.transforms import ImageAugment


@dataclass(frozen=True)
class Ticket:
    """Names one sample of one epoch: its place in the shuffled order, and its index in the source."""

    epoch: int
    position: int
    index: int


class Encoded(NamedTuple):
    """One sample on its way into a batch."""

    ticket: Ticket
    tensors: dict[str, Tensor]
    skipped: list[Unreadable]


class Batch(NamedTuple):
    """What the loader yields: tensors by field, and what was unreadable on the way."""

    tensors: dict[str, Tensor]
    skipped: list[Unreadable]


def encode(
    sample: Sample, processors: Mapping[str, Processor], rng: np.random.Generator | None = None
) -> dict[str, Tensor]:
    """Return the fields of a sample that have a processor, encoded by it; with ``rng`` also a ``seed`` drawn from it.

    Of a field that varies in length, the length comes too, as ``<name>_length``.
    """
    tensors = {name: _encode(processor, sample[name]) for name, processor in processors.items()}
    for name in [name for name, processor in processors.items() if processor.varying]:
        tensors[f"{name}_length"] = torch.tensor(len(tensors[name]))
    return tensors if rng is None else {**tensors, "seed": torch.tensor(int(rng.integers(2**62)))}


def _encode(processor: Processor, value: Any) -> Tensor:
    """Return a value encoded, or where a sample holds several pictures (a list of them) each of them, stacked."""
    if isinstance(value, list) and processor.raw.dtype == "image":
        return torch.stack([processor.encode(picture) for picture in value])
    return processor.encode(value)


def stack(samples: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the encoded fields of several samples with a leading batch axis; those that vary are padded with zeros."""
    first = samples[0]
    return {
        name: nn.utils.rnn.pad_sequence([s[name] for s in samples], batch_first=True)
        if f"{name}_length" in first
        else torch.stack([s[name] for s in samples])
        for name in first
    }


@dataclass
class Collate:
    """Stacks encoded samples and augments the pictures, with parameters drawn for the whole global batch."""

    seed: int
    batch_size: int
    augment: ImageAugment | None

    def __call__(self, items: list[Encoded | DataError]) -> Batch | DataError:
        """Return the batch, or the first error among its samples."""
        samples: list[Encoded] = []
        for item in items:
            if isinstance(item, DataError):
                return item
            samples.append(item)
        tensors = stack([s.tensors for s in samples])
        if self.augment is not None and "image" in tensors:
            uniform = self._draw(self.augment, samples[0].ticket, len(samples))
            tensors["image"] = self.augment.apply(tensors["image"].float() / 255, uniform)
        return Batch(tensors, [skipped for s in samples for skipped in s.skipped])

    def _draw(self, augment: ImageAugment, first: Ticket, count: int) -> Tensor:
        batch_number, offset = divmod(first.position, self.batch_size)
        seed = np.random.SeedSequence([self.seed, first.epoch, batch_number, 1]).generate_state(1)[0]
        uniform = augment.draw(self.batch_size, torch.Generator().manual_seed(int(seed)))
        return uniform[offset : offset + count]


class Loader(StatefulDataLoader):
    """What both loaders share: errors that come out of workers as values, and workers that can be stopped."""

    def checked(self, item: Batch | DataError) -> Batch:
        """Return a batch that a worker made, or stop the workers and raise the error that one met instead."""
        if isinstance(item, DataError):
            self.close()
            raise DataError(str(item))
        return item

    def close(self) -> None:
        """Stop the worker processes now; the next iteration starts others.

        Left to the garbage collector, a loader in a reference cycle (such as an error's traceback makes)
        loses its queues before its workers hear that they should end, and five seconds pass until they are
        killed.
        """
        self._iterator = None


LoaderT = TypeVar("LoaderT", bound=Loader)


def build_loader(cls: type[LoaderT], workers: int, **options: Any) -> LoaderT:
    """Build a data loader with so many worker processes.

    On Linux they are forked: that takes milliseconds where a fresh interpreter takes seconds to import torch,
    and is safe because a worker runs torch on one thread and touches no device. Elsewhere the platform's own
    way is used.
    """
    if workers < 0:
        raise DataError(f"The number of workers must not be negative, found {workers}.")
    if workers:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else the tokenizer warns in every forked worker
        context = "fork" if sys.platform == "linux" else None
        options.update(persistent_workers=True, multiprocessing_context=context)
    with warnings.catch_warnings():
        # torchdata 0.11 calls a function that torch 2.13 declares deprecated.
        warnings.filterwarnings("ignore", message="'set_vital' is deprecated", category=UserWarning)
        return cls(num_workers=workers, **options)
