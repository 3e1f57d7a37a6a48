"""Training speakers set aside, cut in two: one part to tune a few weights on, the other to see what they are worth."""

from __future__ import annotations

from dataclasses import dataclass

from intermodal.core.errors import DataError
from intermodal.data.source import SourceConfig
from intermodal.data.speech import Recordings, SpeechSource
from intermodal.data.splits import check_split, hash_share


@dataclass(frozen=True, kw_only=True)
class SetAside(SourceConfig):
    """The validation speakers of recordings, as a training and a validation split of their own.

    A recogniser has been trained on the other speakers and judged on the test split; what is tuned on top of it must see
    neither. Speakers are shared out by a stable hash, half and half; where there is only one, recordings are.

    Attributes:
        of: the recordings.
    """

    of: SpeechSource

    def open(self, split: str) -> Recordings:
        """Open ``train`` or ``validation``, halves of the validation split; ``test`` is that of the data.

        Raises:
            DataError: if the data is not there, or fewer than two recordings are set aside.
        """
        check_split(split)
        if split == "test":
            return self.of.open(split)
        whole = self.of.open("validation")
        speakers = whole.speakers()
        groups = speakers if len(set(speakers)) > 1 else [whole.sample_name(i) for i in range(len(whole))]
        ranked = sorted(set(groups), key=hash_share)
        if len(ranked) < 2:
            raise DataError(f"{whole.name} has one recording: two at least must be set aside to tune and to judge on.")
        chosen = set(ranked[::2] if split == "train" else ranked[1::2])
        rows = [row for row, group in zip(whole.rows, groups, strict=True) if group in chosen]
        return Recordings(f"{whole.name}, half for {split}", whole.listing, rows, self.of, "validation")

    def training_texts(self) -> list[str]:
        """Return the transcripts of the training split of the data, which is none of what is set aside."""
        return self.of.training_texts()
