"""A model that a person opened, and what can be searched with it: what command line, page and API share."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from intermodal.core.capabilities import Embeds, capabilities_of
from intermodal.core.errors import CheckpointError, DataError
from intermodal.core.progress import Progress, silent
from intermodal.core.registry import MethodCard, card
from intermodal.data.audio import Waveform
from intermodal.data.named import is_text
from intermodal.data.tokens import Tokenizer
from intermodal.hub.load import load
from intermodal.index.embedding import FILES, ModelStamp, embed_one, embeds, modality_of, stamp
from intermodal.index.folder import FolderIndex, Update
from intermodal.index.held_out import held_out, source_of
from intermodal.index.hits import MemoryIndex
from intermodal.index.text import TextIndex
from intermodal.index.tokens import tokenizer_of
from intermodal.index.words import WordIndex
from intermodal.methods.base import Method


class Session:
    """An opened model.

    Args:
        model: a run, a checkpoint, a published folder or a hub id.
        device: where it runs.

    Raises:
        CheckpointError: if there is no such model or it is damaged.
    """

    def __init__(self, model: str | Path, device: str = "cpu") -> None:
        self.path = Path(model)
        # A name in a folder that is there is a path, not an owner/name of the hub.
        if not self.path.exists() and (self.path.parent.is_dir() or self.path.is_absolute()):
            raise CheckpointError(f"There is no run or model at {model}.")
        self.model: Method = load(model, device=device)
        self._held_out: MemoryIndex | None = None

    @property
    def name(self) -> str:
        """What a person calls it: the run's or folder's name."""
        return self.path.resolve().name if self.path.exists() else str(self.path)

    @property
    def card(self) -> MethodCard:
        """The card of the model's method."""
        return card(self.model.id)

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What the model does for a person."""
        return capabilities_of(self.model)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Which inputs the model embeds; none if it embeds nothing."""
        return self.model.modalities if isinstance(self.model, Embeds) else ()

    @property
    def parameters(self) -> int:
        """How many numbers the model has learnt."""
        return sum(p.numel() for p in self.model.parameters())

    @cached_property
    def stamp(self) -> ModelStamp:
        """By what indexes know the model."""
        return stamp(self.model)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """By what files of tokens know the model.

        Raises:
            ConfigError: if it is no image tokenizer.
        """
        return tokenizer_of(self.model)

    @cached_property
    def words(self) -> WordIndex:
        """The model's words by their vectors.

        Raises:
            ConfigError: if it has none.
        """
        return WordIndex(self.model)

    def held_out(self, progress: Progress = silent) -> MemoryIndex:
        """Return the pictures, or texts, that the model was not trained on; they are embedded once."""
        if self._held_out is None:
            self._held_out = held_out(self.model, source_of(self.path), self.stamp, progress)
        return self._held_out

    def folder(
        self,
        folder: str | Path,
        progress: Progress = silent,
        *,
        index: str | Path | None = None,
        rebuild: bool = False,
    ) -> tuple[FolderIndex | TextIndex, Update]:
        """Return the index of a folder of pictures or recordings, or of a file or folder of text, up to date.

        A folder that holds pictures is one of pictures, else one of recordings.

        Returns:
            the index, and what bringing it up to date took.
        """
        found: FolderIndex | TextIndex
        if is_text(Path(folder)):
            found = TextIndex(folder, self.model, index=index, rebuild=rebuild, made_by=self._stamped("text"))
        else:
            modality = modality_of(Path(folder), self.modalities)
            made_by = self._stamped(modality)
            found = FolderIndex(folder, self.model, modality, path=index, rebuild=rebuild, made_by=made_by)
        return found, found.update(progress)

    def _stamped(self, modality: str) -> ModelStamp:
        embeds(self.model, modality, "An index of text" if modality == "text" else f"An index of {FILES[modality][0]}s")
        return self.stamp

    def query(
        self, text: str | None = None, image: Image.Image | None = None, sound: Waveform | None = None
    ) -> np.ndarray:
        """Return the unit vector of what is searched for: a text, a picture or a recording, one of the three.

        Raises:
            DataError: if several are given or none is.
            ConfigError: if the model does not embed it.
        """
        text = (text or "").strip() or None
        if sum(given is not None for given in (text, image, sound)) != 1:
            hears = "audio" in self.modalities
            what = (
                "a text, a picture or a recording, one of the three" if hears else "a text or a picture, one of the two"
            )
            raise DataError(f"A search takes {what}.")
        if sound is not None:
            return embed_one(embeds(self.model, "audio", "A search by sound"), "audio", sound)
        if image is not None:
            return embed_one(embeds(self.model, "image", "A search by picture"), "image", image)
        assert text is not None
        return embed_one(embeds(self.model, "text", "A search by text"), "text", text)
