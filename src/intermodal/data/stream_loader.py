"""From a stream to batches: augmented and resumable, for each rank and worker process its own shards."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from intermodal.core.errors import DataError
from intermodal.data.batches import Batch, Collate, Encoded, Loader, Ticket, build_loader, encode
from intermodal.data.processors import Processor
from intermodal.data.source import MOST_IN_A_ROW, Unreadable, unreadable_in_a_row
from intermodal.data.stream import RowStream, StreamSource
from intermodal.data.transforms import ImageAugment


class EncodedStream(torch.utils.data.IterableDataset[Any]):
    """The encoded samples of a stream, without end, for one rank; each worker reads its own shards."""

    def __init__(
        self,
        source: StreamSource,
        processors: Mapping[str, Processor],
        seed: int,
        *,
        seeds: bool,
        rank: int,
        world: int,
    ) -> None:
        self.source, self.processors, self.seed, self.seeds = source, processors, seed, seeds
        self.rank, self.world = rank, world

    def __iter__(self) -> EncodedRows:
        worker = torch.utils.data.get_worker_info()
        reader = self.rank + self.world * (worker.id if worker is not None else 0)
        return EncodedRows(self, RowStream(self.source, self.seed, self.rank, self.world, reader))


class EncodedRows:
    """The iterator of :class:`EncodedStream`; it has a position."""

    def __init__(self, stream: EncodedStream, rows: RowStream) -> None:
        self._stream, self._rows = stream, rows

    def __iter__(self) -> EncodedRows:
        return self

    def __next__(self) -> Encoded | DataError:
        skipped: list[Unreadable] = []
        source = self._stream.source
        while len(skipped) < MOST_IN_A_ROW:
            try:
                place, row = next(self._rows)
            except DataError as error:
                return error
            rng = np.random.default_rng([self._stream.seed, place.epoch, place.reader, place.position])
            try:
                sample = source.read(row, rng)
            except DataError as error:
                skipped.append(Unreadable(source.row_name(row), str(error)))
                continue
            ticket = Ticket(place.epoch, place.position, place.reader)
            drawn = rng if self._stream.seeds else None
            return Encoded(ticket, encode(sample, self._stream.processors, drawn), skipped)
        return unreadable_in_a_row(source, skipped)

    def state_dict(self) -> dict[str, Any]:
        """Return the position in plain data."""
        return self._rows.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a saved position."""
        self._rows.load_state_dict(state)


class StreamCollate(Collate):
    """Draws the augmentation of a batch from where its first sample stood in its reader's stream."""

    def _draw(self, augment: ImageAugment, first: Ticket, count: int) -> Tensor:
        entropy = [self.seed, first.epoch, first.index, first.position, 2]
        seed = np.random.SeedSequence(entropy).generate_state(1)[0]
        return augment.draw(count, torch.Generator().manual_seed(int(seed)))


class StreamEpochs:
    """Counts the batches of a stream into epochs of a stated size, the same for all ranks."""

    def __init__(self, batches: int, batch_size: int) -> None:
        self.batches, self.batch_size = batches, batch_size
        self.epoch = self.done = 0

    def __len__(self) -> int:
        return self.batches

    def set_epoch(self, epoch: int) -> None:
        """Name the epoch that begins; the stream goes on where it was."""
        if epoch != self.epoch:
            self.epoch, self.done = epoch, 0


class StreamLoader(Loader):
    """Batches of an endless stream, an epoch's worth at a time; its state holds each worker's position."""

    epochs: StreamEpochs
    readers: tuple[int, int]
    _batches: Iterator[Batch | DataError] | None = None

    def __iter__(self) -> Generator[Batch, None, None]:
        """Yield the rest of the epoch after a position was loaded, else an epoch's worth.

        Raises:
            DataError: if a shard is damaged, the stream is empty, or a hundred samples in a row are
                unreadable.
        """
        if self._batches is None:
            self._batches = super().__iter__()
        while self.epochs.done < len(self.epochs):
            item = next(self._batches, None)
            if item is None:
                raise DataError("The stream has no sample for this process: it needs at least one shard or row.")
            self.epochs.done += 1
            yield self.checked(item)
        self.epochs.done = 0

    def close(self) -> None:
        """Stop the worker processes; the next iteration begins the stream anew, or at a loaded position."""
        self._batches = None
        super().close()

    def state_dict(self) -> dict[str, Any]:
        """Return the position in plain data."""
        position = super().state_dict()
        done = {"epoch": self.epochs.epoch, "done": self.epochs.done}
        return {**done, "readers": list(self.readers), "position": position}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to a saved position.

        Raises:
            DataError: if the numbers of ranks or workers are others now: each reads its own shards.
        """
        if tuple(state_dict["readers"]) != self.readers:
            was, now = state_dict["readers"], self.readers
            raise DataError(
                f"The stream was read by {was[0]} processes with {was[1]} workers each, now by {now[0]} with "
                f"{now[1]}: a stream resumes only with the same numbers."
            )
        self.epochs.epoch, self.epochs.done = state_dict["epoch"], state_dict["done"]
        self.close()
        super().load_state_dict(state_dict["position"])


def stream_loader(
    source: StreamSource,
    processors: Mapping[str, Processor],
    *,
    batch_size: int,
    seed: int,
    augment: ImageAugment | None = None,
    seeds: bool = False,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
) -> tuple[StreamLoader, StreamEpochs]:
    """Return a loader over a stream and the counter of its epochs, used as those of ``train_loader``.

    Same seed, ranks and workers: same batches, also after resuming. Unlike ``train_loader``'s they do
    depend on the numbers of ranks and workers, since each reads its own shards; there are at most as many
    workers as shards.

    Raises:
        DataError: if the ranks cannot share the batch evenly.
    """
    if batch_size < 1 or batch_size % world:
        raise DataError(f"{world} processes cannot share a batch of {batch_size} evenly: choose a multiple.")
    shards = source.dataset.num_shards
    workers = min(workers, shards // world if shards % world == 0 else shards)
    loader = build_loader(
        StreamLoader,
        workers,
        dataset=EncodedStream(source, processors, seed, seeds=seeds, rank=rank, world=world),
        batch_size=batch_size // world,
        collate_fn=StreamCollate(seed, batch_size, augment),
    )
    loader.epochs = StreamEpochs(max(1, len(source) // batch_size), batch_size)
    loader.readers = (world, workers)
    return loader, loader.epochs
