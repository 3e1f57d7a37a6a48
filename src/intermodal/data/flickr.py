"""Flickr8k at 96 x 96 pixels: photographs with five captions each (Hodosh, Young and Hockenmaier 2013)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

from intermodal.core.errors import DataError
from intermodal.data.catalog import find
from intermodal.data.source import SourceConfig
from intermodal.data.table import TableSource, read_parquet

if TYPE_CHECKING:
    import pyarrow as pa

NAME = "flickr8k-96"
COLUMNS = ("image", "captions", "split")


@dataclass(frozen=True, kw_only=True)
class Flickr8kSource(SourceConfig):
    """Flickr8k, found by :func:`~intermodal.data.catalog.find`: train (6,528 photographs), validation (742).

    In training each photograph comes with a random one of its five captions, for evaluation with the first.
    """

    def open(self, split: str) -> TableSource:
        """Open ``train`` or ``validation``.

        Raises:
            DataError: if the file is not found or damaged, or for ``test``, which is not part of it.
        """
        path = find(NAME)
        table = flickr_table(path, path.stat().st_mtime_ns)
        stated = table.column("split").to_pylist()
        rows = [i for i, word in enumerate(stated) if word == split]
        if not rows:
            why = " Its test photographs are kept apart, for judging: use validation." if split == "test" else ""
            raise DataError(f"{NAME} has the splits {_spoken(stated)}; found {split!r}.{why}")
        return TableSource(table, image="image", captions=itemgetter("captions"), name=f"flickr8k ({split})", rows=rows)


@functools.lru_cache(maxsize=1)
def flickr_table(path: Path, changed: int) -> pa.Table:
    """Read the file once for all splits; ``changed`` is its time of change.

    Raises:
        DataError: if it cannot be read or lacks a column.
    """
    del changed
    table = read_parquet(path)
    missing = [c for c in COLUMNS if c not in table.column_names]
    if missing:
        raise DataError(f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(table.column_names)}.")
    return table.select(list(COLUMNS))


def _spoken(words: Sequence[str]) -> str:
    return " and ".join(sorted(set(words)))
