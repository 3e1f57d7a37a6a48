"""An index of a person's own text, sentence by sentence, kept in LanceDB beside the text.

A row is a unit of the text (a sentence, unless something else is asked for), in the text's order, so an update that was
killed goes on behind the last row. The index carries the stamp of its model and the state of its files: when a file changes
the index is made anew.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa

from intermodal.core.errors import DataError
from intermodal.core.progress import Progress, silent
from intermodal.data.text import Texts, TextSource, Unit
from intermodal.index.database import HIDDEN, explained, metadata, open_table, schema
from intermodal.index.embedding import ModelStamp, embeds, stamp
from intermodal.index.folder import Update
from intermodal.index.hits import Hit, check_query
from intermodal.methods.base import Method

TABLE = "texts"
CONTENT = b"intermodal.content"
BATCH = 512
"""Units that are embedded and committed at a time."""


class TextIndex:
    """The index of one text file or folder of text for one model.

    Args:
        path: a text file, a folder of ``.txt`` files, or a Parquet file with a text column.
        model: embeds texts.
        unit: what a hit is.
        index: where the index lives; ``.intermodal-index`` in the folder, or beside the file, by default.
        rebuild: replace an index that another model made.
        made_by: the model's stamp, where it is known already.

    Raises:
        IndexMismatchError: if another model made the index and ``rebuild`` is not set.
        DataError: if there is no text, it is not UTF-8, or the index is damaged.
    """

    def __init__(
        self,
        path: str | Path,
        model: Method,
        *,
        unit: Unit = "sentence",
        index: str | Path | None = None,
        rebuild: bool = False,
        made_by: ModelStamp | None = None,
    ) -> None:
        self.name = str(path)
        self.source = TextSource(path=Path(path), unit=unit)
        self.model = embeds(model, "text", "An index of text")
        self.stamp = made_by or stamp(model)
        self.path = Path(index) if index is not None else _beside(Path(path))
        self._content = _content(self.source)
        with explained(self.path):
            self._table = open_table(self.path, TABLE, self.stamp, _FIELDS, rebuild=rebuild)
            if metadata(self._table).get(CONTENT) != self._content:
                self._table = self._anew()

    def _anew(self) -> pa.Table:
        import lancedb

        database = lancedb.connect(str(self.path))
        return database.create_table(
            TABLE, schema=schema(_FIELDS, self.stamp, {CONTENT: self._content}), mode="overwrite"
        )

    def __len__(self) -> int:
        return self._table.count_rows()

    def update(self, progress: Progress = silent) -> Update:
        """Embed what is not in the index yet; batches are kept even if this is killed."""
        progress("reading the text", 0.0)
        texts = everything(self.source)
        what = f"indexing {len(texts):,} {self.source.unit}s"
        with explained(self.path):
            first = len(self)
            for start in range(first, len(texts), BATCH):
                self._add(texts, range(start, min(start + BATCH, len(texts))))
                progress(what, min(start + BATCH, len(texts)) / len(texts))
            if len(texts) > first:
                self._table.optimize()
        return Update(len(texts) - first, 0, 0, [], len(texts), 0, what=f"{self.source.unit}s")

    def _add(self, texts: Texts, rows: range) -> None:
        words = [texts.text(i) for i in rows]
        vectors = self.model.embed("text", words)
        self._table.add(
            pa.table(
                {
                    "number": list(rows),
                    "text": words,
                    "place": [texts.place(i) for i in rows],
                    "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), self.stamp.dim),
                },
                schema=schema(_FIELDS, self.stamp),
            )
        )

    def search(self, vector: np.ndarray, k: int) -> list[Hit]:
        """Return the ``k`` closest units; see :meth:`intermodal.index.hits.SearchIndex.search`."""
        check_query(vector, k, self.stamp.dim)
        with explained(self.path):
            query = self._table.search(vector.astype(np.float32), vector_column_name="vector")
            rows = query.distance_type("cosine").limit(k).select(["text", "place", "_distance"]).to_list()  # type: ignore[attr-defined]
            return [Hit(row["place"], 1.0 - row["_distance"], row["text"]) for row in rows]


_FIELDS = [pa.field("number", pa.int64()), pa.field("text", pa.string()), pa.field("place", pa.string())]


def everything(source: TextSource) -> Texts:
    """Return all units of a text, held out or not.

    Raises:
        DataError: if there are none.
    """
    texts = Texts(source, None)
    if not len(texts):
        raise DataError(f"{texts.name} holds no {source.unit}: there is nothing to index.")
    return texts


def _beside(path: Path) -> Path:
    return path / HIDDEN if path.is_dir() else path.with_name(f"{HIDDEN}-{path.name}")


def _content(source: TextSource) -> bytes:
    """Return what the index's rows depend on: the unit, and each file's name, size and time."""
    assert source.path is not None
    if not source.path.exists():
        raise DataError(f"There is no text {source.path}.")
    files = sorted(source.path.rglob("*.txt")) if source.path.is_dir() else [source.path]
    state = [(str(f.name), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    return hashlib.sha256(repr((source.unit, state)).encode()).hexdigest().encode()
