"""The emoji set that the library ships: about 12,000 pictures of about 1,945 concepts in nine artists' styles.

Two honest splits are recorded in its file. By concept: nothing drawn of a held-out concept, or of a variant of it, is
trained on. By style: two styles (noto, noto-v1) are never trained on. ``train`` holds the training concepts in the
training styles; ``validation`` and ``test`` the held-out concepts in the training styles; ``style`` the training concepts in
the held-out styles. The file is made by ``tools/build_emoji.py``; licences stand beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from intermodal.core.errors import DataError
from intermodal.core.fields import Field
from intermodal.data.images import open_image
from intermodal.data.source import Sample, Source, SourceConfig

SPLITS = ("train", "validation", "test", "style", "unseen")


@cache
def emoji_table() -> pa.Table:
    """Return the whole set as an Arrow table (about 20 MB, read once)."""
    file = resources.files("intermodal.data") / "assets" / "emoji.parquet"
    with resources.as_file(file) as path:
        if not path.exists():
            raise DataError(f"The emoji set {path} is missing: reinstall intermodal, or run tools/build_emoji.py.")
        return pq.read_table(path)


@dataclass(frozen=True, kw_only=True)
class EmojiSource(SourceConfig):
    """The shipped emoji set.

    Attributes:
        unit: ``picture``: a sample is one picture. ``concept``: a sample is one concept, in a style that is drawn anew
            each epoch, so that no batch holds two pictures with the same text.
        single: share of the training texts that are one word or one keyword alone, so that each word has to mean
            something by itself and not only beside a name that no other picture has.
        part: share of the training texts that are a few of name and keywords, shuffled. The others, and all texts of
            evaluations, are ``name, keyword, keyword...``.
    """

    unit: Literal["picture", "concept"] = "picture"
    single: float = 0.3
    part: float = 0.4

    def open(self, split: str) -> EmojiPictures:
        """Open a split.

        ``train``, ``validation``, ``test`` (held-out concepts), ``style`` (held-out styles), or ``unseen``: all pictures of
        a held-out concept or in a held-out style, which is what a search shows.
        """
        if split not in SPLITS:
            raise DataError(f"The emoji set has the splits {', '.join(SPLITS)}; found {split!r}.")
        return EmojiPictures(self, split)

    def training_texts(self) -> list[str]:
        """Return every training picture's name and keywords."""
        source = self.open("train")
        return [full_text(row["name"], row["keywords"]) for row in source.rows]


class EmojiPictures(Source):
    """One split of the set; ``rows`` holds everything but the pixels."""

    fields: Mapping[str, Field] = {
        "image": Field((), "image", "a drawing on white, 64 x 64"),
        "text": Field((), "str", "its name, and keywords"),
        "label": Field((), "str", "its sub-group"),
    }

    def __init__(self, config: EmojiSource, split: str) -> None:
        table = emoji_table()
        concept, style = table["concept_split"].to_pylist(), table["style_split"].to_pylist()
        keep = [i for i, (c, s) in enumerate(zip(concept, style, strict=True)) if _belongs(split, c, s)]
        taken = table.take(keep)
        self.name = f"emoji ({split})"
        self.config = config
        self.rows: list[dict] = taken.drop_columns(["image"]).to_pylist()
        self._images = taken["image"].combine_chunks().field("bytes")
        members: dict[str, list[int]] = {}
        for i, row in enumerate(self.rows):
            members.setdefault(row["concept"], []).append(i)
        self.concepts: dict[str, list[int]] = members
        self._units = list(members.values()) if config.unit == "concept" else [[i] for i in range(len(self.rows))]

    def __len__(self) -> int:
        return len(self._units)

    def image(self, row: int) -> Image.Image:
        """Return the picture of one of :attr:`rows`."""
        return open_image(self._images[row].as_py(), self._row_name(row))

    def text(self, row: int, rng: np.random.Generator | None = None) -> str:
        """Return a text of one of :attr:`rows`: the full one, or with ``rng`` sometimes a part of it."""
        name, keywords = self.rows[row]["name"], self.rows[row]["keywords"]
        if rng is None:
            return full_text(name, keywords)
        kind, items = rng.random(), [name, *(k for k in keywords if k != name)]
        if kind < self.config.single:
            if rng.random() < 0.5:
                items = " ".join(items).split()
            return items[int(rng.integers(len(items)))]
        if kind < self.config.single + self.config.part:
            return ", ".join(rng.permutation(items)[: 1 + int(rng.geometric(0.5))].tolist())
        return full_text(name, keywords)

    def sample(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """Return a picture, a text of it and its sub-group."""
        rows = self._units[index]
        row = rows[0] if rng is None else rows[int(rng.integers(len(rows)))]
        return {"image": self.image(row), "text": self.text(row, rng), "label": self.rows[row]["subgroup"]}

    def _label_of(self, index: int) -> str:
        return str(self.rows[self._units[index][0]]["subgroup"])

    def sample_name(self, index: int) -> str:
        """Return the emoji's name and style."""
        return self._row_name(self._units[index][0])

    def _row_name(self, row: int) -> str:
        return f"emoji {self.rows[row]['name']!r} in style {self.rows[row]['style']}"


def _belongs(split: str, concept_split: str, style_split: str) -> bool:
    if split == "unseen":
        return concept_split == "test" or style_split == "test"
    return (concept_split, style_split) == (("train", "test") if split == "style" else (split, "train"))


def full_text(name: str, keywords: list[str]) -> str:
    """Return ``name, keyword, keyword``: keywords that only repeat the name are left out."""
    return ", ".join([name, *(k for k in keywords if k != name)])
