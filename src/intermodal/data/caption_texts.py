"""Captions without their pictures: what a decoder is trained on that never sees one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from intermodal.core.errors import DataError
from intermodal.core.fields import Field
from intermodal.data.source import Sample, Source, SourceConfig


@dataclass(frozen=True, kw_only=True)
class CaptionTextSource(SourceConfig):
    """The distinct texts of another source, in the order of their first appearance; no picture is decoded.

    Attributes:
        of: captioned pictures, or text.
    """

    of: SourceConfig

    def open(self, split: str) -> CaptionTexts:
        """Open a split of the other source.

        Raises:
            DataError: if it has no texts.
        """
        opened = self.of.open(split)
        if "text" not in opened.fields:
            raise DataError(f"{opened.name} has no texts to learn from.")
        texts = self.of.training_texts() if split == "train" else opened.texts()
        return CaptionTexts(f"texts of {opened.name}", list(dict.fromkeys(texts)))

    def training_texts(self) -> list[str]:
        """Return every text of the training split, repeated as often as it is there."""
        return self.of.training_texts()


class CaptionTexts(Source):
    """Texts under two names: to be written, and to be read by an encoder that has a tokenizer of its own.

    Args:
        name: of the source.
        texts: them.
    """

    fields: Mapping[str, Field] = {
        "text": Field((), "str", "a caption, to be written"),
        "read": Field((), "str", "the same, to be read"),
    }

    def __init__(self, name: str, texts: list[str]) -> None:
        self.name, self._texts = name, texts

    def __len__(self) -> int:
        return len(self._texts)

    def sample(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """Return one text, twice."""
        del rng
        return {"text": self._texts[index], "read": self._texts[index]}

    def texts(self) -> list[str]:
        """Return every text."""
        return self._texts
