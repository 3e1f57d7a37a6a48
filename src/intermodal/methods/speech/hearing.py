"""What all that hears recordings shares: its processor of sound, its rate, and waveforms in a batch on its device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from intermodal.data.transcripts import AudioProcessor
from intermodal.methods.base import Method


class Hearing(Method):
    """Base of methods whose input ``audio`` is recordings."""

    @property
    def audio_processor(self) -> AudioProcessor:
        """What makes waveforms of recordings."""
        processor = self.processors["audio"]
        assert isinstance(processor, AudioProcessor)
        return processor

    @property
    def sample_rate(self) -> int:
        """Samples a second that the model hears."""
        return self.audio_processor.rate

    def waveforms(self, audios: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """Return recordings (paths, bytes, Waveforms) as one batch ``(B, T)`` and their lengths ``(B,)``, on the device.

        Raises:
            DataError: if one cannot be read.
        """
        return self.audio_processor.batch(audios, self.device)
