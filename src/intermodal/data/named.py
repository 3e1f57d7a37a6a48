"""The data that a person names in one word: a folder or file, a hub id, or a known set."""

from __future__ import annotations

from pathlib import Path

from intermodal.core.errors import DataError
from intermodal.data import catalog
from intermodal.data.emoji import EmojiSource
from intermodal.data.folder import HUB, FolderSource
from intermodal.data.source import SourceConfig

EMOJI = "emoji"


def source_named(data: str) -> SourceConfig:
    """Return the source of a folder or file, of ``hub:owner/name``, or of a known set.

    Raises:
        DataError: if it is none of these.
    """
    if data == EMOJI:
        return EmojiSource(unit="picture")
    if data.startswith(HUB) or Path(data).exists():
        return FolderSource(path=Path(data))
    if data in catalog.CATALOG:
        return FolderSource(path=catalog.find(data))
    known = ", ".join([EMOJI, *catalog.CATALOG])
    raise DataError(
        f"There is no file or folder {data}, and no known set of that name ({known}); a set on the hub is "
        "written hub:owner/name."
    )
