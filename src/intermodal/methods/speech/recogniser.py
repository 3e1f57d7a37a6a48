"""What recognisers that emit symbols frame by frame share: reading recordings, batches of like length, very long files.

A subclass says what it emits for a batch (:meth:`Recogniser.emit`) and how emissions become transcripts
(:meth:`Recogniser.decode`). A recording longer than :attr:`Recogniser.window_seconds` is heard in windows that overlap by
:attr:`Recogniser.overlap_seconds` on either side; of each window the frames in its middle count, so that memory does not
grow with the recording but for its emissions.

Shapes: B batch, T samples, U frames, V symbols.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from intermodal.core.progress import Progress, silent
from intermodal.core.transcript import Emissions, Transcribing, Transcript
from intermodal.data.audio import Waveform, audio_blocks, audio_info, notes_on, read_audio
from intermodal.data.transcripts import AudioProcessor
from intermodal.methods.base import Method

BATCH_SECONDS = 120.0
"""So many seconds of sound, padding included, are heard in one batch."""


class Recogniser(Method):
    """Base of recognisers that emit symbols frame by frame."""

    window_seconds: ClassVar[float] = 30.0
    overlap_seconds: ClassVar[float] = 2.0

    @property
    def sample_rate(self) -> int:
        """Samples a second that the model hears."""
        return self._audio.rate

    @property
    def _audio(self) -> AudioProcessor:
        processor = self.processors["audio"]
        assert isinstance(processor, AudioProcessor)
        return processor

    # What a subclass says.

    @property
    def frame_seconds(self) -> float:
        """Seconds from one emitted frame to the next."""
        raise NotImplementedError

    @property
    def emitted(self) -> tuple[tuple[str, ...], int | None]:
        """The symbols' names, and which is the blank."""
        raise NotImplementedError

    def emit(self, audio_BT: Tensor, length_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probabilities ``(B, U, V)`` and each recording's frames ``(B,)`` of waveforms and their lengths."""
        raise NotImplementedError

    def decode(self, emissions: Sequence[Emissions], settings: Transcribing) -> list[Transcript]:
        """Return the transcripts of emissions, without lengths and notes."""
        raise NotImplementedError

    # What follows from it.

    def transcribe(
        self, audios: Sequence[Any], settings: Transcribing | None = None, *, watch: Progress | None = None
    ) -> list[Transcript]:
        """Return one transcript for each recording; see :class:`~intermodal.core.capabilities.Transcribes`."""
        settings, watch = settings or Transcribing(), watch or silent
        heard = [self._described(audio) for audio in audios]
        emissions: list[Emissions | None] = [None] * len(audios)
        short = [i for i, (seconds, _) in enumerate(heard) if seconds <= self.window_seconds]
        done = 0
        for group in _groups([(i, heard[i][0]) for i in short]):
            for i, found in zip(group, self._emit_batch([audios[i] for i in group]), strict=True):
                emissions[i] = found
            done += len(group)
            watch("listening", done / len(audios))
        for i in range(len(audios)):
            if emissions[i] is None:
                emissions[i] = self._emit_long(audios[i], heard[i][0], watch)
        watch("searching", 1.0)
        transcripts = self.decode([e for e in emissions if e is not None], settings)
        out = []
        for transcript, (seconds, notes) in zip(transcripts, heard, strict=True):
            parts = {
                name: getattr(transcript, name) for name in ("text", "words", "segments", "alternatives", "language")
            }
            out.append(Transcript(**parts, seconds=seconds, notes=(*transcript.notes, *notes)))
        return out

    def emissions(self, audio: Any) -> Emissions:
        """Return the log-probabilities of all symbols in all frames of a recording."""
        seconds, _ = self._described(audio)
        if seconds <= self.window_seconds:
            return self._emit_batch([audio])[0]
        return self._emit_long(audio, seconds, silent)

    def _described(self, audio: Any) -> tuple[float, tuple[str, ...]]:
        """Return a recording's seconds and what is odd about it; a long one is not held whole."""
        if not isinstance(audio, Waveform | dict):
            info = audio_info(audio)
            if info.seconds > self.window_seconds:
                first = next(audio_blocks(audio, info.rate, self.window_seconds))
                return info.seconds, notes_on(first, info.rate, self.sample_rate)
        wave = read_audio(audio)
        return wave.seconds, notes_on(wave.samples, wave.rate, self.sample_rate)

    @torch.inference_mode()
    def _emit_batch(self, audios: Sequence[Any]) -> list[Emissions]:
        """Return the emissions of recordings that are short enough to be heard at once."""
        waves = [self._audio.encode(audio) for audio in audios]
        lengths = torch.tensor([len(w) for w in waves])
        batch = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True).to(self.device)
        was_training = self.training
        self.eval()
        log_probs, frames = self.emit(batch, lengths.to(self.device))
        self.train(was_training)
        symbols, blank = self.emitted
        return [
            Emissions(row[:count].float().cpu().numpy(), symbols, blank, self.frame_seconds)
            for row, count in zip(log_probs, frames.tolist(), strict=True)
        ]

    def _emit_long(self, audio: Any, seconds: float, watch: Progress) -> Emissions:
        """Return the emissions of a recording that is heard window by window."""
        rate = self.sample_rate
        hop = round(self.frame_seconds * rate)
        kept = _multiple(self.window_seconds * rate, hop)
        margin = _multiple(self.overlap_seconds * rate, hop)
        parts: list[np.ndarray] = []
        for number, (window, before, last) in enumerate(_windows(audio, rate, kept, margin)):
            found = self._emit_batch([Waveform(window, rate)])[0].log_probs
            first = before // hop
            parts.append(found[first:] if last else found[first : first + kept // hop])
            watch("listening", min((number + 1) * kept / rate / seconds, 1.0))
        symbols, blank = self.emitted
        return Emissions(np.concatenate(parts), symbols, blank, self.frame_seconds)


def _multiple(samples: float, hop: int) -> int:
    return max(hop, round(samples / hop) * hop)


def _windows(audio: Any, rate: int, kept: int, margin: int) -> Iterator[tuple[np.ndarray, int, bool]]:
    """Yield windows of ``margin + kept + margin`` samples that move by ``kept``.

    Each comes with how many of its samples lie before the kept ones, and whether it is the last.
    """
    blocks = audio_blocks(audio, rate, kept / rate)
    held, before, ended = np.zeros(0, np.float32), 0, False
    while True:
        while not ended and len(held) < before + kept + margin:
            block = next(blocks, None)
            if block is None:
                ended = True
            else:
                held = np.concatenate([held, block])
        last = ended and len(held) <= before + kept + margin
        yield (held if last else held[: before + kept + margin]), before, last
        if last:
            return
        drop = before + kept - margin
        held, before = held[max(drop, 0) :], before + kept - max(drop, 0)


def _groups(lengths: Sequence[tuple[int, float]]) -> Iterator[list[int]]:
    """Yield numbers of recordings in groups of like length, of at most :data:`BATCH_SECONDS` with padding."""
    group: list[int] = []
    longest = 0.0
    for number, seconds in sorted(lengths, key=lambda item: -item[1]):
        if group and longest * (len(group) + 1) > BATCH_SECONDS:
            yield group
            group = []
        longest = longest if group else seconds
        group.append(number)
    if group:
        yield group
