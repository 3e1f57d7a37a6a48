"""What the indexes kept in LanceDB share: a table that knows which model made it, and errors in sentences."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from intermodal.core.errors import DataError, IntermodalError
from intermodal.index.embedding import ModelStamp

if TYPE_CHECKING:
    from lancedb.table import Table

HIDDEN = ".intermodal-index"
STAMP = b"intermodal.model"


class IndexMismatchError(IntermodalError):
    """An index that another model made."""


def open_table(path: Path, name: str, made_by: ModelStamp, fields: list[pa.Field], *, rebuild: bool) -> Table:
    """Open or create a table of vectors that carries its model's stamp.

    Args:
        path: the index's folder; it is created.
        name: of the table.
        made_by: the model's stamp.
        fields: the columns beside ``vector``.
        rebuild: replace what is there.

    Raises:
        IndexMismatchError: if another model made the table and ``rebuild`` is not set.
        DataError: if the folder holds another table of this name, or a damaged one.
    """
    os.environ.setdefault("LANCE_LOG", "error")  # Lance logs the creation of every table as a warning
    import lancedb

    path.mkdir(parents=True, exist_ok=True)
    database: Any = lancedb.connect(str(path), read_consistency_interval=timedelta(0))
    if rebuild:
        database.drop_table(name, ignore_missing=True)
    table = _existing(database, name, path)
    if table is None:
        return database.create_table(name, schema=schema(fields, made_by))
    written = metadata(table).get(STAMP)
    if written is None:
        raise DataError(f"{path} holds no index of this library: choose another place with --index.")
    other = ModelStamp.from_json(written.decode())
    if other != made_by:
        raise IndexMismatchError(
            f"The index {path} was made by another model ({other}) than this one ({made_by}): "
            "replace it with --rebuild, or keep both with --index PATH."
        )
    return table


def schema(fields: list[pa.Field], made_by: ModelStamp, more: Mapping[bytes, bytes] | None = None) -> pa.Schema:
    """Return the columns with the vector's, and the stamp among the metadata."""
    vector = pa.field("vector", pa.list_(pa.float32(), made_by.dim))
    return pa.schema([*fields, vector], metadata={STAMP: made_by.to_json().encode(), **(more or {})})


def metadata(table: Table) -> dict[bytes, bytes]:
    """Return what was written beside a table's columns."""
    return table.schema.metadata or {}


def _existing(database: Any, name: str, path: Path) -> Table | None:
    """Open the table, or return None where there is none (also where its creation was cut short)."""
    try:
        return database.open_table(name)
    except (ValueError, FileNotFoundError):
        return None
    except RuntimeError as error:
        raise DataError(f"The index {path} is damaged ({error}): replace it with --rebuild.") from error


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn the database's errors into sentences."""
    try:
        yield
    except PermissionError as error:
        raise IntermodalError(f"No permission to write the index {path}: choose another place with --index.") from error
    except OSError as error:
        raise IntermodalError(f"The index {path} cannot be written ({error.strerror or error}).") from error
    except RuntimeError as error:
        text = str(error).splitlines()[0]
        if "No space left" in str(error) or "os error 28" in str(error):
            raise IntermodalError(f"The disk is full: the index {path} keeps what it had.") from error
        if "Permission denied" in str(error) or "os error 13" in str(error):
            raise IntermodalError(
                f"No permission to write the index {path}: choose another place with --index."
            ) from error
        raise IntermodalError(f"The index {path} failed: {text}") from error
