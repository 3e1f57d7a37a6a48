"""Typed, frozen configurations that survive a round trip through JSON.

A configuration is a subclass of :class:`Config`: ``@dataclass(frozen=True, kw_only=True)``, its fields plain values,
tuples, paths, other configurations, or unions of those. A nested configuration is written with the import path of its
class under ``"type"``, so a field may hold any of several (the image tower of CLIP is a ViT or a ResNet).
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import json
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self, Union, get_args, get_origin

from intermodal.core.errors import ConfigError

TYPE_KEY = "type"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Base of all configurations: immutable, keyword-only, comparable, JSON in and out."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data; ``from_dict`` of it equals ``self``."""
        fields = {f.name: _to_plain(getattr(self, f.name)) for f in dataclasses.fields(self)}
        return {TYPE_KEY: import_path(type(self)), **fields}

    def to_json(self) -> str:
        """Return :meth:`to_dict` as indented JSON text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Build a configuration from :meth:`to_dict`'s data, checking every key and type.

        Raises:
            ConfigError: for an unknown key (the nearest known one is suggested), a missing key or a wrong type.
        """
        target = _class_of(data, cls)
        if not issubclass(target, cls):
            raise ConfigError(f"Expected a {cls.__name__}, found a {target.__name__}.")
        hints = typing.get_type_hints(target)
        names = [f.name for f in dataclasses.fields(target)]
        values = {}
        for key, value in data.items():
            if key == TYPE_KEY:
                continue
            if key not in names:
                raise ConfigError(f"{target.__name__} has no field {key!r}{suggestion(key, names)}")
            values[key] = _from_plain(value, hints[key], f"{target.__name__}.{key}")
        try:
            return target(**values)
        except TypeError as error:
            raise ConfigError(f"{target.__name__}: {error}.") from error

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Build a configuration from JSON text; see :meth:`from_dict`."""
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigError(f"Not valid JSON: {error}.") from error
        if not isinstance(data, dict):
            raise ConfigError(f"Expected a JSON object, found {type(data).__name__}.")
        return cls.from_dict(data)

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed; a dotted path is written with double underscores.

        ``recipe.replace(optim__lr=1e-3)`` changes ``recipe.optim.lr``.

        Raises:
            ConfigError: if a field does not exist; the nearest name is suggested.
        """
        nested: dict[str, dict[str, Any]] = {}
        own: dict[str, Any] = {}
        names = [f.name for f in dataclasses.fields(self)]
        for key, value in changes.items():
            head, _, rest = key.partition("__")
            if head not in names:
                raise ConfigError(f"{type(self).__name__} has no field {head!r}{suggestion(head, names)}")
            if rest:
                nested.setdefault(head, {})[rest] = value
            else:
                own[head] = value
        for head, inner in nested.items():
            current = own.get(head, getattr(self, head))
            if not isinstance(current, Config):
                raise ConfigError(f"{type(self).__name__}.{head} is {current!r}, which has no fields to change.")
            own[head] = current.replace(**inner)
        return dataclasses.replace(self, **own)


def import_path(cls: type) -> str:
    """Return ``module:QualifiedName``, the name under which JSON refers to a class."""
    return f"{cls.__module__}:{cls.__qualname__}"


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return the end of an error's sentence: ``; did you mean 'x'?``, or a list of what is known, or a full stop."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known are: {', '.join(known)}." if known else "."


def _class_of(data: Mapping[str, Any], default: type) -> type:
    path = data.get(TYPE_KEY)
    if path is None:
        return default
    module, _, name = str(path).partition(":")
    # A configuration file must not be able to import, and so run, an arbitrary module.
    if module.partition(".")[0] not in _trusted_packages():
        raise ConfigError(f"The configuration names {path!r}, a class outside the library and its plugins.")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"The configuration names {path!r}, which does not exist here: {error}.") from error
    if not (isinstance(found, type) and issubclass(found, Config)):
        raise ConfigError(f"The configuration names {path!r}, which is no configuration class.")
    return found


_TRUSTED = {"intermodal"}


def trust_package(name: str) -> None:
    """Let configurations of the package ``name`` be read from JSON (for methods kept in another package)."""
    _TRUSTED.add(name)


def _trusted_packages() -> set[str]:
    return _TRUSTED


def _to_plain(value: Any) -> Any:
    if isinstance(value, Config):
        return value.to_dict()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (tuple, list)):
        return [_to_plain(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): _to_plain(v) for k, v in value.items()}
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise ConfigError(f"A configuration cannot hold a {type(value).__name__}: {value!r}.")


def _from_plain(value: Any, hint: Any, where: str) -> Any:
    """Turn JSON data into what the annotation ``hint`` says, or raise a ConfigError that names ``where``."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is typing.Annotated:
        return _from_plain(value, args[0], where)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _from_union(value, args, where)
    if origin is Literal:
        if value not in args:
            raise ConfigError(f"{where} must be one of {list(args)}, found {value!r}.")
        return value
    if origin is tuple and isinstance(value, list):
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(_from_plain(v, args[0], where) for v in value)
        if len(args) == len(value):
            return tuple(_from_plain(v, a, where) for v, a in zip(value, args, strict=True))
        raise ConfigError(f"{where} needs {len(args)} values, found {len(value)}.")
    if origin is dict and isinstance(value, dict):
        return {k: _from_plain(v, args[1], where) for k, v in value.items()}
    if isinstance(hint, type):
        return _from_plain_class(value, hint, where)
    raise ConfigError(f"{where} should be {_spell(hint)}, found {value!r}.")


def _from_plain_class(value: Any, hint: type, where: str) -> Any:
    if issubclass(hint, Config) and isinstance(value, dict):
        return hint.from_dict(value)
    if issubclass(hint, Path) and isinstance(value, str):
        return Path(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is type(None) and value is None:
        return None
    if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise ConfigError(f"{where} should be {_spell(hint)}, found {value!r}.")


def _from_union(value: Any, args: tuple[Any, ...], where: str) -> Any:
    if isinstance(value, dict) and TYPE_KEY in value:
        return _from_plain(value, Config, where)
    for arg in args:
        try:
            return _from_plain(value, arg, where)
        except ConfigError:
            continue
    raise ConfigError(f"{where} should be {' or '.join(map(_spell, args))}, found {value!r}.")


def _spell(hint: Any) -> str:
    return "nothing" if hint is type(None) else getattr(hint, "__name__", str(hint))
