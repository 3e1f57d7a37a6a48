"""The data that a person names in one word: a folder or file of pictures or text, a hub id, or a known set."""

from __future__ import annotations

from pathlib import Path

from intermodal.core.errors import DataError
from intermodal.data import catalog
from intermodal.data.emoji import EmojiSource
from intermodal.data.folder import HUB, FolderSource
from intermodal.data.images import SUFFIXES
from intermodal.data.source import SourceConfig
from intermodal.data.text import TextSource

EMOJI = "emoji"
TEXTS = ("text-15m",)


def source_named(data: str) -> SourceConfig:
    """Return the source of a folder or file, of ``hub:owner/name``, or of a known set.

    A ``.txt`` file, a folder of nothing but text files, and a Parquet file without pictures are text; all else is pictures.

    Raises:
        DataError: if it is none of these.
    """
    if data == EMOJI:
        return EmojiSource(unit="picture")
    if data.startswith(HUB):
        return FolderSource(path=Path(data))
    if Path(data).exists():
        return TextSource(path=Path(data)) if is_text(Path(data)) else FolderSource(path=Path(data))
    if data in TEXTS:
        return TextSource()
    if data in catalog.CATALOG:
        return FolderSource(path=catalog.find(data))
    known = ", ".join([EMOJI, *catalog.CATALOG])
    raise DataError(
        f"There is no file or folder {data}, and no known set of that name ({known}); a set on the hub is "
        "written hub:owner/name."
    )


def is_text(path: Path) -> bool:
    """Say whether a file or folder holds text rather than pictures; a folder of captioned pictures holds pictures."""
    if path.is_dir():
        suffixes = {f.suffix.lower() for f in path.rglob("*") if f.is_file()}
        return ".txt" in suffixes and not suffixes & {*SUFFIXES, ".tar", ".parquet"}
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            names = pq.read_schema(path).names
        except (pa.ArrowException, OSError):
            return False  # the reader of pictures says what is wrong with it
        return "text" in names and "image" not in names
    return path.suffix == ".txt"
