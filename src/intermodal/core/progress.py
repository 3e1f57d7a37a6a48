"""How long work says how far it is, without knowing who listens."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, float], None]
"""Called with what is being done, and the share of it that is done, from 0 to 1."""


def silent(what: str, share: float) -> None:
    """Listen to nothing."""
    del what, share
