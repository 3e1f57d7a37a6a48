"""Captioning as command line, page and API share it: who can, and how."""

from __future__ import annotations

from typing import Any

from intermodal.core.capabilities import Captions
from intermodal.core.captioning import Captioning
from intermodal.index.embedding import offering


def captions(model: object, need: str) -> Captions:
    """Return ``model`` as one that writes captions, or raise a ConfigError that says what lacks."""
    return offering(model, "caption", need)


def caption_settings(given: dict[str, Any]) -> Captioning:
    """Return how to write; ``top_k`` and ``top_p`` without a temperature draw at temperature 1.

    Args:
        given: fields of a :class:`~intermodal.core.captioning.Captioning`; None stands for its default.

    Raises:
        ConfigError: if a number is out of range, or a beam is asked to draw.
    """
    given = {name: value for name, value in given.items() if value is not None}
    if "temperature" not in given and ("top_k" in given or "top_p" in given):
        given["temperature"] = 1.0
    return Captioning(**given)
