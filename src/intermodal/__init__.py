"""intermodal: every method of multimodal learning, one way to train, load, use, judge and serve them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from intermodal.core.version import __version__

__all__ = ["__version__", "fit", "load"]

if TYPE_CHECKING:
    from intermodal.hub.load import load
    from intermodal.train.run import fit

_LAZY = {"load": "intermodal.hub.load", "fit": "intermodal.train.run"}


def __getattr__(name: str) -> Any:
    """Import the public functions when they are first used, so that ``import intermodal`` stays instant."""
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'intermodal' has no attribute {name!r}")
