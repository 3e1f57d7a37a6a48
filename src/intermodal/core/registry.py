"""The methods of the library, found by import path.

A method is one file in ``intermodal/methods/<field>/`` that holds a :class:`MethodCard` under the name ``CARD``,
written with literals only. A part that several methods go on from, and that is trained, saved and loaded like one
without being a method of multimodal learning (a language decoder), has its card under the name ``PART``: it can be used
by its id but is not listed. Listing the methods reads the cards without importing the files (and so without importing
torch); using one imports its file. Another package adds methods with an entry point in the group ``intermodal.methods``
whose value is the import path of such a file.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any

from intermodal.core.config import suggestion, trust_package
from intermodal.core.errors import ConfigError

GROUP = "intermodal.methods"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MethodCard:
    """What the listing says about a method.

    Attributes:
        id: short name, unique, lower case with hyphens.
        title: one line for a person.
        paper: authors and year, as cited.
        cls: the name of the method's class in its file.
        capabilities: names in :data:`intermodal.core.capabilities.CAPABILITIES`.
        recipes: names in ``intermodal.recipes``; the first is the one that ``intermodal train ID`` runs.
        reference: what it is compared with number by number.
        module: import path of the file (filled in when the card is read).
    """

    id: str
    title: str
    paper: str
    cls: str
    capabilities: tuple[str, ...]
    recipes: tuple[str, ...]
    reference: str
    module: str = ""

    @property
    def field(self) -> str:
        """The field of learning, which is the folder the file is in."""
        return self.module.split(".")[-2]


@functools.cache
def cards() -> dict[str, MethodCard]:
    """Return every method's card by id, in the order of fields and files."""
    return _named("CARD")


@functools.cache
def parts() -> dict[str, MethodCard]:
    """Return the cards of what several methods go on from, by id."""
    return _named("PART")


def _named(name: str) -> dict[str, MethodCard]:
    found: dict[str, MethodCard] = {}
    for module, path in _method_files():
        card = _read_card(module, path, name)
        if card is None:
            continue
        if card.id in found:
            raise ConfigError(f"Two files hold the method {card.id!r}: {found[card.id].module} and {module}.")
        found[card.id] = card
    return found


def card(method_id: str) -> MethodCard:
    """Return the card of a method or part.

    Raises:
        ConfigError: if there is no such method; the nearest id is suggested.
    """
    known = {**parts(), **cards()}
    if method_id not in known:
        raise ConfigError(f"There is no method {method_id!r}{suggestion(method_id, known)}")
    return known[method_id]


def load_class(method_id: str) -> type[Any]:
    """Import a method's file and return its class."""
    found = card(method_id)
    return getattr(importlib.import_module(found.module), found.cls)


def _method_files() -> list[tuple[str, Path]]:
    root = Path(__file__).parent.parent / "methods"
    files = [
        (f"intermodal.methods.{path.parent.name}.{path.stem}", path)
        for path in sorted(root.glob("*/*.py"))
        if path.stem != "__init__"
    ]
    for point in importlib.metadata.entry_points(group=GROUP):
        spec = importlib.util.find_spec(point.value)
        if spec is None or spec.origin is None:
            raise ConfigError(f"The plugin {point.name!r} names the module {point.value!r}, which is not there.")
        trust_package(point.value.partition(".")[0])
        files.append((point.value, Path(spec.origin)))
    return files


def _read_card(module: str, path: Path, name: str) -> MethodCard | None:
    """Read ``CARD = MethodCard(...)``, or another name, from a file's syntax tree; None if the file holds no such card."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            if not isinstance(node.value, ast.Call):
                raise ConfigError(f"{module}: {name} must be written as MethodCard(...).")
            try:
                values = {str(k.arg): ast.literal_eval(k.value) for k in node.value.keywords}
            except ValueError as error:
                raise ConfigError(f"{module}: {name} must hold literals only ({error}).") from error
            return MethodCard(**values, module=module)
    return None
