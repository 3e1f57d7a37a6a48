"""Declared fields: what a source yields, what a method needs, and the check that they meet before the first step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from intermodal.core.errors import DataError


@dataclass(frozen=True)
class Field:
    """One field of a sample or of a batch.

    Attributes:
        shape: sizes; ``None`` for one that varies, ``()`` for a scalar or an object such as a string.
        dtype: ``"uint8"``, ``"float32"``, ``"int64"``, ``"image"`` (PIL), ``"str"``, ``"list[str]"``.
        about: what it is, for error messages and ``intermodal info``.
    """

    shape: tuple[int | None, ...]
    dtype: str
    about: str = ""

    def accepts(self, other: Field) -> bool:
        """Say whether a field ``other`` can be used where this one is needed."""
        if self.dtype != other.dtype or len(self.shape) != len(other.shape):
            return False
        return all(a is None or b is None or a == b for a, b in zip(self.shape, other.shape, strict=True))

    def __str__(self) -> str:
        sizes = "x".join("?" if s is None else str(s) for s in self.shape)
        return f"{self.dtype}[{sizes}]" if self.shape else self.dtype


SEED = Field((), "int64", "a random seed for this sample of this epoch, which the loader draws")
"""What a method asks for, under the name ``seed``, when its loss is random: the loss is then a function of its batch."""


def check_fields(needed: Mapping[str, Field], offered: Mapping[str, Field], who: str, source: str) -> None:
    """Raise a DataError that lists every field that ``who`` needs and ``source`` lacks or has in another form."""
    problems = []
    for name, field in needed.items():
        if field == SEED:  # comes from the loader, not from the source
            continue
        if name not in offered:
            problems.append(f"{name} ({field}{': ' + field.about if field.about else ''}) is missing")
        elif not field.accepts(offered[name]):
            problems.append(f"{name} should be {field}, found {offered[name]}")
    if problems:
        have = ", ".join(f"{k} ({v})" for k, v in offered.items()) or "nothing"
        raise DataError(f"{who} cannot use {source}: {'; '.join(problems)}. It offers: {have}.")
