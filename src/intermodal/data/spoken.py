"""Pictures with texts, and beside them pictures with sounds: what binding learns from, without a text for any sound.

Of the emoji set, the pictures of the ten digits (keycaps) are paired with FSDD's recordings of people who say them.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.core.fields import Field
from intermodal.data.emoji import EmojiPictures, EmojiSource
from intermodal.data.processors import Processor
from intermodal.data.source import Sample, Source, SourceConfig
from intermodal.data.speech import Recordings, SpeechSource
from intermodal.data.transcripts import AUDIO

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SOUNDING = Field((), "image", "the picture that belongs to the sound")
KEY = Field((), "str", "which sounds and pictures belong together: those of one key")


@dataclasses.dataclass(frozen=True, kw_only=True)
class KeyProcessor(Config, Processor):
    """Names -> int64 numbers that differ where the names do (a hash): to be compared, not to be looked up."""

    raw = KEY

    def encode(self, value: Any) -> Tensor:
        """Return a name's number, an int64 scalar."""
        digest = hashlib.blake2b(str(value).encode(), digest_size=8).digest()
        return torch.tensor(int.from_bytes(digest, "big") >> 1)

    def to_folder(self, folder: Path) -> dict[str, Any]:
        """Return the configuration; there are no assets."""
        del folder
        return self.to_dict()


@dataclass(frozen=True, kw_only=True)
class SpokenPicturesSource(SourceConfig):
    """The emoji set, and with every sample a spoken word with a picture of what it says.

    Attributes:
        pictures: of whose training pictures the sounds take theirs; in other splits of the held-out styles.
        speech: recordings of single words.
        words: the spoken words, and the name of the emoji that each belongs to.
    """

    pictures: EmojiSource
    speech: SpeechSource
    words: tuple[tuple[str, str], ...] = tuple((word, f"keycap: {i}") for i, word in enumerate(DIGITS))

    def open(self, split: str) -> SpokenPictures:
        """Open one split of pictures and of recordings.

        Raises:
            DataError: if one of them is not there, or a spoken word has no picture.
        """
        return SpokenPictures(self, split)

    def training_texts(self) -> list[str]:
        """Return the texts of the pictures' training split: of the sounds there are none."""
        return self.pictures.training_texts()


class SpokenPictures(Source):
    """Adds ``audio``, ``audio_image`` and ``audio_key`` to every sample of the pictures."""

    def __init__(self, config: SpokenPicturesSource, split: str) -> None:
        self.pictures: EmojiPictures = config.pictures.open(split)
        self.recordings: Recordings = config.speech.open(split)
        self.name = f"{self.pictures.name} and {self.recordings.name}"
        self.fields: Mapping[str, Field] = {
            **self.pictures.fields,
            "audio": AUDIO,
            "audio_image": SOUNDING,
            "audio_key": KEY,
        }
        self._drawn = EmojiSource(unit="picture").open("train" if split == "train" else "style")
        names = dict(config.words)
        if len(names) != len(config.words):
            raise ConfigError("A spoken word belongs to one emoji: a word occurs twice in words.")
        by_name: dict[str, list[int]] = {}
        for row, facts in enumerate(self._drawn.rows):
            by_name.setdefault(facts["name"], []).append(row)
        self._rows = {word: by_name.get(name, []) for word, name in names.items()}
        spoken = self.recordings.texts()
        strange = sorted({word for word in spoken if not self._rows.get(word)})
        if strange:
            raise DataError(f"{self.name}: the spoken words {', '.join(strange[:10])} have no picture.")
        self._spoken = spoken

    def __len__(self) -> int:
        return len(self.pictures)

    def sample(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """Return a picture with its text, and a recording with its picture: with ``rng`` a random one."""
        sample = self.pictures.sample(index, rng)
        at = index % len(self.recordings) if rng is None else int(rng.integers(len(self.recordings)))
        heard = self.recordings.sample(at, rng)
        rows = self._rows[heard["text"]]
        row = rows[0] if rng is None else rows[int(rng.integers(len(rows)))]
        return {
            **sample,
            "audio": heard["audio"],
            "audio_image": self._drawn.image(row),
            "audio_key": heard["text"],
        }

    def sample_name(self, index: int) -> str:
        """Return the picture's name."""
        return self.pictures.sample_name(index)

    def texts(self) -> list[str]:
        """Return every text of the pictures."""
        return self.pictures.texts()

    def picture_of(self, word: str) -> tuple[Any, str]:
        """Return the picture of a spoken word and the full text of its emoji, which no training pairs with a sound."""
        row = self._rows[word][0]
        return self._drawn.image(row), self._drawn.text(row)
