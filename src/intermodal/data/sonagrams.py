"""Recordings as pictures: what frequencies sound when, dark where it is loud, as a grey picture.

A short-time Fourier transform with a Hann window, power in decibels below the recording's loudest, 0 to ``RANGE`` drawn from
black to white; time runs to the right, frequency upwards, from 0 to half the rate. A word that is shorter than the picture
stands in its middle, a longer one loses both ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from intermodal.core.fields import Field
from intermodal.data.audio import read_audio
from intermodal.data.source import Sample, Source, SourceConfig
from intermodal.data.speech import SpeechSource

RANGE = 60.0
"""Decibels."""


@dataclass(frozen=True, kw_only=True)
class SonagramSource(SourceConfig):
    """Pictures of recordings; the class of each is what is said.

    Attributes:
        speech: the recordings, of single words.
        rate: samples a second that they are brought to.
        size: rows (frequencies) and columns (times) of a picture.
        hop: seconds from one column to the next.
    """

    speech: SpeechSource
    rate: int = 8000
    size: int = 64
    hop: float = 0.0125

    def open(self, split: str) -> Sonagrams:
        """Open one split of the recordings.

        Raises:
            DataError: if the data is not there, or is damaged.
        """
        return Sonagrams(self, split)


class Sonagrams(Source):
    """One split: ``image``, and ``text`` and ``label``, which are what is said."""

    fields: Mapping[str, Field] = {
        "image": Field((), "image", "a picture of what sounds"),
        "text": Field((), "str", "what is said"),
        "label": Field((), "str", "what is said"),
    }

    def __init__(self, config: SonagramSource, split: str) -> None:
        self.config = config
        self.recordings = config.speech.open(split)
        self.name = f"pictures of {self.recordings.name}"
        self._said = self.recordings.texts()
        self._made: dict[int, Image.Image] = {}  # small, and made once: a decoded recording costs more than it

    def __len__(self) -> int:
        return len(self.recordings)

    def sample(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """Return one picture and what is said; chance has no part in it."""
        del rng
        if index not in self._made:
            config = self.config
            wave = read_audio(self.recordings.sample(index)["audio"], config.rate)
            self._made[index] = sonagram(wave.samples, config.rate, config.size, config.hop)
        return {"image": self._made[index], "text": self._said[index], "label": self._said[index]}

    def _label_of(self, index: int) -> str:
        return self._said[index]

    def texts(self) -> list[str]:
        """Return what is said in each."""
        return self._said

    def sample_name(self, index: int) -> str:
        """Return the recording's name."""
        return self.recordings.sample_name(index)


def sonagram(samples: np.ndarray, rate: int, size: int, hop: float) -> Image.Image:
    """Return a recording's picture, ``size`` by ``size``; see the module's text.

    Args:
        samples: float, ``(T,)``.
        rate: samples a second.
        size: frequencies and times.
        hop: seconds from one column to the next.
    """
    window, step = 2 * (size - 1), max(1, round(hop * rate))
    wanted = window + (size - 1) * step
    missing = wanted - len(samples)
    if missing >= 0:
        samples = np.pad(samples, (missing // 2, missing - missing // 2))
    else:
        samples = samples[-missing // 2 : -missing // 2 + wanted]
    frames = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float64), window)[::step][:size]
    power = np.abs(np.fft.rfft(frames * np.hanning(window), axis=1)) ** 2
    loudest = max(float(power.max()), 1e-20)
    decibels = 10 * np.log10(np.maximum(power / loudest, 10 ** (-RANGE / 10)))
    grey = np.round(-decibels.T[::-1] * (255 / RANGE)).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")
