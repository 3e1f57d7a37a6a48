"""The ways in which people keep captioned pictures in a folder: one detector, one small reader each.

A reader turns a list of files into a :class:`Listing`; no picture is opened for it.
"""

from __future__ import annotations

import csv
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from intermodal.core.errors import DataError
from intermodal.data.images import SUFFIXES
from intermodal.data.splits import ALIASES, spoken_split
from intermodal.data.table import LABEL_COLUMNS, SPLIT_COLUMN, clean_texts, did_you_mean, find_text_column

Layout = Literal["metadata", "shards", "parquet", "captions", "classes"]
METADATA = ("metadata.csv", "metadata.jsonl")
CAPTION_SUFFIXES = (".txt", ".caption")
ACCEPTED = (
    "Accepted are: a metadata.csv or metadata.jsonl with the columns file_name and text; a caption file "
    "beside each picture (cat.jpg, cat.txt); one folder of pictures per class; Parquet files; "
    "WebDataset shards (.tar)."
)
logger = logging.getLogger(__name__)


@dataclass
class Listing:
    """Pictures by file, with what is known of each.

    Attributes:
        files: paths relative to the root, with forward slashes.
        captions: each picture's captions, or the caption file that holds them (read when they are asked for).
        labels: each picture's class; empty if there are none.
        splits: each picture's split, None where the data does not say.
    """

    files: list[str] = field(default_factory=list)
    captions: list[tuple[str, ...] | Path] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    splits: list[str | None] = field(default_factory=list)

    def add(self, file: str, captions: tuple[str, ...] | Path, label: str | None, split: str | None) -> None:
        """Append one picture."""
        self.files.append(file)
        self.captions.append(captions)
        self.splits.append(split)
        if label is not None:
            self.labels.append(label)


def scan(root: Path) -> list[str]:
    """Return every file under a folder, relative to it, sorted; hidden ones are left out, links are followed.

    Raises:
        DataError: if a folder may not be read.
    """
    found: list[str] = []
    pending, seen = [(root, "")], set()
    while pending:
        folder, prefix = pending.pop()
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:  # a link that leads back up
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith((".", "__MACOSX")):
                        continue
                    if entry.is_dir():
                        pending.append((Path(entry.path), f"{prefix}{entry.name}/"))
                    else:
                        found.append(prefix + entry.name)
        except OSError as error:
            raise DataError(f"The folder {folder} cannot be read ({error.strerror}).") from error
    return sorted(found)


def detect(root: Path, files: Sequence[str]) -> Layout:
    """Say how the data under ``root`` is laid out, from the names of its files alone.

    Raises:
        DataError: if the folder is empty or no layout fits; the message lists the accepted ones.
    """
    pictures = [f for f in files if is_picture(f)]
    if any(_name(f) in METADATA for f in files):
        return "metadata"
    if any(f.endswith(".tar") for f in files):
        return "shards"
    if any(f.endswith(".parquet") for f in files):
        return "parquet"
    if not pictures:
        what = "is empty" if not files else f"holds {len(files)} files, but no pictures"
        raise DataError(f"The folder {root} {what}. {ACCEPTED}")
    present = set(files)
    if any(caption_file(f, present) for f in pictures):
        return "captions"
    splits = split_folders(pictures)
    classes = {_class_folder(f, splits) for f in pictures} - {None}
    if len(classes) > 1:
        return "classes"
    if classes:
        raise DataError(
            f"All pictures in {root} lie in one folder, {min(c for c in classes if c)!r}, and have no "
            f"captions: there is nothing to tell them apart. {ACCEPTED}"
        )
    raise DataError(f"The folder {root} holds {len(pictures)} pictures, but no captions. {ACCEPTED}")


def is_picture(file: str) -> bool:
    """Say whether a file's name is that of a picture."""
    return os.path.splitext(file)[1].lower() in SUFFIXES  # noqa: PTH122 - a hundred thousand times


def caption_file(picture: str, present: set[str]) -> str | None:
    """Return the caption file beside a picture, or None."""
    stem = os.path.splitext(picture)[0]  # noqa: PTH122 - a hundred thousand times
    return next((stem + s for s in CAPTION_SUFFIXES if stem + s in present), None)


def split_folders(files: Sequence[str]) -> dict[str, str]:
    """Return the top folders that stand for splits (``train``, ``val``...); none without ``train``."""
    tops = {f.partition("/")[0] for f in files if "/" in f}
    found = {top: ALIASES[top.lower()] for top in tops if top.lower() in ALIASES}
    return found if "train" in found.values() and len(found) == len(tops) else {}


def split_of(file: str, splits: Mapping[str, str]) -> str | None:
    """Return the split whose top folder a file lies in."""
    return splits.get(file.partition("/")[0]) if "/" in file else None


def shard_split(file: str) -> str | None:
    """Return the split of a Parquet file or a shard: of its folder, else of how its name begins."""
    parts = PurePosixPath(file).parts
    return next((s for s in map(spoken_split, reversed(parts)) if s), None)


