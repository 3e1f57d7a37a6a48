"""What the recipes of speech share: recordings with transcripts, the symbols that are written, a person's own folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from torch import Tensor

from intermodal.core.errors import DataError
from intermodal.data.named import HUB
from intermodal.data.speech import SpeechSource
from intermodal.data.transcripts import AudioProcessor, Case, CharacterProcessor, PieceProcessor, TranscriptProcessor
from intermodal.evaluate.energy import spread_out
from intermodal.nn.speech_features import SpeechFeatures
from intermodal.recipes.base import Recipe

FITTED = 256
"""Recordings, evenly spread, that global normalisation is fitted on."""
AN4 = SpeechSource(path=Path("an4"))
FSDD = SpeechSource(path=Path("fsdd"))


AN4_WORDS = "AN4's 773 test words"
FSDD_RULE = "FSDD's 250 test recordings"


@dataclass(frozen=True, kw_only=True)
class SpeechRecipe(Recipe):
    """A method on recordings with transcripts.

    Attributes:
        source: the recordings.
        rate: samples a second that the model hears.
        units: what is written: ``characters``, or ``pieces`` (BPE).
        pieces: how many BPE units at most.
        case: to which transcripts are brought.
    """

    source: SpeechSource
    rate: int = 16_000
    units: Literal["characters", "pieces"] = "characters"
    pieces: int = 64
    case: Case = "upper"

    def audio(self) -> AudioProcessor:
        """Return the processor of recordings."""
        return AudioProcessor(rate=self.rate)

    def transcripts(self) -> TranscriptProcessor:
        """Return the processor of transcripts, with the symbols of the training split."""
        texts = self.source.training_texts()
        if self.units == "characters":
            return CharacterProcessor.of(texts, self.case)
        return PieceProcessor.of(texts, self.pieces, self.case)

    def fit(self, features: SpeechFeatures, most: int = FITTED) -> None:
        """Fit features that are normalised by figures of all recordings to those of the training split; others stay.

        Args:
            features: of a method that is built.
            most: recordings that are heard, evenly spread; one that cannot be read is passed over, which training counts.
        """
        if features.config.cmvn != "global":
            return
        source, audio = self.source.open("train"), AudioProcessor(rate=features.config.rate)

        def recordings() -> Iterator[tuple[Tensor, None]]:
            for index in spread_out(len(source), most):
                with contextlib.suppress(DataError):
                    yield audio.encode(source.sample(index)["audio"])[None], None

        features.fit(recordings())

    def on_named(self, data: str) -> Self:
        """Return the recipe on ``an4``, ``fsdd``, a Parquet file or a folder of recordings.

        Raises:
            DataError: if there is no such data.
        """
        if data.startswith(HUB):
            raise DataError("Speech is read from folders and Parquet files: fetch the data set from the hub first.")
        return self.on(SpeechSource(path=Path(data)))
