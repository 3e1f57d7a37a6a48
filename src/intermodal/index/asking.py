"""Asking about pictures as command line, page and API share it: who can answer."""

from __future__ import annotations

from intermodal.core.capabilities import Answers
from intermodal.index.embedding import offering


def answers(model: object, need: str) -> Answers:
    """Return ``model`` as one that answers questions about pictures, or raise a ConfigError that says what lacks."""
    return offering(model, "answer", need)
