"""The options of a command, read from its dataclass: for suggestions, and for shell completion."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import tyro

from intermodal.core.config import Config


@dataclasses.dataclass(frozen=True)
class Option:
    """One option or argument of a command.

    Attributes:
        name: the field's name.
        flags: how it is written; empty for an argument without a flag.
        choices: the values it can take, where they are few.
        takes_path: its value is a file or folder.
        takes_value: it has a value (a switch has none).
        many: it takes any number of values.
        help: a line about it.
    """

    name: str
    flags: tuple[str, ...]
    choices: tuple[str, ...]
    takes_path: bool
    takes_value: bool
    many: bool
    help: str


def options_of(arguments: type) -> list[Option]:
    """Return the options of a dataclass of arguments, as tyro reads them."""
    hints = typing.get_type_hints(arguments, include_extras=True)
    about = _attribute_docs(arguments)
    return [_option(name, hint, about.get(name, "")) for name, hint in hints.items()]


def override_flags(config: Config, prefix: str = "") -> list[str]:
    """Return the flags under which tyro takes the fields of a configuration: ``--train.batch-size``."""
    flags: list[str] = []
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), prefix + field.name
        if isinstance(value, Config):
            flags += override_flags(value, f"{name}.")
        else:
            flags.append("--" + name.replace("_", "-"))
    return flags


def _option(name: str, hint: Any, about: str) -> Option:
    positional, spelled, aliases = False, name.replace("_", "-"), ()
    while get_origin(hint) is Annotated:
        hint, *marks = get_args(hint)
        for mark in marks:
            positional = positional or mark is tyro.conf.Positional
            spelled = getattr(mark, "name", None) or spelled
            aliases = getattr(mark, "aliases", None) or aliases
    kinds = [kind for kind in _kinds(hint) if kind is not type(None)]
    many = any(get_origin(kind) is tuple for kind in kinds)
    inner = [get_args(kind)[0] if get_origin(kind) is tuple else kind for kind in kinds]
    flags = () if positional else (*aliases, f"--{spelled}")
    if bool in inner:
        flags = (*flags, f"--no-{spelled}")
    choices = tuple(str(value) for kind in inner if get_origin(kind) is Literal for value in get_args(kind))
    return Option(name, flags, choices, Path in inner, bool not in inner, many, about)


def _kinds(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _attribute_docs(cls: type) -> dict[str, str]:
    """Return the first line of each attribute in the docstrings of a class and its bases."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        _, _, section = (inspect.getdoc(base) or "").partition("Attributes:\n")
        found |= dict(re.findall(r"^    (\w+): (.+)$", section, re.MULTILINE))
    return found
