"""What recognisers that emit symbols frame by frame share: reading recordings, batches of like length, very long files.

A subclass says what it emits for a batch (:meth:`Recogniser.emit`) and how emissions become transcripts
(:meth:`Recogniser.decode`). A recording longer than :attr:`Recogniser.window_seconds` is heard in windows that overlap by
:attr:`Recogniser.overlap_seconds` on either side; of each window the frames in its middle count, so that memory does not
grow with the recording but for its emissions.

Shapes: B batch, T samples, U frames, V symbols.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from intermodal.core.progress import Progress, silent
from intermodal.core.transcript import Emissions, Transcribing, Transcript
from intermodal.data.audio import Waveform, audio_blocks, audio_info, notes_on, read_audio
from intermodal.methods.speech.hearing import Hearing

BATCH_SECONDS = 120.0
"""So many seconds of sound, padding included, are heard in one batch."""


class Recogniser(Hearing):
    """Base of recognisers that emit symbols frame by frame."""

    window_seconds: ClassVar[float] = 30.0
    overlap_seconds: ClassVar[float] = 2.0

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
        seconds = [recording_seconds(audio) for audio in audios]
        heard: dict[int, tuple[Emissions, tuple[str, ...]]] = {}
        for group in _groups([(i, length) for i, length in enumerate(seconds) if length <= self.window_seconds]):
            waves = [read_audio(audios[i]) for i in group]
            for i, wave, found in zip(group, waves, self._emit_batch(waves), strict=True):
                heard[i] = found, notes_on(wave.samples, wave.rate, self.sample_rate)
            watch("listening", len(heard) / len(audios))
        for i, audio in enumerate(audios):
            if i not in heard:
                heard[i] = self._emit_long(audio, watch), self._notes_on_long(audio)
        watch("searching", 1.0)
        transcripts = self.decode([heard[i][0] for i in range(len(audios))], settings)
        return [
            dataclasses.replace(transcript, seconds=seconds[i], notes=(*transcript.notes, *heard[i][1]))
            for i, transcript in enumerate(transcripts)
        ]

    def emissions(self, audio: Any) -> Emissions:
        """Return the log-probabilities of all symbols in all frames of a recording."""
        if recording_seconds(audio) <= self.window_seconds:
            return self._emit_batch([audio])[0]
        return self._emit_long(audio, silent)

    def _notes_on_long(self, audio: Any) -> tuple[str, ...]:
        """Return what is odd about the beginning of a recording, which is not held whole."""
        rate = audio.rate if isinstance(audio, Waveform) else audio_info(audio).rate
        return notes_on(next(audio_blocks(audio, rate, self.window_seconds)), rate, self.sample_rate)

    @torch.inference_mode()
    def _emit_batch(self, audios: Sequence[Any]) -> list[Emissions]:
        """Return the emissions of recordings that are short enough to be heard at once."""
        audio_BT, length_B = self.waveforms(audios)
        with self.evaluating():
            log_probs, frames = self.emit(audio_BT, length_B)
        symbols, blank = self.emitted
        return [
            Emissions(row[:count].float().cpu().numpy(), symbols, blank, self.frame_seconds)
            for row, count in zip(log_probs, frames.tolist(), strict=True)
        ]

    def _emit_long(self, audio: Any, watch: Progress) -> Emissions:
        """Return the emissions of a recording that is heard window by window."""
        rate, seconds = self.sample_rate, recording_seconds(audio)
        hop = round(self.frame_seconds * rate)
        kept = _multiple(self.window_seconds * rate, hop)
        margin = _multiple(self.overlap_seconds * rate, hop)
        symbols, blank = self.emitted
        log_probs, count = np.empty((math.ceil(seconds * rate / hop) + 1, len(symbols)), np.float32), 0
        for number, (window, before, last) in enumerate(_windows(audio, rate, kept, margin)):
            found = self._emit_batch([Waveform(window, rate)])[0].log_probs[before // hop :]
            found = found if last else found[: kept // hop]
            if count + len(found) > len(log_probs):  # the header named a shorter recording
                log_probs = np.concatenate([log_probs, np.empty_like(log_probs), np.empty_like(found)])
            log_probs[count : count + len(found)] = found
            count += len(found)
            watch("listening", min((number + 1) * kept / rate / seconds, 1.0))
        return Emissions(log_probs[:count], symbols, blank, self.frame_seconds)


def recording_seconds(audio: Any) -> float:
    """Return a recording's length, of a file by its header."""
    return audio.seconds if isinstance(audio, Waveform) else audio_info(audio).seconds


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