def read_captions_layout(root: Path, files: Sequence[str]) -> Listing:
    """List pictures with a caption file beside them; those without one are left out, with a warning."""
    listing, bare, present = Listing(), [], set(files)
    pictures = [f for f in files if is_picture(f)]
    splits = split_folders(pictures)
    for picture in pictures:
        captions = caption_file(picture, present)
        if captions is None:
            bare.append(picture)
        else:
            listing.add(picture, root / captions, None, split_of(picture, splits))
    _warn_left_out(root, bare, "have no caption file")
    return listing


def read_classes_layout(root: Path, files: Sequence[str]) -> Listing:
    """List pictures in one folder per class: its name is the label, and (``_`` as a space) the text."""
    listing, bare = Listing(), []
    pictures = [f for f in files if is_picture(f)]
    splits = split_folders(pictures)
    for picture in pictures:
        label = _class_folder(picture, splits)
        if label is None:
            bare.append(picture)
        else:
            listing.add(picture, (label.replace("_", " "),), label, split_of(picture, splits))
    _warn_left_out(root, bare, "lie in no class's folder")
    return listing


def read_metadata_layout(
    root: Path, files: Sequence[str], text_column: str | None, image_column: str | None
) -> Listing:
    """List pictures as ``metadata.csv`` or ``metadata.jsonl`` files say, in any folder.

    Several rows with the same file are several captions of it.

    Raises:
        DataError: if a column is missing, a file is named that is not there, or a metadata file is damaged.
    """
    tables = [f for f in files if _name(f) in METADATA]
    splits, present = split_folders(tables), set(files)
    listing, blank, labels = Listing(), [], {}
    rows: dict[str, tuple[list[str], str | None]] = {}
    for table in tables:
        path, folder = root / table, table.rpartition("/")[0]
        columns: tuple[str, str, str | None] | None = None
        for number, row in read_rows(path):
            columns = columns or _metadata_columns(path, list(row), text_column, image_column)
            file_column, text, label = columns
            name = row.get(file_column)
            if not isinstance(name, str) or not name:
                raise DataError(f"{path}, line {number} names no file in its column {file_column!r}.")
            file = os.path.normpath(f"{folder}/{name}" if folder else name).replace(os.sep, "/")
            if file not in present:
                raise DataError(f"{path}, line {number} names the picture {name!r}, which is not in the folder.")
            captions = clean_texts(row.get(text))
            if not captions:
                blank.append(file)
                continue
            split = row.get(SPLIT_COLUMN) or split_of(table, splits)
            known = rows.setdefault(file, ([], ALIASES.get(str(split).lower(), split) if split else None))
            known[0].extend(captions)
            if label is not None:
                labels[file] = str(row.get(label))
    for file, (texts, split) in rows.items():
        listing.add(file, tuple(texts), labels.get(file), split)
    _warn_left_out(root, [f for f in blank if f not in rows], "have a blank text in the metadata")
    if not listing.files:
        raise DataError(f"{root / tables[0]} has no rows with a text: there is nothing to learn from.")
    if len(listing.labels) != len(listing.files):
        listing.labels = []
    return listing


def read_text(path: Path) -> str:
    """Read a text file as UTF-8 (a byte-order mark is allowed), or say that it is not."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"There is no file {path}.") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text (byte {error.start} is {error.object[error.start]:#04x}): save it as UTF-8."
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).") from error


def read_caption_file(path: Path) -> tuple[str, ...]:
    """Return the captions in a caption file, one a line, blank lines left out."""
    captions = tuple(line for raw in read_text(path).splitlines() if (line := raw.strip()))
    if not captions:
        raise DataError(f"The caption file {path} is empty.")
    return captions


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the line number and the columns of each row of a CSV or JSON Lines file.

    Raises:
        DataError: that names the line, if the file is no UTF-8 text or damaged.
    """
    lines = read_text(path).splitlines(keepends=True)
    if path.suffix == ".csv":
        try:
            reader = csv.DictReader(lines)
            for row in reader:
                yield reader.line_num, {str(k): v for k, v in row.items() if k is not None}
        except csv.Error as error:
            raise DataError(f"{path} is damaged ({error}).") from error
        return
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {number} is not valid JSON ({error}).") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number} should be a JSON object, found {type(row).__name__}.")
        yield number, row


def _metadata_columns(
    path: Path, columns: list[str], text_column: str | None, image_column: str | None
) -> tuple[str, str, str | None]:
    file_column = image_column or "file_name"
    if file_column not in columns:
        raise DataError(
            f"{path} has no column {file_column!r}, which names the picture's file; its columns are "
            f"{', '.join(columns)}.{did_you_mean(file_column, columns)} State another one as image_column."
        )
    label = next((c for c in LABEL_COLUMNS if c in columns), None)
    return file_column, find_text_column(columns, text_column, str(path)), label


def _class_folder(picture: str, splits: Mapping[str, str]) -> str | None:
    folders = picture.split("/")[:-1]
    if folders and folders[0] in splits:
        folders = folders[1:]
    return folders[-1] if folders else None


def _name(file: str) -> str:
    return file.rpartition("/")[2]


def _warn_left_out(root: Path, files: list[str], why: str) -> None:
    if files:
        logger.warning("%s: %d pictures %s and are left out (the first: %s).", root, len(files), why, files[0])
