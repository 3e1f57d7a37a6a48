"""What a tab is, and which tabs a model gets."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass

from intermodal.core.progress import Progress
from intermodal.index.session import Session


@dataclass(frozen=True)
class Setting:
    """What a tab is built for.

    Attributes:
        session: the model.
        folders: whether the page may read folders of this machine by name.
        progress: told what takes time while the page is built.
    """

    session: Session
    folders: bool
    progress: Progress


@dataclass(frozen=True)
class Tab:
    """One tab.

    Attributes:
        title: what it says on it.
        capability: what a model must be able to do to get it.
        order: tabs stand in this order.
        build: adds the components; called within a gradio context.
        unless: a capability whose tab does all that this one does: a model that has it does not get this one.
    """

    title: str
    capability: str
    order: int
    build: Callable[[Setting], None]
    unless: str | None = None


def tabs_for(capabilities: tuple[str, ...]) -> list[Tab]:
    """Return the tabs of a model with these capabilities, in order."""
    from intermodal.studio import tabs

    names = [f"{tabs.__name__}.{info.name}" for info in pkgutil.iter_modules(tabs.__path__)]
    found: list[Tab] = [importlib.import_module(name).TAB for name in names]
    able = [tab for tab in found if tab.capability in capabilities and tab.unless not in capabilities]
    return sorted(able, key=lambda tab: tab.order)
