"""The emoji set as an evaluation reads it: pictures by the side of each split, their concepts and texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from intermodal.data.emoji import emoji_table, full_text
from intermodal.data.images import open_image


@dataclass(frozen=True)
class EmojiPart:
    """Some pictures of the set.

    Attributes:
        rows: everything but the pixels.
        data: the encoded pictures.
    """

    rows: list[dict[str, Any]]
    data: pa.Array

    @staticmethod
    def of(concept_split: Sequence[str], style_split: str, stride: int = 1) -> EmojiPart:
        """Return the pictures of these concepts in these styles; with ``stride`` every so many of them."""
        table = emoji_table()
        sides = zip(table["concept_split"].to_pylist(), table["style_split"].to_pylist(), strict=True)
        keep = [i for i, (concept, style) in enumerate(sides) if concept in concept_split and style == style_split]
        taken = table.take(keep[::stride])
        return EmojiPart(taken.drop_columns(["image"]).to_pylist(), taken["image"].combine_chunks().field("bytes"))

    def __len__(self) -> int:
        return len(self.rows)

    def picture(self, index: int) -> Image.Image:
        """Return one picture."""
        row = self.rows[index]
        return open_image(self.data[index].as_py(), f"emoji {row['name']!r} in style {row['style']}")

    def among(self, indices: np.ndarray) -> Callable[[int], Image.Image]:
        """Return a reader of some of the pictures, by their place in ``indices``."""
        return lambda place: self.picture(int(indices[place]))

    def pictures(self) -> Iterator[Image.Image]:
        """Return all pictures, one after the other."""
        return (self.picture(i) for i in range(len(self)))

    def column(self, name: str) -> np.ndarray:
        """Return one field of all rows."""
        return np.array([row[name] for row in self.rows])

    def concepts(self) -> list[dict[str, Any]]:
        """Return one row for each concept that occurs, in alphabetic order."""
        found = {row["concept"]: row for row in self.rows}
        return [found[concept] for concept in sorted(found)]


def all_concepts() -> list[dict[str, Any]]:
    """Return name, keywords, group, sub-group and split of every concept of the set, in alphabetic order."""
    names = ["concept", "name", "keywords", "group", "subgroup", "family", "concept_split"]
    found = {row["concept"]: row for row in emoji_table().select(names).to_pylist()}
    return [found[concept] for concept in sorted(found)]


def text_of(row: dict[str, Any]) -> str:
    """Return the full text: name and keywords."""
    return full_text(row["name"], row["keywords"])


def prompts_of(row: dict[str, Any]) -> list[str]:
    """Return the prompts of a concept: its name, its name with all keywords, and the keywords alone."""
    return [row["name"], text_of(row), ", ".join(row["keywords"]) or row["name"]]


def group_prompt(subgroup: str) -> str:
    """Return a sub-group's label as words: ``face-smiling`` is "face smiling"."""
    return subgroup.replace("-", " ")
