"""Reading as command line, page and API share it: who can, and how."""

from __future__ import annotations

from typing import Any

from intermodal.core.capabilities import Reads
from intermodal.core.captioning import Captioning
from intermodal.index.embedding import offering


def reads(model: object, need: str) -> Reads:
    """Return ``model`` as one that reads text in pictures, or raise a ConfigError that says what lacks."""
    return offering(model, "read", need)


def reading_settings(model: Reads, given: dict[str, Any]) -> Captioning:
    """Return how to read: the model's own settings, but for what is given.

    Args:
        model: which reads.
        given: fields of a :class:`~intermodal.core.captioning.Captioning`; None leaves the model's own.

    Raises:
        ConfigError: if a number is out of range.
    """
    return model.reading.replace(**{name: value for name, value in given.items() if value is not None})
