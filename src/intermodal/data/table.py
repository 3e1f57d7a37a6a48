"""Sources over an Arrow table: columns in memory, pictures decoded one by one when they are asked for."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from intermodal.core.errors import DataError
from intermodal.data.images import from_struct
from intermodal.data.source import CaptionedSource
from intermodal.data.splits import ALIASES, choose_split

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL import Image

TEXT_COLUMNS = ("text", "caption", "captions", "txt")
LABEL_COLUMNS = ("label", "cls")
SPLIT_COLUMN = "split"

Row = Mapping[str, Any]


class TableSource(CaptionedSource):
    """Pictures and captions in an Arrow table.

    Args:
        table: the columns; kept as it is, so a memory-mapped one stays on the disk.
        image: the column of pictures: structs of ``bytes`` and ``path``, bare bytes, or paths.
        captions: says which captions a row has, given its other columns as a dictionary.
        name: how errors call it.
        label: says which class a row has, likewise; None where there are none.
        rows: the rows of ``table`` to use, all by default.
        root: the folder that relative paths in the picture column start from.
    """

    def __init__(
        self,
        table: pa.Table,
        *,
        image: str,
        captions: Callable[[Row], Sequence[str]],
        name: str,
        label: Callable[[Row], str] | None = None,
        rows: Sequence[int] | None = None,
        root: Path | None = None,
    ) -> None:
        super().__init__(name, labelled=label is not None)
        self.table, self.root = table, root
        self._image, self._captions, self._label = image, captions, label
        self._others = [c for c in table.column_names if c != image]
        self._rows = range(table.num_rows) if rows is None else rows

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, index: int) -> dict[str, Any]:
        """Return one sample's columns, the picture's left out."""
        at = self._rows[index]
        return {c: self.table.column(c)[at].as_py() for c in self._others}

    def picture(self, index: int) -> Image.Image:
        """Return one picture, decoded."""
        value = self.table.column(self._image)[self._rows[index]].as_py()
        return from_struct(value, self.sample_name(index), self.root)

    def captions(self, index: int) -> Sequence[str]:
        """Return all captions of one picture."""
        captions = self._captions(self.row(index))
        if not captions:
            raise DataError(f"{self.sample_name(index)} has no caption.")
        return captions

    def label(self, index: int) -> str:
        """Return the class of one picture."""
        assert self._label is not None
        return self._label(self.row(index))

    def sample_name(self, index: int) -> str:
        """Return the source's name, the row and, where the column has it, the picture's file."""
        at = self._rows[index]
        column = self.table.column(self._image)
        path = column[at].get("path") if _has_field(column.type, "path") else None
        return f"{self.name}, row {at}" + (f" ({path})" if path is not None and path.as_py() else "")


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read one Parquet file, memory-mapped.

    Raises:
        DataError: if it is missing, no Parquet file, or has no rows.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=None if columns is None else list(columns), memory_map=True)
    except FileNotFoundError as error:
        raise DataError(f"There is no file {path}.") from error
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet ({_first_line(error)}): was it cut short?") from error
    if table.num_rows == 0:
        raise DataError(f"The Parquet file {path} has no rows.")
    return table


def split_table(
    table: pa.Table,
    split: str,
    *,
    name: str,
    given: Sequence[str | None] | None = None,
    text_column: str | None = None,
    image_column: str | None = None,
    validation_share: float = 0.1,
    root: Path | None = None,
) -> TableSource:
    """Open one split of a table whose columns follow the ``datasets`` conventions.

    Args:
        table: with a column of pictures, one of texts (``text``, ``caption`` or ``captions``: a string or a
            list of them; or else ``label``), and possibly ``label`` and ``split``.
        split: ``train``, ``validation`` or ``test``.
        name: how errors call the table.
        given: each row's split where it is known from elsewhere; the column ``split`` goes first.
        text_column: where the column of texts has another name.
        image_column: where the column of pictures has another name.
        validation_share: held out where no validation split is stated.
        root: the folder that relative paths start from.

    Raises:
        DataError: if a column is missing, or the split is empty.
    """
    columns = Columns.find(table.schema, text_column, image_column, name)
    if SPLIT_COLUMN in table.column_names:
        given = [ALIASES.get(str(s).lower(), s) for s in table.column(SPLIT_COLUMN).to_pylist()]
    names = row_names(table, columns.image)
    rows = choose_split(names, given or [None] * table.num_rows, split, validation_share, name)
    return TableSource(
        table.select(columns.used),
        image=columns.image,
        captions=columns.captions,
        label=columns.label_of if columns.label is not None else None,
        name=f"{name} ({split})",
        rows=rows,
        root=root,
    )


@dataclass(frozen=True)
class Columns:
    """Which columns of a table or a stream hold what.

    Attributes:
        image: of pictures.
        text: of texts: a string, a list of them, or a class number.
        label: of classes, None if there are none.
        classes: the names of the classes in a column, where the data states them.
    """

    image: str
    text: str
    label: str | None
    classes: Mapping[str, Sequence[str]]

    @classmethod
    def find(cls, schema: pa.Schema, text_column: str | None, image_column: str | None, name: str) -> Columns:
        """Find the columns by their names and types.

        Raises:
            DataError: if there is no column of pictures or of texts; the columns there are are listed.
        """
        image = find_image_column(schema, image_column, name)
        text = find_text_column([c for c in schema.names if c != image], text_column, name)
        label = next((c for c in LABEL_COLUMNS if c in schema.names), None)
        return cls(image, text, label, class_names(schema))

    @property
    def used(self) -> list[str]:
        """The columns that are read, each once."""
        return list(dict.fromkeys(c for c in (self.image, self.text, self.label) if c is not None))

    def captions(self, row: Row) -> list[str]:
        """Return a row's texts, blank ones left out; a class number becomes its name."""
        value = row[self.text]
        names = self.classes.get(self.text)
        if isinstance(value, int) and names is not None:
            value = names[value].replace("_", " ")
        return clean_texts(value)

    def label_of(self, row: Row) -> str:
        """Return a row's class; a class number becomes its name."""
        assert self.label is not None
        value, names = row[self.label], self.classes.get(self.label)
        return names[value] if isinstance(value, int) and names is not None else str(value)

    def row_name(self, row: Row) -> str:
        """Return the file that a row's picture came from, else a hash of the picture."""
        value = row[self.image]
        if isinstance(value, dict):
            if value.get("path"):
                return str(value["path"])
            value = value.get("bytes")
        if isinstance(value, bytes):
            return f"picture {hashlib.blake2b(value, digest_size=8).hexdigest()}"
        return str(value)


