"""Other microphones, other rooms: recordings with another tilt of their spectrum and with noise, for training.

Few speakers come with few microphones, and a model learns those along. What is changed here leaves the speech as it is:

- tilt: each octave above (below) 1 kHz is louder (softer) by so many dB, as with a dull or a sharp microphone;
- noise: independent of the speech, its own spectrum tilted in turn, so that it goes from hissing to rumbling
  (multi-condition training, as Lippmann et al. 1987 and Hirsch & Pearce 2000 did with recorded noise).

Shapes: T samples, K frequencies of the transform.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError

PIVOT = 1000.0
"""The frequency in Hz that a tilt leaves as loud as it was."""
LIMITS = (100.0, 20_000.0)
"""Below and above these frequencies in Hz a tilt goes on level."""
BROWN = -6.0
"""The steepest noise, in dB an octave; white noise is level."""


@dataclass(frozen=True, kw_only=True)
class ChannelConfig(Config):
    """How far a recording's channel is changed; the defaults change nothing.

    Attributes:
        tilt: the spectrum is tilted by up to so many dB an octave, either way.
        noise: noise is added at a ratio of speech to noise drawn from this range, in dB, low then high; None for none.
        share: of the recordings that get noise, 0 to 1.

    Raises:
        ConfigError: if a number is out of range.
    """

    tilt: float = 0.0
    noise: tuple[float, float] | None = None
    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.tilt <= 24 or not 0 <= self.share <= 1:
            raise ConfigError(f"tilt goes from 0 to 24 dB and share from 0 to 1, found {self.tilt} and {self.share}.")
        if self.noise is not None and not (all(map(math.isfinite, self.noise)) and self.noise[0] <= self.noise[1]):
            raise ConfigError(f"noise is a range of dB, low then high, found {self.noise}.")

    @property
    def changes(self) -> bool:
        """Whether anything is changed at all."""
        return self.tilt > 0 or self.noise is not None


def tilt_gain(frequency_K: np.ndarray, tilt: float) -> np.ndarray:
    """Return what a tilt in dB an octave multiplies the amplitudes at frequencies in Hz with, ``(K,)``; 1 at 1 kHz."""
    octave_K = np.log2(np.clip(frequency_K, *LIMITS) / PIVOT)
    return np.asarray(10 ** (tilt * octave_K / 20))


def tilted(sample_T: np.ndarray, rate: int, tilt: float) -> np.ndarray:
    """Return samples float32 ``(T,)`` whose spectrum is tilted by ``tilt`` dB an octave, as loud (RMS) as before."""
    if not tilt or not len(sample_T):
        return sample_T
    room = 2 * len(sample_T)  # as many zeros behind, so that the filter's end does not fall on the beginning
    spectrum_K = np.fft.rfft(sample_T.astype(np.float64), room)
    out_T = np.fft.irfft(spectrum_K * tilt_gain(np.fft.rfftfreq(room, 1 / rate), tilt), room)[: len(sample_T)]
    return (out_T * (_rms(sample_T) / max(_rms(out_T), 1e-20))).astype(np.float32)


def through(sample_T: np.ndarray, rate: int, config: ChannelConfig, rng: np.random.Generator) -> np.ndarray:
    """Return samples float32 ``(T,)`` as another channel would have recorded them; a silent recording stays silent.

    Args:
        sample_T: mono, of any length.
        rate: samples a second.
        config: how far it is changed.
        rng: draws the tilt, whether there is noise, how loud and how steep it is, and the noise.
    """
    out_T = tilted(sample_T, rate, rng.uniform(-config.tilt, config.tilt)) if config.tilt else sample_T
    if config.noise is None or rng.random() >= config.share or not len(out_T):
        return out_T
    ratio, steep = rng.uniform(*config.noise), rng.uniform(BROWN, 0.0)
    noise_T = tilted(rng.standard_normal(len(out_T)).astype(np.float32), rate, steep)
    level = _rms(out_T) * 10 ** (-ratio / 20) / max(_rms(noise_T), 1e-20)
    return np.clip(out_T + level * noise_T, -1, 1).astype(np.float32)


def _rms(sample_T: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(sample_T, dtype=np.float64))))
