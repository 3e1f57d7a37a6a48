"""Mel scales and filter banks: how a spectrum of equal steps in hertz becomes a few bands as wide as hearing is coarse.

Two scales go by the name of mel and differ. HTK's is ``2595 log10(1 + f / 700)`` (O'Shaughnessy 1987), which Kaldi writes
as ``1127 ln(1 + f / 700)``. Slaney's (Auditory Toolbox 1998) is linear up to 1,000 Hz and logarithmic above. A filter bank
adds two more choices: whether the sides of its triangles are straight over hertz (librosa, Slaney) or over mel (Kaldi), and
whether a triangle's height is 1 or makes its area 1 (Slaney).

The tables are float64 NumPy: they are made once and rounded once.

Shapes: B recordings, n frames, K frequencies of the transform, M filters.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from intermodal.core.errors import ConfigError

Mel = Literal["htk", "slaney", "kaldi"]
Array = np.ndarray[Any, Any]

_SLANEY_STEP = 200.0 / 3  # hertz in a mel below the bend
_SLANEY_BEND = 1000.0  # hertz
_SLANEY_LOG = np.log(6.4) / 27  # above it, 27 mels take a frequency to 6.4 times itself


def hz_to_mel(hz: Any, scale: Mel = "htk") -> Array:
    """Return frequencies in mel (``htk`` and ``kaldi`` are one scale), float64 of the same shape."""
    hz = np.asarray(hz, np.float64)
    if scale != "slaney":
        return 1127.0 * np.log1p(hz / 700.0) if scale == "kaldi" else 2595.0 * np.log10(1.0 + hz / 700.0)
    above = _SLANEY_BEND / _SLANEY_STEP + np.log(np.maximum(hz, _SLANEY_BEND) / _SLANEY_BEND) / _SLANEY_LOG
    return np.where(hz < _SLANEY_BEND, hz / _SLANEY_STEP, above)


def mel_to_hz(mel: Any, scale: Mel = "htk") -> Array:
    """Return mels in hertz, the inverse of :func:`hz_to_mel`."""
    mel = np.asarray(mel, np.float64)
    if scale != "slaney":
        return 700.0 * np.expm1(mel / 1127.0) if scale == "kaldi" else 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    bend = _SLANEY_BEND / _SLANEY_STEP
    return np.where(mel < bend, mel * _SLANEY_STEP, _SLANEY_BEND * np.exp(_SLANEY_LOG * (np.maximum(mel, bend) - bend)))


def mel_edges(scale: Mel, bins: int, low: float, high: float) -> Array:
    """Return the M + 2 frequencies in hertz, equally far apart in mel, where triangles begin, peak and end."""
    return mel_to_hz(np.linspace(hz_to_mel(low, scale), hz_to_mel(high, scale), bins + 2), scale)


@functools.lru_cache(maxsize=64)
def filter_bank(
    scale: Mel,
    bins: int,
    fft: int,
    rate: float,
    *,
    low: float = 0.0,
    high: float | None = None,
    area: bool | None = None,
) -> Array:
    """Return the weights of a mel filter bank, float64 ``(fft // 2 + 1, bins)``, read-only.

    Args:
        scale: ``htk``: HTK's mel, triangles straight over hertz (librosa's ``htk=True``). ``slaney``: Slaney's mel,
            triangles straight over hertz. ``kaldi``: HTK's mel, triangles straight over mel, the highest frequency left out.
        bins: M, how many filters.
        fft: points of the transform.
        rate: samples a second.
        low: where the first triangle begins, in hertz.
        high: where the last ends, in hertz; ``rate / 2`` by default.
        area: divide each triangle by half its width in hertz, so that each has the area 1; by default ``slaney`` alone.

    Raises:
        ConfigError: if there is no filter, or ``low`` and ``high`` do not lie in order between 0 and ``rate / 2``.
    """
    top = rate / 2 if high is None else high
    if bins < 1:
        raise ConfigError(f"A filter bank has at least one filter, found bins={bins}.")
    if not 0 <= low < top <= rate / 2:
        raise ConfigError(
            f"A filter bank's low and high must lie in order between 0 and {rate / 2:g} Hz (half of {rate:g} samples a "
            f"second), found {low:g} and {top:g}."
        )
    hz = np.arange(fft // 2 + 1) * (rate / fft)
    edges = mel_edges(scale, bins, low, top)
    if scale == "kaldi":
        at, corner = hz_to_mel(hz, scale), np.linspace(hz_to_mel(low, scale), hz_to_mel(top, scale), bins + 2)
    else:
        at, corner = hz, edges
    width = np.diff(corner)
    up = (at[:, None] - corner[None, :-2]) / width[None, :-1]
    down = (corner[None, 2:] - at[:, None]) / width[None, 1:]
    weights = np.maximum(0.0, np.minimum(up, down))
    if scale == "kaldi":
        weights[-1] = 0.0
    if scale == "slaney" if area is None else area:
        weights *= 2.0 / (edges[2:] - edges[:-2])
    weights.setflags(write=False)
    return weights


def empty_filters(weights_KM: Array) -> int:
    """Return how many filters meet no frequency of the transform, so that they would always say silence."""
    return int((weights_KM.sum(0) == 0).sum())


def dct_matrix(bins: int, coefficients: int) -> Array:
    """Return the first columns of the orthonormal DCT-II, float64 ``(bins, coefficients)``: log-mel to cepstrum.

    Raises:
        ConfigError: if there are more coefficients than bins, or none.
    """
    if not 1 <= coefficients <= bins:
        raise ConfigError(f"A cepstrum of {bins} bins has 1 to {bins} coefficients, found {coefficients}.")
    order, place = np.arange(coefficients), np.arange(bins)
    matrix = np.sqrt(2.0 / bins) * np.cos(np.pi / bins * (place[:, None] + 0.5) * order)
    matrix[:, 0] = np.sqrt(1.0 / bins)
    return matrix


def lifter_weights(coefficients: int, lifter: float) -> Array:
    """Return HTK's weights of cepstral coefficients, ``1 + L / 2 sin(pi n / L)`` with n from 0; all 1 for L = 0.

    librosa's formula counts n from 1.
    """
    if lifter == 0:
        return np.ones(coefficients)
    return 1.0 + lifter / 2 * np.sin(np.pi * np.arange(coefficients) / lifter)


class FilterBank:
    """The product with a filter bank, on the CPU without most of its zeros: about a quarter of the dense product's time.

    Each filter meets a narrow band of frequencies. Sixteen neighbours at a time, which is what a vector register holds of
    float32, are multiplied with the frequencies that any of them meets.

    Args:
        weights_KM: float64 weights.
        dtype, device: of what comes.
    """

    def __init__(self, weights_KM: np.ndarray, dtype: torch.dtype, device: torch.device) -> None:
        self.bins = weights_KM.shape[1]
        step = 16 if device.type == "cpu" else max(self.bins, 1)
        self.groups: list[tuple[int, int, Tensor]] = []
        for first in range(0, self.bins, step):
            part = weights_KM[:, first : first + step]
            met = np.nonzero(part.any(1))[0] if device.type == "cpu" else np.arange(len(part))
            low, high = (int(met[0]), int(met[-1]) + 1) if len(met) else (0, 1)
            padded = np.zeros((high - low, step))
            padded[:, : part.shape[1]] = part[low:high]
            self.groups.append((low, high, torch.tensor(padded, dtype=dtype, device=device)))

    def __call__(self, power_BnK: Tensor) -> Tensor:
        """Return what the filters let through, ``(B, n, bins)``."""
        flat = power_BnK.flatten(0, 1)
        through = torch.cat([flat[:, low:high] @ weights for low, high, weights in self.groups], 1)
        return through[:, : self.bins].unflatten(0, power_BnK.shape[:2])
