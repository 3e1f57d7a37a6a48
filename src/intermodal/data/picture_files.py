"""Pictures as PNG files that say how they came about: the prompt, the seed, every setting, the model."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from intermodal.core.drawing import Drawing
from intermodal.core.errors import DataError
from intermodal.core.version import __version__
from intermodal.data.images import open_image

Facts = Mapping[str, str]
"""What is written into a file: a keyword of PNG's text chunks and a text for each fact."""
SOFTWARE = "Software"
_MOST_KEYWORD = 79


@dataclass(frozen=True, kw_only=True)
class Origin:
    """How pictures came about.

    Attributes:
        model: what the model was opened by.
        method: its method's id.
        prompt: what was asked for; None for nothing.
        drawing: the settings, for models that draw in steps.
    """

    model: str
    method: str
    prompt: str | None = None
    drawing: Drawing | None = None

    def facts(self, seeds: Sequence[int], more: Facts | None = None) -> dict[str, str]:
        """Return the facts about a picture or a sheet: with its seeds, and ``more``.

        ``drawing`` is the JSON that :meth:`Drawing.from_json <intermodal.core.config.Config.from_json>` reads back.
        """
        found = {SOFTWARE: f"intermodal {__version__}", "model": self.model, "method": self.method}
        if self.prompt is not None:
            found["prompt"] = self.prompt
        found["seed"] = ", ".join(map(str, seeds))
        if self.drawing is not None:
            found["drawing"] = json.dumps(self.drawing.to_dict(), ensure_ascii=False)
        return {**found, **(more or {})}


def save_png(picture: Image.Image, file: str | Path | io.BytesIO, facts: Facts) -> None:
    """Write a picture with facts in text chunks (``tEXt``, or ``iTXt`` where a text is not in Latin letters).

    Raises:
        DataError: if a text cannot be written (lone surrogates: bytes that were no text).
    """
    info = PngInfo()
    for key, text in facts.items():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"The {key} holds bytes that are no text: {text!r}.") from error
        info.add_text(key[:_MOST_KEYWORD], text.replace("\0", ""))
    picture.save(file, "PNG", pnginfo=info)


def png_bytes(picture: Image.Image, facts: Facts) -> bytes:
    """Return what :func:`save_png` writes."""
    buffer = io.BytesIO()
    save_png(picture, buffer, facts)
    return buffer.getvalue()


def read_facts(path: str | Path) -> dict[str, Any]:
    """Return what a picture's file says of it: its size, and the texts in it; JSON among them is read.

    Raises:
        DataError: if the picture cannot be read.
    """
    picture = open_image(path)
    found: dict[str, Any] = {"size": f"{picture.width} x {picture.height} pixels"}
    with Image.open(path) as image:
        image.load()
        texts = {str(key): str(text) for key, text in getattr(image, "text", {}).items()}
    for key, text in texts.items():
        found[key] = _json_object(text) if text.startswith("{") else text
    return found


def _json_object(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
