"""Pictures from bytes, safely: bombs refused, every mode turned to RGB, errors that name the file."""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from intermodal.core.errors import DataError

MAX_PIXELS = 64_000_000
"""Pictures with more pixels are refused before they are decoded (64 million: a little over 8000 x 8000)."""

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF")
"""Pillow's decoders that are tried; others stay off (EPS would run Ghostscript on a stranger's file)."""

# What Pillow's decoders raise on damaged files; each of them means the same to a person. ``Warning``: where
# the caller has made warnings errors.
_DAMAGED = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, AttributeError, ArithmeticError,
    AssertionError, RuntimeError, MemoryError, struct.error, zlib.error, Warning,
)  # fmt: skip


def open_image(source: bytes | str | Path | Image.Image, name: str = "", max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode a picture fully and return it as RGB, upright, transparency laid on white.

    Args:
        source: encoded bytes, a path, or a picture that is already open.
        name: how errors call it; the path by default.
        max_pixels: larger pictures are refused by their header, before memory is taken.

    Raises:
        DataError: if the picture is missing, cut short, of an unknown format, empty, or too large.
    """
    name = name or (str(source) if isinstance(source, (str, Path)) else "the picture")
    try:
        if isinstance(source, Image.Image):
            return _decode(source, name, max_pixels)
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
            return _decode(image, name, max_pixels)
    except FileNotFoundError as error:
        raise DataError(f"{name} does not exist.") from error
    except IsADirectoryError as error:
        raise DataError(f"{name} is a folder, not a picture.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(name, "too many", max_pixels) from error
    except _DAMAGED as error:
        reason = str(error).strip().rstrip(".") or type(error).__name__
        raise DataError(f"{name} cannot be read as a picture ({reason}).") from error


def _decode(image: Image.Image, name: str, max_pixels: int) -> Image.Image:
    width, height = image.size
    if width * height > max_pixels:
        raise _too_large(name, f"{width} x {height}", max_pixels)
    image.load()
    return to_rgb(ImageOps.exif_transpose(image))


def _too_large(name: str, pixels: str, most: int) -> DataError:
    return DataError(f"{name} claims {pixels} pixels, more than the {most:,} allowed: it is refused.")


def to_rgb(image: Image.Image) -> Image.Image:
    """Return the picture in mode RGB: transparency on white, 16-bit grey scaled to 8, others converted.

    Raises:
        ValueError: for floating-point pictures, whose range is unknown.
    """
    if image.mode == "RGB":
        return image
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range")
    if image.mode.startswith("I"):
        return image.convert("I").point(lambda value: value / 256).convert("L").convert("RGB")
    if image.mode == "La":
        image = image.convert("LA")
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        canvas = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(canvas, rgba).convert("RGB")
    return image.convert("RGB")


def contact_sheet(images: Sequence[Image.Image], gap: int = 2, columns: int | None = None) -> Image.Image:
    """Return pictures of one size side by side on white, in rows of about as many as there are rows.

    Args:
        images: at least one.
        gap: white pixels between them.
        columns: how many there are in a row, if it is not to follow from their number.

    Raises:
        DataError: if there is no picture.
    """
    if not images:
        raise DataError("A sheet needs at least one picture.")
    columns = columns or math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    width, height = images[0].width + gap, images[0].height + gap
    sheet = Image.new("RGB", (columns * width - gap, rows * height - gap), (255, 255, 255))
    for number, image in enumerate(images):
        sheet.paste(image, (number % columns * width, number // columns * height))
    return sheet


def from_struct(value: Any, name: str, root: Path | None = None) -> Image.Image:
    """Open a picture as ``datasets`` stores it: a struct of ``bytes`` and ``path``, or one of them bare."""
    if isinstance(value, dict):
        if value.get("bytes"):
            return open_image(value["bytes"], name)
        value = value.get("path")
    if isinstance(value, str):
        path = Path(value)
        return open_image(path if path.is_absolute() or root is None else root / path, name)
    if isinstance(value, (bytes, Image.Image)):
        return open_image(value, name)
    raise DataError(f"{name} holds no picture (found {type(value).__name__}).")
