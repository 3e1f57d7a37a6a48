"""An index of the pictures, or of the recordings, in a folder, kept in LanceDB inside the folder, updated incrementally.

A row is a file: its relative path, its modification time and size, its unit vector, or why it is unreadable.
Each batch is one commit of LanceDB, so an update that is killed at any moment leaves every earlier batch, and
the next update does the rest. The stamp of the model that made the vectors is in the table's schema; another
model is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from intermodal.core.errors import DataError
from intermodal.core.progress import Progress, silent
from intermodal.data.images import open_image
from intermodal.data.source import Unreadable
from intermodal.index.database import HIDDEN, explained, open_table, schema
from intermodal.index.embedding import FILES, ModelStamp, embed_files, embeds, find_files, open_file, stamp
from intermodal.index.hits import Hit, check_query
from intermodal.methods.base import Method

TABLES = {"image": "pictures", "audio": "recordings"}
READABLE = "error IS NULL"
_FIELDS = [
    pa.field("path", pa.string(), nullable=False),
    pa.field("mtime_ns", pa.int64()),
    pa.field("size", pa.int64()),
    pa.field("error", pa.string()),
]


class State(NamedTuple):
    """By what a changed file is known."""

    mtime_ns: int
    size: int


@dataclass(frozen=True)
class Update:
    """What an update did.

    Attributes:
        added, changed, removed: how many files.
        unreadable: the files among them that could not be read, and why.
        total: pictures in the index now.
        known_unreadable: files that were unreadable before and have not changed since.
        what: the things that are indexed, in the plural.
    """

    added: int
    changed: int
    removed: int
    unreadable: list[Unreadable]
    total: int
    known_unreadable: int
    what: str = "pictures"

    def __str__(self) -> str:
        text = f"{self.total} {self.what} ({self.added} new, {self.changed} changed, {self.removed} gone)"
        bad = len(self.unreadable) + self.known_unreadable
        return f"{text}, {bad} unreadable" if bad else text


class FolderIndex:
    """The index of one folder for one model.

    Args:
        folder: of pictures or recordings, in any depth.
        model: embeds them.
        modality: ``image`` or ``audio``, which of the two.
        path: where the index lives; ``FOLDER/.intermodal-index`` by default.
        rebuild: replace an index that another model made.
        made_by: the model's stamp, where it is known already.

    Raises:
        IndexMismatchError: if another model made the index and ``rebuild`` is not set.
        DataError: if there is no such folder, or the index is damaged.
    """

    def __init__(
        self,
        folder: str | Path,
        model: Method,
        modality: str = "image",
        *,
        path: str | Path | None = None,
        rebuild: bool = False,
        made_by: ModelStamp | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.modality, self.what = modality, f"{FILES[modality][0]}s"
        if not self.folder.is_dir():
            raise DataError(f"The folder of {self.what} {self.folder} does not exist.")
        self.name = str(self.folder)
        self.path = Path(path) if path is not None else self.folder / HIDDEN
        self.model = embeds(model, modality, f"An index of {self.what}")
        self.stamp = made_by or stamp(model)
        with explained(self.path):
            self._table = open_table(self.path, TABLES[modality], self.stamp, _FIELDS, rebuild=rebuild)

    def __len__(self) -> int:
        return self._table.count_rows(READABLE)

    def update(self, progress: Progress = silent) -> Update:
        """Bring the index up to date with the folder; batches are kept even if this is killed.

        An unreadable file is reported, remembered, and tried again only when its file changes.

        Raises:
            DataError: if the folder holds no such file.
            IntermodalError: if the disk is full or the index's folder may not be written.
        """
        progress("looking at the folder", 0.0)
        found, nameless = self._scan()
        with explained(self.path):
            known, bad = self._known()
            gone = sorted(known.keys() - found.keys())
            self._delete(gone)
            todo = [path for path in found if found[path] != known.get(path)]
            unreadable = nameless + self._embed(todo, found, progress)
            if todo or gone:
                self._table.optimize(cleanup_older_than=timedelta(minutes=10))
            changed = sum(path in known for path in todo)
            remembered = len(bad & found.keys() - set(todo))
            return Update(len(todo) - changed, changed, len(gone), unreadable, len(self), remembered, self.what)

    def _scan(self) -> tuple[dict[str, State], list[Unreadable]]:
        """Return the state of each file by relative path, and those whose names no database can hold."""
        found, nameless = {}, []
        for file in find_files(self.folder, self.modality):
            name = file.relative_to(self.folder).as_posix()
            try:
                name.encode()
            except UnicodeEncodeError:
                nameless.append(Unreadable(ascii(name), f"The name of {name!a} is not valid UTF-8: rename it."))
                continue
            try:
                status = file.stat()
            except FileNotFoundError:  # deleted since it was listed
                continue
            found[name] = State(status.st_mtime_ns, status.st_size)
        return found, nameless

    def _known(self) -> tuple[dict[str, State], set[str]]:
        rows = self._table.search().select(["path", "mtime_ns", "size", "error"]).to_arrow().to_pylist()
        states = {row["path"]: State(row["mtime_ns"], row["size"]) for row in rows}
        return states, {row["path"] for row in rows if row["error"] is not None}

    def _delete(self, paths: list[str]) -> None:
        for start in range(0, len(paths), 500):
            names = ", ".join("'" + path.replace("'", "''") + "'" for path in paths[start : start + 500])
            self._table.delete(f"path IN ({names})")

    def _embed(self, todo: list[str], found: dict[str, State], progress: Progress) -> list[Unreadable]:
        unreadable: list[Unreadable] = []
        done = 0
        if todo:
            progress(f"indexing {len(todo)} {self.what}", 0.0)

        def read(path: str) -> Any:
            return open_file(self.folder / path, self.modality)

        for paths, vectors, failed in embed_files(self.model, todo, read, str, self.modality):
            rows: list[tuple[str, str | None, Any]] = [(p, None, v) for p, v in zip(paths, vectors, strict=True)]
            nothing = np.zeros(self.stamp.dim, np.float32)
            rows += [(path, problem.reason, nothing) for path, problem in failed]
            self._commit(rows, found)
            unreadable += [problem for _, problem in failed]
            done += len(rows)
            progress(f"indexing {len(todo)} {self.what}", done / len(todo))
        return unreadable

    def _commit(self, rows: list[tuple[str, str | None, Any]], found: dict[str, State]) -> None:
        matrix = np.stack([vector for _, _, vector in rows]).astype(np.float32)
        batch = pa.table(
            {
                "path": [path for path, _, _ in rows],
                "mtime_ns": [found[path].mtime_ns for path, _, _ in rows],
                "size": [found[path].size for path, _, _ in rows],
                "error": pa.array([error for _, error, _ in rows], pa.string()),
                "vector": pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), self.stamp.dim),
            },
            schema=schema(_FIELDS, self.stamp),
        )
        self._table.merge_insert("path").when_matched_update_all().when_not_matched_insert_all().execute(batch)

    def search(self, vector: np.ndarray, k: int) -> list[Hit]:
        """Return the ``k`` closest files; see :meth:`intermodal.index.hits.SearchIndex.search`."""
        check_query(vector, k, self.stamp.dim)
        with explained(self.path):
            query = self._table.search(vector.astype(np.float32), vector_column_name="vector")
            rows = query.distance_type("cosine").where(READABLE, prefilter=True).limit(k)  # type: ignore[attr-defined]
            return [self._hit(row["path"], row["_distance"]) for row in rows.select(["path", "_distance"]).to_list()]

    def _hit(self, path: str, distance: float) -> Hit:
        file = self.folder / path
        picture = (lambda: open_image(file)) if self.modality == "image" else None
        return Hit(str(file), 1.0 - distance, picture=picture)
