"""Uploaded pictures: what they are called, and how they are read."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import UploadFile
from PIL import Image

from intermodal.data.images import open_image


def names_of(files: Sequence[UploadFile]) -> list[str]:
    """Return the names of uploaded files, empty for one that has none."""
    return [file.filename or "" for file in files]


def opened(files: Sequence[UploadFile]) -> list[Image.Image]:
    """Read uploaded pictures, in their order.

    Raises:
        DataError: for the first that is none, by its name.
    """
    named = ((file, f"the picture {file.filename!r}" if file.filename else "the picture") for file in files)
    return [open_image(file.file.read(), name) for file, name in named]
