"""A source without random access: rows come in the order of their shards, and are shuffled block by block.

Position is exact: it is that of the ``datasets`` stream before the current block, and an offset into the
block, which is read again and shuffled alike on resuming. (The shuffle buffer of ``datasets`` itself is lost
on resuming.)
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from intermodal.core.errors import DataError
from intermodal.data.images import from_struct
from intermodal.data.source import Sample, Source, caption_fields, choose_text
from intermodal.data.splits import hash_share
from intermodal.data.table import Columns, Row

if TYPE_CHECKING:
    from datasets import IterableDataset


class StreamSource(Source):
    """The training split of a data set that is read as a stream; only the loader can iterate it.

    Args:
        dataset: rows with undecoded pictures.
        columns: which columns hold what.
        name: how errors call it.
        held_out: the share of rows, by the hash of their names, that are left to the validation split.
        block: so many rows are shuffled at a time, and held in memory, encoded, by each worker.
        epoch_size: how many samples count as one epoch: the length of a stream is not known.
    """

    def __init__(
        self,
        dataset: IterableDataset,
        columns: Columns,
        *,
        name: str,
        held_out: float = 0.0,
        block: int = 1000,
        epoch_size: int = 10_000,
    ) -> None:
        if block < 1 or epoch_size < 1:
            raise DataError(f"shuffle_block and stream_epoch must be at least 1, found {block} and {epoch_size}.")
        self.dataset, self.columns, self.name = dataset, columns, name
        self.held_out, self.block, self.epoch_size = held_out, block, epoch_size
        self.fields = caption_fields(labelled=columns.label is not None)

    def __len__(self) -> int:
        return self.epoch_size

    def sample(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """Refuse: a stream has no random access."""
        raise DataError(f"{self.name} is a stream: its samples cannot be read by number.")

    def texts(self) -> list[str]:
        """Return the texts of the first epoch_size rows, for training a tokenizer."""
        rows = islice(self.rows(iter(self.dataset)), self.epoch_size)
        return [text for row in rows for text in self.columns.captions(row)]

    def rows(self, rows: Iterator[Row]) -> Iterator[Row]:
        """Yield those rows that are not held out.

        Raises:
            DataError: if a shard is damaged or cannot be reached.
        """
        import pyarrow as pa

        try:
            for row in rows:
                if hash_share(self.columns.row_name(row)) >= self.held_out:
                    yield row
        except (OSError, ValueError, EOFError, tarfile.TarError, pa.ArrowException) as error:
            raise DataError(f"{self.name} cannot be read on ({error}): a shard is damaged or out of reach.") from error

    def read(self, row: Row, rng: np.random.Generator | None) -> Sample:
        """Return a row's sample: its picture decoded, a random one of its captions.

        Raises:
            DataError: if the picture cannot be read, or there is no caption.
        """
        captions = self.columns.captions(row)
        if not captions:
            raise DataError(f"{self.row_name(row)} has no caption.")
        picture = from_struct(row[self.columns.image], self.row_name(row))
        sample: Sample = {"image": picture, "text": choose_text(captions, rng), "captions": captions}
        if self.columns.label is not None:
            sample["label"] = self.columns.label_of(row)
        return sample

    def row_name(self, row: Row) -> str:
        """Return the source's name and the file that the row's picture came from, where that is known."""
        return f"{self.name}, {self.columns.row_name(row)}"


@dataclass(frozen=True)
class Place:
    """Where a row of a stream was met: all that is random about its sample comes from it."""

    epoch: int
    reader: int
    position: int


class RowStream:
    """The rows of one of several readers, pass after pass without end, each in a new order.

    Args:
        source: the stream.
        seed: of the order.
        rank, world: this process's share of the shards (of the rows, if ``world`` does not divide their
            number).
        reader: which process and worker this is, so that no two draw the same numbers.
    """

    def __init__(self, source: StreamSource, seed: int, rank: int, world: int, reader: int) -> None:
        from datasets.distributed import split_dataset_by_node

        self.source, self.seed, self.reader = source, seed, reader
        self._dataset = split_dataset_by_node(source.dataset, rank=rank, world_size=world)
        self._rows: Iterator[Row] | None = None
        self._block: list[Row] = []
        self._order: list[int] = []
        self._start: dict[str, Any] | None = None
        self.epoch = self.position = self._offset = 0

    def __iter__(self) -> RowStream:
        return self

    def __next__(self) -> tuple[Place, Row]:
        """Return the next row and its place; ends only if this reader has no row at all."""
        while self._offset >= len(self._block):
            if self._rows is None:
                self._begin(None)
            self._read_block()
            if not self._block:
                if self.position == 0:
                    raise StopIteration
                self.epoch, self.position, self._rows = self.epoch + 1, 0, None
        row = self._block[self._order[self._offset]]
        place = Place(self.epoch, self.reader, self.position)
        self._offset += 1
        self.position += 1
        return place, row

    def _begin(self, start: Mapping[str, Any] | None) -> None:
        # `datasets` draws the order of the shards from the epoch alone, and leaves it as it is in epoch 0.
        self._dataset.set_epoch(1 + self.epoch + 1_000_003 * (self.seed % 1_000_003))
        self._dataset.load_state_dict(dict(start) if start else None)
        self._rows = self.source.rows(iter(self._dataset))
        self._start = dict(start) if start else None
        self._block, self._offset = [], 0

    def _read_block(self) -> None:
        assert self._rows is not None
        if self.position:
            self._start = self._dataset.state_dict()
        self._fill()

    def _fill(self) -> None:
        assert self._rows is not None
        self._block, self._offset = list(islice(self._rows, self.source.block)), 0
        rng = np.random.default_rng([self.seed, self.epoch, self.reader, self.position])
        self._order = rng.permutation(len(self._block)).tolist()

    def state_dict(self) -> dict[str, Any]:
        """Return the position in plain data."""
        return {"epoch": self.epoch, "position": self.position, "offset": self._offset, "start": self._start}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a saved position: the block that it lies in is read again."""
        self.epoch, offset = state["epoch"], state["offset"]
        self.position = state["position"] - offset
        self._begin(state["start"])
        if offset:
            self._fill()
            self.position, self._offset = state["position"], offset
