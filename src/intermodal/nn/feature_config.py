"""The configuration of speech features, and the ones that Kaldi, librosa and Whisper go by.

Shapes: K frequencies of the transform, F features of a frame.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal, Self

import numpy as np

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError
from intermodal.nn.mel import Mel, dct_matrix, empty_filters, filter_bank

Kind = Literal["spectrum", "log_mel", "mfcc"]
Window = Literal["hann", "hamming", "povey", "rectangular"]
Edges = Literal["inside", "zeros", "reflect", "mirror"]
Log = Literal["none", "ln", "log10", "db", "whisper"]
Cmvn = Literal["none", "utterance", "sliding", "global"]

KALDI_FLOOR = float(np.finfo(np.float32).eps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureConfig(Config):
    """What a :class:`SpeechFeatures` is built from; the defaults suit a network that reads 16 kHz speech.

    Attributes:
        kind: ``spectrum`` (the log of each frequency), ``log_mel`` or ``mfcc``.
        rate: samples a second of the waveforms.
        scale: what the samples (-1 to 1) are multiplied by; Kaldi counts in 16-bit steps, 32768.
        window_ms, hop_ms: length of a window and the step to the next, in milliseconds.
        fft: points of the transform, even; None for the smallest power of two that holds the window and leaves no mel filter
            without a frequency.
        window: the taper; ``povey`` is Kaldi's, a Hann window to the power 0.85.
        periodic: a window of length L is cut from one of L + 1 (librosa, Whisper) or is symmetric (Kaldi).
        edges: ``inside``: windows that lie wholly inside (Kaldi's ``snip_edges``); ``zeros`` and ``reflect``: one window
            centred on every hop, from sample 0 on, the missing samples zero or reflected; ``mirror``: one centred in every
            hop, the missing samples mirrored with the outermost one repeated (Kaldi without ``snip_edges``).
        drop_last: leave out the last frame, as Whisper does.
        remove_dc: take off each window's mean first.
        pre_emphasis: ``x[t] - a x[t-1]`` within each window; 0 for none.
        power: 2 for the power spectrum, 1 for the magnitude.
        mel, bins, low, high, area: see :func:`~intermodal.nn.mel.filter_bank`.
        log: ``none``, ``ln``, ``log10``, ``db`` (``10 log10``) or ``whisper``: log10, no more than 8 below the recording's
            loudest, plus 4, over 4.
        floor: what smaller values are raised to before the logarithm.
        top_db: with ``db``, nothing more than this below the recording's loudest.
        coefficients, lifter: of the cepstrum; see :func:`~intermodal.nn.mel.lifter_weights`.
        energy: Kaldi's log energy of each window before emphasis and taper: instead of the first cepstral coefficient, or
            before the mel bins.
        deltas: how many orders of slopes are put behind each frame: 0, 1 or 2.
        delta_window: frames to each side that a slope is fitted over.
        cmvn: normalisation of each feature: over the ``utterance``, over a ``sliding`` window of the past, or with
            ``global`` figures fitted from data (:meth:`SpeechFeatures.fit`).
        cmvn_variance: divide by the standard deviation as well.
        cmvn_window: frames of the sliding window.
        cmvn_min: as many frames as there must be in it, at the beginning borrowed from the future.

    Raises:
        ConfigError: if a value is out of range.
    """

    kind: Kind = "log_mel"
    rate: int = 16000
    scale: float = 1.0
    window_ms: float = 25.0
    hop_ms: float = 10.0
    fft: int | None = None
    window: Window = "hann"
    periodic: bool = True
    edges: Edges = "zeros"
    drop_last: bool = False
    remove_dc: bool = True
    pre_emphasis: float = 0.97
    power: float = 2.0
    mel: Mel = "htk"
    bins: int = 80
    low: float = 20.0
    high: float | None = None
    area: bool | None = None
    log: Log = "ln"
    floor: float = 1e-10
    top_db: float | None = None
    coefficients: int = 13
    lifter: float = 0.0
    energy: bool = False
    deltas: int = 0
    delta_window: int = 2
    cmvn: Cmvn = "none"
    cmvn_variance: bool = True
    cmvn_window: int = 300
    cmvn_min: int = 100

    def __post_init__(self) -> None:
        if self.rate < 1 or self.window_samples < 2 or self.hop_samples < 1:
            raise ConfigError(
                f"Features need a rate of at least 1, a window of at least 2 samples and a hop of at least 1, found a rate "
                f"of {self.rate}, {self.window_ms} ms and {self.hop_ms} ms."
            )
        if self.fft is not None and (self.fft < self.window_samples or self.fft % 2):
            raise ConfigError(f"fft must be even and hold a window of {self.window_samples} samples, found {self.fft}.")
        if not 0 <= self.pre_emphasis < 1:
            raise ConfigError(f"pre_emphasis lies in 0 to 1, found {self.pre_emphasis}.")
        if self.power not in (1.0, 2.0):
            raise ConfigError(f"power is 1 (magnitude) or 2 (power), found {self.power}.")
        if self.floor <= 0 or self.scale <= 0 or (self.top_db is not None and self.top_db <= 0):
            raise ConfigError("floor, scale and top_db are above 0.")
        if self.top_db is not None and self.log != "db":
            raise ConfigError(f"top_db goes with log='db', found log={self.log!r}.")
        if self.deltas not in (0, 1, 2) or self.delta_window < 1:
            raise ConfigError(
                f"deltas is 0, 1 or 2 and delta_window at least 1, found {self.deltas}, {self.delta_window}."
            )
        if not 1 <= self.cmvn_min <= self.cmvn_window:
            raise ConfigError(
                f"cmvn_min lies between 1 and cmvn_window, found {self.cmvn_min} and {self.cmvn_window} frames."
            )
        if self.energy and self.kind == "spectrum":
            raise ConfigError("energy goes with kind='log_mel' or 'mfcc'.")
        if self.kind != "spectrum":
            self.bank()
        if self.kind == "mfcc":
            dct_matrix(self.bins, self.coefficients)

    @property
    def window_samples(self) -> int:
        """Samples of a window."""
        return round(self.rate * self.window_ms / 1000)

    @property
    def hop_samples(self) -> int:
        """Samples from one window to the next."""
        return round(self.rate * self.hop_ms / 1000)

    @property
    def points(self) -> int:
        """Points of the transform."""
        return self.fft if self.fft is not None else _points(self)

    def bank(self) -> np.ndarray:
        """Return the mel filter bank ``(K, bins)``, float64."""
        return _bank(self, self.points)

    def taper(self) -> np.ndarray:
        """Return the window ``(window_samples,)``, float64."""
        size = self.window_samples
        phase = 2 * np.pi * np.arange(size) / (size if self.periodic and self.window != "povey" else size - 1)
        if self.window == "hamming":
            return 0.54 - 0.46 * np.cos(phase)
        if self.window == "rectangular":
            return np.ones(size)
        hann = 0.5 - 0.5 * np.cos(phase)
        return hann**0.85 if self.window == "povey" else hann

    @property
    def statics(self) -> int:
        """Features of a frame before its deltas."""
        if self.kind == "spectrum":
            return self.points // 2 + 1
        return self.coefficients if self.kind == "mfcc" else self.bins + self.energy

    @property
    def size(self) -> int:
        """F: features of a frame."""
        return self.statics * (1 + self.deltas)

    @property
    def whole(self) -> str | None:
        """What of this needs the whole recording, so that it cannot be had while sound arrives; None if nothing does."""
        if self.log == "whisper":
            return "log='whisper'"
        if self.top_db is not None:
            return "top_db"
        return "cmvn='utterance'" if self.cmvn == "utterance" else None

    @classmethod
    def kaldi(cls, *, rate: int = 16000, kind: Kind = "log_mel", **changes: Any) -> Self:
        """Return Kaldi's defaults: 23 bins, the povey window, windows inside, 16-bit scale; MFCC with lifter and energy."""
        window, hop = int(rate * 0.025), int(rate * 0.01)
        values: dict[str, Any] = {
            "kind": kind, "rate": rate, "scale": 32768.0, "window_ms": window * 1000 / rate, "hop_ms": hop * 1000 / rate,
            "fft": 1 << (window - 1).bit_length(), "window": "povey", "periodic": False, "edges": "inside",
            "mel": "kaldi", "bins": 23, "floor": KALDI_FLOOR, "lifter": 22.0, "energy": kind == "mfcc",
        }  # fmt: skip
        return cls(**{**values, **changes})

    @classmethod
    def librosa(
        cls, *, rate: int = 22050, kind: Kind = "log_mel", fft: int = 2048, hop: int = 512, **changes: Any
    ) -> Self:
        """Return librosa's defaults: ``power_to_db(melspectrogram(y), ref=1)`` and ``mfcc(y)``.

        Args:
            rate: samples a second.
            kind: what of it.
            fft: points of the transform, and samples of a window unless ``window_ms`` says otherwise.
            hop: samples from one window to the next.
            changes: any other field.
        """
        values: dict[str, Any] = {
            "kind": kind, "rate": rate, "fft": fft, "window_ms": fft * 1000 / rate, "hop_ms": hop * 1000 / rate,
            "remove_dc": False, "pre_emphasis": 0.0, "mel": "slaney", "bins": 128, "low": 0.0, "log": "db", "top_db": 80.0,
            "coefficients": 20,
        }  # fmt: skip
        return cls(**{**values, **changes})

    @classmethod
    def whisper(cls, *, bins: int = 80) -> Self:
        """Return what Whisper takes, given a waveform of 30 s (480,000 samples, zeros behind what is shorter)."""
        return cls(
            rate=16000, fft=400, edges="reflect", drop_last=True, remove_dc=False, pre_emphasis=0.0, mel="slaney",
            bins=bins, low=0.0, log="whisper",
        )  # fmt: skip


def _bank(config: FeatureConfig, points: int) -> np.ndarray:
    return filter_bank(config.mel, config.bins, points, config.rate, low=config.low, high=config.high, area=config.area)


@functools.lru_cache(maxsize=64)
def _points(config: FeatureConfig) -> int:
    points = 1 << (config.window_samples - 1).bit_length()
    if config.kind == "spectrum":
        return points
    for _ in range(4):
        if not empty_filters(_bank(config, points)):
            return points
        points *= 2
    raise ConfigError(
        f"{config.bins} mel filters between {config.low:g} and {config.high or config.rate / 2:g} Hz are narrower than a "
        f"transform of {points // 2} points resolves: take fewer bins."
    )
