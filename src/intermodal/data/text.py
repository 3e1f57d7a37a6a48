"""A person's own text: documents, paragraphs, sentences or lines, with whole documents held out.

Text files are read through a memory map and only the places of the units are held (24 bytes each), so a file may be far
larger than memory; :meth:`TextSource.stream` holds one piece of it.
"""

from __future__ import annotations

import codecs
import mmap
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from intermodal.core.errors import DataError
from intermodal.core.fields import Field
from intermodal.data import catalog
from intermodal.data.source import Sample, Source, SourceConfig
from intermodal.data.splits import check_split, hash_share

Unit = Literal["document", "paragraph", "sentence", "line"]
PIECE = 1 << 20
"""Bytes of a piece of a stream."""
FEW = 8
"""With fewer documents than this, the end of each is held out instead of whole ones."""

_PARAGRAPH = re.compile(rb"[ \t\r]*\n[ \t\r]*\n\s*")
_SENTENCE = re.compile(rb"""(?<=[.!?])["'\)\]]{0,3}\s+(?=["'\(\[]{0,3}[A-Z0-9])|[ \t\r]*\n[ \t\r]*\n\s*""")
_ABBREVIATION = re.compile(
    rb"(?:\b(?:mr|mrs|ms|dr|st|esq|prof|rev|gen|col|capt|lt|sgt|hon|messrs|jr|sr|vs|no|vol|ch|fig|etc|viz|e\.g|i\.e)"
    rb"|\b[A-Z])\.$",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class TextSource(SourceConfig):
    """Text in UTF-8: a file, a folder of ``.txt`` files, a Parquet file with a text column, or parts of ``text-15m``.

    Whole documents are held out, by a stable hash of their content's start; of fewer than eight documents the last
    ``validation_share`` of each is held out instead. A file or a Parquet row is a document. ``test`` is the validation part.

    Attributes:
        path: where the text is; None for the catalogued set ``text-15m``.
        parts: which values of the Parquet file's ``source`` column to take; empty for all.
        text_column: of a Parquet file.
        unit: what a sample is. Sentences end at ``.``, ``!`` or ``?`` before a capital (well-known abbreviations and
            initials excepted) or at an empty line; paragraphs at an empty line.
        min_words: shorter units are left out.
        validation_share: of the documents, how many are held out.
    """

    path: Path | None = None
    parts: tuple[str, ...] = ()
    text_column: str = "text"
    unit: Unit = "sentence"
    min_words: int = 1
    validation_share: float = 0.1

    def open(self, split: str) -> Texts:
        """Open the units of one split.

        Raises:
            DataError: if there is no text, it is not UTF-8 (the message names file and byte), or the split is empty.
        """
        texts = Texts(self, split)
        if not len(texts):
            raise DataError(
                f"{texts.name} holds no {self.unit} of at least {self.min_words} words: there is nothing to read."
            )
        return texts

    def stream(self, split: str) -> Iterator[str]:
        """Yield a split as pieces of at most about a megabyte, cut at white space, one document after the other.

        Raises:
            DataError: as :meth:`open`.
        """
        found = False
        for document, start, end in self.shares(split):
            for piece in _pieces(document, start, end):
                found = found or bool(piece.strip())
                yield piece
        if not found:
            raise DataError(f"{self.title} holds no text for {split}: there is nothing to read.")

    @property
    def title(self) -> str:
        """What a person would call the text."""
        return (str(self.path) if self.path is not None else "text-15m") + (
            f" {'+'.join(self.parts)}" * bool(self.parts)
        )

    def shares(self, split: str | None) -> Iterator[tuple[Document, int, int]]:
        """Yield the documents of a split (None for all), and the first and last byte of each that belong to it."""
        if not 0 < self.validation_share < 1:
            raise DataError(f"validation_share must lie between 0 and 1, found {self.validation_share}.")
        documents = read_documents(self)
        if split is None:
            yield from ((document, 0, document.size) for document in documents)
            return
        check_split(split)
        training = split == "train"
        if len(documents) >= FEW:
            ranks = [hash_share(d.mark) for d in documents]
            limit = max(self.validation_share, min(ranks))
            for document, rank in zip(documents, ranks, strict=True):
                if (rank > limit) == training:
                    yield document, 0, document.size
            return
        for document in documents:
            border = document.cut(int(document.size * (1 - self.validation_share)))
            yield document, *((0, border) if training else (border, document.size))


class Texts(Source):
    """The units of one split, or with ``None`` of the whole; ``documents`` says which follow one another."""

    fields: Mapping[str, Field] = {"text": Field((), "str", "a piece of text")}

    def __init__(self, config: TextSource, split: str | None) -> None:
        self.config = config
        self.name = config.title if split is None else f"{config.title} ({split})"
        self.documents: list[range] = []
        """Which units belong to which document, in order."""
        self._contents: list[Document] = []
        places: list[np.ndarray] = []
        count = 0
        for document, start, end in config.shares(split):
            spans = _spans(document, start, end, config.unit, config.min_words)
            if len(spans):
                places.append(np.column_stack([np.full(len(spans), len(self._contents)), spans]))
                self._contents.append(document)
                self.documents.append(range(count, count + len(spans)))
                count += len(spans)
        self._places = np.concatenate(places) if places else np.zeros((0, 3), np.int64)

    def __len__(self) -> int:
        return len(self._places)

    def text(self, index: int) -> str:
        """Return one unit, white space run together."""
        document, start, end = self._places[index].tolist()
        return " ".join(self._contents[document].read(start, end).split())

    def sample(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """Return one unit."""
        del rng
        return {"text": self.text(index)}

    def place(self, index: int) -> str:
        """Return where a unit stands: its document, and the unit's number in it, from 1."""
        document = int(self._places[index, 0])
        number = index - self.documents[document].start + 1
        return f"{self._contents[document].name}, {self.config.unit} {number:,}"

    def sample_name(self, index: int) -> str:
        """Return where a unit stands, and its first words."""
        return f"{self.place(index)} ({' '.join(self.text(index).split()[:6])!r})"

    def texts(self) -> list[str]:
        """Return every unit."""
        return [self.text(i) for i in range(len(self))]


class Document:
    """Text of one document, in bytes that are known to be UTF-8: a file's through a memory map, or a table's row.

    Args:
        name: for errors.
        data: its bytes, or the file that holds them.
    """

    def __init__(self, name: str, data: bytes | Path) -> None:
        self.name = name
        self._file = data if isinstance(data, Path) else None
        self._data: bytes | mmap.mmap = b"" if isinstance(data, Path) else data
        self._open()

    def _open(self) -> None:
        if self._file is not None and self._file.stat().st_size:
            with self._file.open("rb") as file:
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __getstate__(self) -> dict[str, object]:
        """Leave the map out: a worker process opens its own."""
        return {"name": self.name, "_file": self._file, "_data": b"" if self._file is not None else self._data}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._open()

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self._data)

    @property
    def mark(self) -> str:
        """Its name and first bytes: what the split depends on, wherever the file lies."""
        return Path(self.name).name + self.read(0, self.cut(min(256, self.size)))

    @property
    def data(self) -> bytes | mmap.mmap:
        """The bytes."""
        return self._data

    def read(self, start: int, end: int) -> str:
        """Return the text of some bytes.

        Raises:
            DataError: that names the byte, if they are not UTF-8.
        """
        piece = self._data[start:end]
        try:
            return piece.decode("utf-8").removeprefix("\ufeff") if start == 0 else piece.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.bad_byte(start + error.start, piece[error.start]) from error

    def bad_byte(self, place: int, value: int) -> DataError:
        """Return the error for a byte that is not UTF-8."""
        hint = " (it looks like UTF-16)" if self._data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else ""
        return DataError(
            f"{self.name} is not UTF-8{hint}: byte {place:,} is {value:#04x}. Convert it, for example with "
            "iconv -f latin1 -t utf-8, where latin1 stands for the encoding that it is in."
        )

    def cut(self, place: int) -> int:
        """Return the nearest place not before ``place`` at which a word ends; the document's end if there is none."""
        while place < self.size:
            window = self._data[place : place + 4096]
            found = re.search(rb"\s", window)
            if found is not None:
                return place + found.start()
            place += len(window)
        return self.size


def read_documents(config: TextSource) -> list[Document]:
    """Return all documents of a source, in a stable order.

    Raises:
        DataError: if there are none, or the file is neither text nor Parquet.
    """
    path = catalog.find("text-15m") if config.path is None else config.path
    if not path.exists():
        raise DataError(f"There is no file or folder {path}.")
    if path.is_dir():
        files = sorted(path.rglob("*.txt"))
        if not files:
            raise DataError(f"The folder {path} holds no .txt file: text is expected in files with that ending.")
        documents = [Document(str(f), f) for f in files]
    elif path.suffix == ".parquet":
        documents = _rows(path, config)
    else:
        documents = [Document(str(path), path)]
    if config.parts and path.suffix != ".parquet":
        raise DataError(f"{path} has no parts to choose from: parts name values of a Parquet file's source column.")
    documents = [d for d in documents if d.size]
    if not documents:
        raise DataError(f"{config.title} is empty: there is nothing to read.")
    return documents


def _rows(path: Path, config: TextSource) -> list[Document]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(path).names
        wanted = [config.text_column, *(["source"] if config.parts else [])]
        missing = [n for n in wanted if n not in names]
        if missing:
            raise DataError(f"{path} has no column {missing[0]!r}; it has {', '.join(names)}.")
        table = pq.read_table(path, columns=wanted)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet ({error}).") from error
    rows = table[config.text_column].cast(pa.large_string()).combine_chunks()
    sources: Sequence[str] = table["source"].to_pylist() if config.parts else [""] * len(rows)
    unknown = sorted(set(config.parts) - set(sources))
    if unknown:
        raise DataError(f"{path} has no part {unknown[0]!r}; it has {', '.join(sorted(set(sources)))}.")
    kept = [i for i, source in enumerate(sources) if not config.parts or source in config.parts]
    return [Document(f"{path}, row {i}", (rows[i].as_py() or "").encode()) for i in kept]


def _pieces(document: Document, start: int, end: int) -> Iterator[str]:
    while start < end:
        stop = min(document.cut(start + PIECE), end)
        yield document.read(start, stop)
        start = stop


def _spans(document: Document, start: int, end: int, unit: Unit, min_words: int) -> np.ndarray:
    """Return the first and last byte of each unit, shape ``(N, 2)``; checks that all is UTF-8."""
    for _ in _pieces(document, start, end):
        pass  # decoded once, so that a bad byte is found now and not hours later
    spans = []
    for first, last in _units(document, start, end, unit):
        if first < last and len(document.data[first:last].split(None, min_words)) >= min_words:
            spans.append((first, last))
    return np.array(spans, np.int64).reshape(-1, 2)


def _units(document: Document, start: int, end: int, unit: Unit) -> Iterator[tuple[int, int]]:
    if unit == "document":
        yield start, end
        return
    pattern = {"line": re.compile(rb"\r?\n"), "paragraph": _PARAGRAPH, "sentence": _SENTENCE}[unit]
    first = start
    for found in pattern.finditer(document.data, start, end):
        last = found.start()
        if unit == "sentence":
            text = document.data[max(first, last - 12) : last]
            if b"\n" not in found.group().strip(b" \t\r") and _ABBREVIATION.search(text):
                continue
            last = found.start() + len(found.group()) - len(found.group().lstrip(b"\"')]"))
        if document.data[first:last].strip():
            yield first, last
        first = found.end()
    if document.data[first:end].strip():
        yield first, end