def clean_texts(value: Any) -> list[str]:
    """Return a text or several as a list, stripped, blank ones left out."""
    values = value if isinstance(value, (list, tuple)) else [value]
    return [text for v in values if v is not None and (text := str(v).strip())]


def find_image_column(schema: pa.Schema, wanted: str | None, name: str) -> str:
    """Return the column of pictures: the one asked for, ``image``, or the only one of that type."""
    if wanted is not None:
        return _existing(schema.names, wanted, "image_column", name)
    if "image" in schema.names:
        return "image"
    structs = [f.name for f in schema if _has_field(f.type, "bytes")]
    if len(structs) == 1:
        return structs[0]
    raise DataError(
        f"{name} has no column of pictures named 'image'; its columns are {', '.join(schema.names)}. "
        "State the right one as image_column."
    )


def find_text_column(columns: Sequence[str], wanted: str | None, name: str) -> str:
    """Return the column of texts: the one asked for, or the first usual name; a class label will do."""
    if wanted is not None:
        return _existing(columns, wanted, "text_column", name)
    for column in (*TEXT_COLUMNS, *LABEL_COLUMNS):
        if column in columns:
            return column
    raise DataError(
        f"{name} has no column of texts: expected one of {', '.join(TEXT_COLUMNS[:3])}, found "
        f"{', '.join(columns)}. State the right one as text_column."
    )


def _existing(columns: Sequence[str], wanted: str, option: str, name: str) -> str:
    if wanted not in columns:
        raise DataError(
            f"{name} has no column {wanted!r} ({option}); its columns are {', '.join(columns)}."
            f"{did_you_mean(wanted, columns)}"
        )
    return wanted


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Return a question that suggests the nearest of ``known``, to end an error with, or nothing."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def row_names(table: pa.Table, image: str) -> list[str]:
    """Return what to hash each row by: the file that its picture came from, else its number."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = table.column(image)
    paths: list[str | None] = [None] * table.num_rows
    if _has_field(column.type, "path"):
        paths = pc.struct_field(column, "path").to_pylist()
    elif pa.types.is_string(column.type):
        paths = column.to_pylist()
    if len(set(paths)) < 2:
        return [f"row {i}" for i in range(table.num_rows)]
    return [path or f"row {i}" for i, path in enumerate(paths)]


def class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Return the class names of each ``ClassLabel`` column, which ``datasets`` notes in the schema."""
    note = (schema.metadata or {}).get(b"huggingface")
    if note is None:
        return {}
    features = json.loads(note).get("info", {}).get("features", {})
    return {k: v["names"] for k, v in features.items() if isinstance(v, dict) and v.get("_type") == "ClassLabel"}


def _has_field(kind: pa.DataType, field: str) -> bool:
    import pyarrow as pa

    return pa.types.is_struct(kind) and kind.get_field_index(field) >= 0


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")
