"""Reading as command line, page and API share it: who can, and how."""

from __future__ import annotations

from intermodal.core.capabilities import Reads
from intermodal.index.embedding import offering


def reads(model: object, need: str) -> Reads:
    """Return ``model`` as one that reads text in pictures, or raise a ConfigError that says what lacks."""
    return offering(model, "read", need)
