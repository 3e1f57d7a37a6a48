"""A recogniser of tones, small enough for any test: each letter is a tone of its own, and a silence says nothing.

``spoken`` makes a recording of a text; ``ToyRecogniser`` finds the text again, with a true frame-by-frame posterior.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError
from intermodal.core.transcript import Alignment, Emissions, Transcribing, Transcript
from intermodal.data.audio import Waveform, read_audio
from intermodal.data.processors import Processor
from intermodal.data.transcripts import BLANK, SPACE, AudioProcessor, CharacterProcessor
from intermodal.methods.base import Batch, Losses
from intermodal.methods.speech.ctc_decoding import Greedy, aligned, searches, transcripts_of
from intermodal.methods.speech.recogniser import Recogniser

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SYMBOLS = (BLANK, " ", *LETTERS)
RATE, FRAME = 8000, 0.02
TONES = np.array([200.0 + 125 * i for i in range(len(SYMBOLS) - 1)])
"""Hertz of the space and the letters: below half the rate of telephone speech."""


def spoken(text: str, rate: int = RATE, *, each: float = 0.06, gap: float = 0.04, quiet: float = 0.1) -> np.ndarray:
    """Return the tones of a text, float32: ``each`` seconds a letter, ``gap`` between, ``quiet`` before and after."""
    pieces = [np.zeros(round(quiet * rate))]
    for letter in text:
        time = np.arange(round(each * rate)) / rate
        pieces += [0.5 * np.sin(2 * np.pi * TONES[SYMBOLS.index(letter) - 1] * time), np.zeros(round(gap * rate))]
    return np.concatenate([*pieces, np.zeros(round(quiet * rate))]).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class ToyRecogniserConfig(Config):
    """``deaf``: letters that it hears as the next one of the alphabet."""

    deaf: str = ""
    sharp: float = 12.0


class ToyRecogniser(Recogniser):
    """Transcribes, aligns, emits and streams tones."""

    id = "toy-recogniser"
    config: ToyRecogniserConfig
    latency = FRAME

    def __init__(self, config: ToyRecogniserConfig, processors: Mapping[str, Processor]) -> None:
        super().__init__(config, processors)
        size = round(FRAME * self.sample_rate)
        turns = torch.arange(size) / self.sample_rate * 2 * torch.pi
        wave = torch.polar(torch.ones(len(TONES), size), torch.tensor(TONES, dtype=torch.float32)[:, None] * turns)
        self.tone_VK2 = nn.Parameter(torch.view_as_real(wave))

    @property
    def frame_seconds(self) -> float:
        return FRAME

    @property
    def emitted(self) -> tuple[tuple[str, ...], int | None]:
        return SYMBOLS, 0

    def emit(self, audio_BT: Tensor, length_B: Tensor) -> tuple[Tensor, Tensor]:
        size = self.tone_VK2.shape[1]
        frames_B = -(-length_B // size)
        padded = F.pad(audio_BT, (0, int(frames_B.max()) * size - audio_BT.shape[1]))
        window_BUK = padded.unflatten(1, (-1, size))
        power = torch.einsum("buk,vkc->buvc", window_BUK, self.tone_VK2).square().sum(-1).sqrt() / size * 4
        for letter in self.config.deaf:
            place = LETTERS.index(letter) + 1
            power[..., place + 1] = torch.maximum(power[..., place + 1], power[..., place])
            power[..., place] *= 0.9
        logits = torch.cat([torch.full_like(power[..., :1], 0.4), power], -1) * self.config.sharp
        return logits.log_softmax(-1), frames_B

    def decode(self, emissions: Sequence[Emissions], settings: Transcribing) -> list[Transcript]:
        return transcripts_of(emissions, settings, SPACE)

    def align(self, audio: object, text: str) -> Alignment:
        numbers = self.processors["text"].encode(text).tolist()
        return aligned(self.emissions(audio), numbers, SPACE, read_audio(audio).seconds)

    def listen(self, settings: Transcribing | None = None) -> ToyListener:
        if searches(settings or Transcribing()):
            raise ConfigError("A search needs the end of the recording: it does not go with streaming.")
        return ToyListener(self)

    def loss(self, batch: Batch) -> Losses:
        return Losses(self.tone_VK2.square().mean())


class ToyListener:
    """Hears whole frames."""

    def __init__(self, model: ToyRecogniser) -> None:
        self.model, self.held, self.count = model, np.zeros(0, np.float32), 0
        self.greedy = Greedy(SYMBOLS, 0, SPACE, FRAME)

    def feed(self, samples: np.ndarray) -> Transcript:
        size = self.model.tone_VK2.shape[1]
        self.count += len(samples)
        self.held = np.concatenate([self.held, samples])
        whole = len(self.held) - len(self.held) % size
        self._hear(self.held[:whole])
        self.held = self.held[whole:]
        return dataclasses.replace(self.greedy.transcript(), seconds=self.count / self.model.sample_rate)

    def finish(self) -> Transcript:
        self._hear(self.held)
        return dataclasses.replace(self.greedy.transcript(), seconds=self.count / self.model.sample_rate)

    def _hear(self, samples: np.ndarray) -> None:
        if len(samples):
            wave = torch.from_numpy(samples)[None]
            with torch.inference_mode():
                self.greedy.feed(self.model.emit(wave, torch.tensor([len(samples)]))[0][0].numpy())


def recogniser(**changes) -> ToyRecogniser:
    processors = {"audio": AudioProcessor(rate=RATE), "text": CharacterProcessor(symbols=SYMBOLS)}
    return ToyRecogniser(ToyRecogniserConfig(**changes), processors).eval()


def recorded(text: str, rate: int = RATE) -> Waveform:
    return read_audio(Waveform(spoken(text, rate), rate))
