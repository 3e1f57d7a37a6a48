"""From a source to batches: shuffled, encoded, augmented, resumable, the same with any number of processes.

The order of an epoch is a permutation drawn from (seed, epoch). A *ticket* (epoch, position, index) names one
sample of it; everything random about the sample comes from (seed, epoch, position). So a batch does not
depend on how many worker processes read it or how many ranks share it, and a position is all that has to be
saved.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from intermodal.core.errors import DataError
from intermodal.data.batches import (
    Batch,
    Collate,
    Encoded,
    Loader,
    Ticket,
    build_loader,
    encode,
    stack,
)
from intermodal.data.processors import Processor
from intermodal.data.source import Source, read_or_next
from intermodal.data.stream import StreamSource
from intermodal.data.stream_loader import StreamEpochs, StreamLoader, stream_loader
from intermodal.data.transforms import ImageAugment

POOL = 8
"""So many batches' samples are sorted by length at a time."""


class EpochSampler:
    """Yields, for one rank, its share of each global batch of one epoch.

    The samples that are left over when an epoch is cut into batches are dropped; the next epoch drops others. Where samples
    differ in length, those of a batch are taken from a sorted pool of :data:`POOL` batches, so that little is padding.

    Args:
        size: samples in the source.
        batch_size: the global batch, over all ranks.
        seed: of the order.
        rank, world: this process, and how many there are; ``world`` must divide ``batch_size``.
        lengths: of the samples; None where all are alike.

    Raises:
        DataError: if the source is empty, or the ranks cannot share a batch evenly.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        *,
        lengths: Sequence[float] | None = None,
    ) -> None:
        if batch_size < 1:
            raise DataError(f"The batch size must be at least 1, found {batch_size}.")
        if batch_size % world:
            raise DataError(f"{world} processes cannot share a batch of {batch_size} evenly: choose a multiple.")
        if size < 1:
            raise DataError("The source is empty: there is nothing to train on.")
        self.size, self.batch_size, self.seed = size, min(batch_size, size - size % world), seed
        if self.batch_size < world:
            raise DataError(f"{size} samples are too few for {world} processes.")
        self.rank, self.world = rank, world
        self.lengths = None if lengths is None else np.asarray(lengths)
        self.epoch = 0
        self.done = 0
        """Batches of the epoch that training has taken; the loader counts them."""
        self.start = 0
        """The batch at which the next iteration begins: above zero once, after a position was loaded."""

    def __len__(self) -> int:
        return self.size // self.batch_size

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration yields; a loaded position in that very epoch is kept.

        Raises:
            DataError: if a loaded position in the middle of another epoch would be lost.
        """
        if epoch == self.epoch and self.start:
            return
        if 0 < self.start < len(self):
            raise DataError(f"The saved position is in epoch {self.epoch}, but epoch {epoch} was asked for.")
        self.epoch, self.done, self.start = epoch, 0, 0

    def __iter__(self) -> Iterator[list[Ticket]]:
        epoch, first, self.start = self.epoch, self.start, 0
        order = self._order(epoch)
        share = self.batch_size // self.world
        for batch in range(first, len(self)):
            start = batch * self.batch_size + self.rank * share
            yield [Ticket(epoch, p, int(order[p])) for p in range(start, start + share)]

    def _order(self, epoch: int) -> np.ndarray:
        """Return the epoch's permutation of the samples."""
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(self.size)
        if self.lengths is None:
            return order
        used = len(self) * self.batch_size
        pools = [order[at : at + POOL * self.batch_size] for at in range(0, used, POOL * self.batch_size)]
        pools[-1] = pools[-1][: used - POOL * self.batch_size * (len(pools) - 1)]
        like = np.concatenate([pool[np.argsort(self.lengths[pool], kind="stable")] for pool in pools])
        batches = like.reshape(len(self), self.batch_size)[rng.permutation(len(self))]
        return batches.reshape(-1)

    def state_dict(self) -> dict[str, int]:
        """Return the position in plain numbers: the epoch, the next batch, and what the order depends on."""
        fixed = {"seed": self.seed, "size": self.size, "batch_size": self.batch_size}
        return {"epoch": self.epoch, "next": self.done, **fixed}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go to a saved position: the next iteration continues there.

        Raises:
            DataError: if the seed, the batch size or the number of samples is another now, so that the rest
                of the epoch would not be what it was.
        """
        for name, now in (("seed", self.seed), ("size", self.size), ("batch_size", self.batch_size)):
            if state[name] != now:
                what = {"size": "number of samples", "batch_size": "batch size"}.get(name, name)
                raise DataError(f"The saved position was in data with the {what} {state[name]}; now it is {now}.")
        self.epoch = state["epoch"]
        self.done = self.start = state["next"]


class EncodedSource(torch.utils.data.Dataset[Any]):
    """A source whose samples come encoded by the method's processors (picklable, for worker processes)."""

    def __init__(self, source: Source, processors: Mapping[str, Processor], seed: int, seeds: bool = False) -> None:
        self.source, self.processors, self.seed, self.seeds = source, processors, seed, seeds

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, ticket: Ticket) -> Encoded | DataError:
        """Return a sample, or the error as a value: raised in a worker it comes wrapped in a traceback."""
        rng = np.random.default_rng([self.seed, ticket.epoch, ticket.position])
        try:
            sample, skipped = read_or_next(self.source, ticket.index, rng)
        except DataError as error:
            return error
        return Encoded(ticket, encode(sample, self.processors, rng if self.seeds else None), skipped)


class EpochLoader(Loader):
    """Batches of one epoch at a time, in the sampler's order.

    Its state is the sampler's position alone, so a run may go on with another number of workers, or of ranks.
    """

    epochs: EpochSampler

    def __iter__(self) -> Generator[Batch, None, None]:
        """Yield the rest of the epoch after a position was loaded, else all of it.

        Raises:
            DataError: if a hundred samples in a row are unreadable.
        """
        self.epochs.done = self.epochs.start
        for item in super().__iter__():
            self.epochs.done += 1
            yield self.checked(item)

    def state_dict(self) -> dict[str, Any]:
        """Return the position behind the last batch that was yielded, in plain numbers."""
        return self.epochs.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to a saved position; see :meth:`EpochSampler.load_state_dict`."""
        self.epochs.load_state_dict(state_dict)


def train_loader(
    source: Source,
    processors: Mapping[str, Processor],
    *,
    batch_size: int,
    seed: int,
    augment: ImageAugment | None = None,
    seeds: bool = False,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
) -> tuple[EpochLoader | StreamLoader, EpochSampler | StreamEpochs]:
    """Return a loader over one source and the sampler that chooses its epoch.

    The loader's ``state_dict`` saves the position in the middle of an epoch. ``batch_size`` is global; where
    the source is smaller, the whole source is one batch. With ``seeds`` each sample brings a random ``seed`` (int64),
    for methods whose loss is random. A stream is given to :func:`stream_loader`.

    Raises:
        DataError: if the source is empty or smaller than the number of ranks, or the batch cannot be shared
            evenly.
    """
    if isinstance(source, StreamSource):
        return stream_loader(
            source,
            processors,
            batch_size=batch_size,
            seed=seed,
            augment=augment,
            seeds=seeds,
            workers=workers,
            rank=rank,
            world=world,
        )
    sampler = EpochSampler(len(source), batch_size, seed, rank, world, lengths=source.lengths())
    loader = build_loader(
        EpochLoader,
        workers,
        dataset=EncodedSource(source, processors, seed, seeds),
        batch_sampler=sampler,
        collate_fn=Collate(seed, sampler.batch_size, augment),
    )
    loader.epochs = sampler
    return loader, sampler


def eval_batches(
    source: Source, processors: Mapping[str, Processor], batch_size: int
) -> Iterator[tuple[range, dict[str, Tensor]]]:
    """Yield the canonical samples of a source in order: the indices and the encoded tensors of each batch.

    Raises:
        DataError: at the first unreadable sample: an evaluation is over all of its samples or it is none.
    """
    for start in range(0, len(source), batch_size):
        indices = range(start, min(start + batch_size, len(source)))
        samples = [source.sample(i) for i in indices]
        yield indices, stack([encode(s, processors) for s in samples])
