"""What a recogniser hears: windows of a waveform, their spectra, mel bands, cepstra; batched or while sound arrives.

:class:`SpeechFeatures` turns waveforms into frames of numbers in the steps that every recogniser since the 1980s shares
(Davis & Mermelstein 1980): take windows of some 25 ms every 10 ms, take off their mean, emphasise high frequencies, taper,
Fourier transform, sum the power in bands equally wide in mel, take the logarithm, and perhaps decorrelate by a cosine
transform (MFCC), add the slopes over time (deltas) and normalise (cepstral mean and variance normalisation). Each library
does it a little differently; :meth:`FeatureConfig.kaldi`, :meth:`FeatureConfig.librosa` and :meth:`FeatureConfig.whisper`
give their numbers.

A sample's frames do not depend on what else is in its batch, and :meth:`SpeechFeatures.stream` gives the same frames while
the samples arrive in pieces.

Shapes: B recordings, T samples, N frames, K frequencies of the transform, F features of a frame.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from typing import overload

import numpy as np
import torch
from torch import Tensor, nn

from intermodal.core.errors import ConfigError, DataError
from intermodal.nn.cepstral import Deltas, Moments, Sliding, by_utterance
from intermodal.nn.feature_config import FeatureConfig
from intermodal.nn.feature_stream import FeatureStream
from intermodal.nn.mel import FilterBank, dct_matrix, lifter_weights
from intermodal.nn.spec_augment import SpecAugmentConfig, spec_augment
from intermodal.nn.time_conv import frames_up_to

__all__ = ["FeatureConfig", "FeatureStream", "SpecAugmentConfig", "SpeechFeatures", "spec_augment"]

FRAMES_AT_A_TIME = 1024
"""Frames in flight: their windows and spectra stay in the processor's cache."""


@dataclasses.dataclass(frozen=True)
class _Tables:
    """The constants of a configuration, in one dtype on one device."""

    window: Tensor  # (points,), zeros behind the window
    first: float  # the window's first value
    bank: FilterBank
    dct: Tensor  # (bins, coefficients), lifter included


@functools.lru_cache(maxsize=64)
def _tables(config: FeatureConfig, dtype: torch.dtype, device: torch.device) -> _Tables:
    taper = config.taper()
    padded = np.zeros(config.points)
    padded[: len(taper)] = taper
    bank = np.zeros((config.points // 2 + 1, 0)) if config.kind == "spectrum" else config.bank()
    dct = np.zeros((0, 0))
    if config.kind == "mfcc":
        dct = dct_matrix(config.bins, config.coefficients) * lifter_weights(config.coefficients, config.lifter)
    window, dct_MC = (torch.tensor(t, dtype=dtype, device=device) for t in (padded, dct))
    return _Tables(window, float(taper[0]), FilterBank(bank, dtype, device), dct_MC)


class SpeechFeatures(nn.Module):
    """Waveforms -> frames of features.

    Args:
        config: which.

    Attributes:
        mean, deviation, count: ``(F,)``, ``(F,)`` and how many frames they are of; with ``cmvn="global"`` alone, fitted by
            :meth:`fit` and saved with the model.
    """

    mean: Tensor
    deviation: Tensor
    count: Tensor

    def __init__(self, config: FeatureConfig) -> None:
        super().__init__()
        self.config = config
        self._fitted = False
        if config.cmvn == "global":
            self.register_buffer("mean", torch.zeros(config.size))
            self.register_buffer("deviation", torch.ones(config.size))
            self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @property
    def size(self) -> int:
        """F: features of a frame."""
        return self.config.size

    @property
    def frame_seconds(self) -> float:
        """Seconds from one frame to the next."""
        return self.config.hop_samples / self.config.rate

    @overload
    def frames(self, length: int) -> int: ...
    @overload
    def frames(self, length: Tensor) -> Tensor: ...
    def frames(self, length: int | Tensor) -> int | Tensor:
        """Return how many frames recordings of ``length`` samples have: an int of an int, int64 of a tensor."""
        number = torch.as_tensor(length)
        hop, window = self.config.hop_samples, self.config.window_samples
        if self.config.edges == "inside":
            count = torch.where(number < window, 0, 1 + torch.div(number - window, hop, rounding_mode="floor"))
        elif self.config.edges == "mirror":
            count = torch.div(number + hop // 2, hop, rounding_mode="floor")
        else:
            count = 1 + torch.div(number, hop, rounding_mode="floor")
        count = (count - int(self.config.drop_last)).clamp(min=0)
        return count if isinstance(length, Tensor) else int(count)

    def forward(self, wave_BT: Tensor, length_B: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return features ``(B, N, F)`` and how many frames each recording has, int64 ``(B,)``.

        Args:
            wave_BT: samples in -1..1 at the configuration's rate; float32 or float64, which the features are in too (half
                precision is computed in float32). What lies beyond a recording's length does not matter.
            length_B: samples of each recording; all by default.

        Returns:
            The features, 0 beyond a recording's frames; N is the most frames of any recording, and may be 0.

        Raises:
            DataError: if the samples are not floating point ``(B, T)``, or a length lies outside 0..T.
            ConfigError: if global normalisation has not been fitted.
        """
        wave_BT, length_B = self._checked(wave_BT, length_B)
        with torch.autocast(wave_BT.device.type, enabled=False):
            feature_BNF, frames_B = self._plain(wave_BT, length_B)
            return self._normalised(feature_BNF, frames_B), frames_B

    def fit(self, recordings: Iterable[tuple[Tensor, Tensor | None]]) -> None:
        """Set the figures of global normalisation from batches of ``(wave_BT, length_B)``, which are gone through once.

        Raises:
            ConfigError: if the configuration's ``cmvn`` is not ``global``.
            DataError: if there is no frame in them.
        """
        if self.config.cmvn != "global":
            raise ConfigError(f"Only cmvn='global' is fitted from data, found {self.config.cmvn!r}.")
        moments = Moments(self.size)
        with torch.no_grad():
            for wave_BT, length_B in recordings:
                moments.add(*self._plain(*self._checked(wave_BT, length_B)))
        mean, deviation = moments.result()
        self.mean.copy_(mean)
        self.deviation.copy_(deviation if self.config.cmvn_variance else torch.ones_like(deviation))
        self.count.fill_(moments.count)

    def stream(self) -> FeatureStream:
        """Return what gives the same frames while samples arrive.

        Raises:
            ConfigError: if a part of the features needs the whole recording (:attr:`FeatureConfig.whole` says which).
        """
        return FeatureStream(self)

    # The steps, each on tensors.

    def bands(self, span_BP: Tensor, count: int) -> Tensor:
        """Return what ``count`` windows give before :meth:`cepstra`, ``(B, count, M)``, one window at a time.

        Args:
            span_BP: scaled samples; the first window begins at the first, and behind the last window there are
                ``points - window_samples`` more, which do not matter.
            count: how many windows.
        """
        config = self.config
        step = max(1, FRAMES_AT_A_TIME // max(len(span_BP), 1))
        hop, reach = config.hop_samples, config.points
        parts = []
        for first in range(0, count, step):
            taken = min(step, count - first)
            start = first * hop
            parts.append(self._bands(span_BP[:, start : start + (taken - 1) * hop + reach]))
        if not parts:
            return span_BP.new_zeros(
                len(span_BP), 0, config.statics if config.kind == "spectrum" else config.bins + config.energy
            )
        return torch.cat(parts, 1) if len(parts) > 1 else parts[0]

    def _bands(self, span_BP: Tensor) -> Tensor:
        config, tables = self.config, _tables(self.config, span_BP.dtype, span_BP.device)
        power_BnK = self.spectra(span_BP)
        if config.power == 1:
            power_BnK = power_BnK.sqrt()
        if config.kind == "spectrum":
            return self._logarithm(power_BnK)
        feature = self._logarithm(tables.bank(power_BnK))
        if not config.energy:
            return feature
        frame = span_BP.unfold(-1, config.points, config.hop_samples)[..., : config.window_samples]
        if config.remove_dc:
            frame = frame - frame.mean(-1, keepdim=True)
        energy = frame.square().sum(-1, keepdim=True).clamp(min=config.floor).log()
        return torch.cat([energy, feature], -1)

    # --8<-- [start:window]
    def windows(self, span_BP: Tensor) -> Tensor:
        """Return the windows of a span, emphasised and tapered, ``(B, n, points)`` with zeros behind each."""
        config, tables = self.config, _tables(self.config, span_BP.dtype, span_BP.device)
        hop, size, points, a = config.hop_samples, config.window_samples, config.points, config.pre_emphasis
        source = span_BP
        if a:
            source = torch.empty_like(span_BP)
            source[:, 0] = span_BP[:, 0]
            source[:, 1:] = span_BP[:, 1:] - a * span_BP[:, :-1]
        frame = source.unfold(-1, points, hop) * tables.window
        if a and tables.first:  # the first sample of a window is its own predecessor
            frame[..., 0] = span_BP.unfold(-1, points, hop)[..., 0] * (tables.first * (1 - a))
        if config.remove_dc:
            mean = span_BP.unfold(-1, points, hop)[..., :size].mean(-1, keepdim=True)
            frame = frame.addcmul_(mean, tables.window, value=a - 1)
        return frame

    def spectra(self, span_BP: Tensor) -> Tensor:
        """Return the power of each frequency of each window, ``(B, n, K)``."""
        spectrum = torch.fft.rfft(self.windows(span_BP))
        return spectrum.real.square() + spectrum.imag.square()

    # --8<-- [end:window]

    def _logarithm(self, value: Tensor) -> Tensor:
        log, floor = self.config.log, self.config.floor
        if log == "none":
            return value
        value = value.clamp(min=floor)
        if log == "ln":
            return value.log()
        return value.log10() * 10 if log == "db" else value.log10()

    def span(self, wave_BT: Tensor, length_B: Tensor, first: int, count: int, origin: int = 0) -> Tensor:
        """Return the samples that windows ``first`` to ``first + count`` are cut from, ``(B, P)``, scaled and with edges.

        Args:
            wave_BT: samples of which the first is number ``origin`` of the recording; 0 beyond a recording's length.
            length_B: samples of each whole recording.
            first: the first window's number.
            count: how many windows.
            origin: what lies before it is needed by no edge.
        """
        config, size = self.config, wave_BT.shape[1]
        begin = first * config.hop_samples + self.offset
        end = begin + (count - 1) * config.hop_samples + config.points
        span = wave_BT.new_zeros(len(wave_BT), max(end - begin, 0))
        left, right = max(begin, origin), min(end, origin + size)
        if right > left:
            span[:, left - begin : right - begin] = wave_BT[:, left - origin : right - origin]
        if size and config.edges in ("reflect", "mirror"):
            if begin < 0:
                self._fill(
                    span,
                    wave_BT,
                    torch.arange(begin, 0, device=span.device)[None],
                    length_B,
                    begin=begin,
                    origin=origin,
                )
            beyond = torch.arange(config.points + config.hop_samples, device=span.device)
            self._fill(span, wave_BT, length_B[:, None] + beyond, length_B, begin=begin, origin=origin)
        return span * config.scale if config.scale != 1 else span

    def _fill(
        self, span: Tensor, wave_BT: Tensor, place_BE: Tensor, length_B: Tensor, *, begin: int, origin: int
    ) -> None:
        """Write what is taken to lie at places outside of the recordings into their span, as far as it reaches."""
        place_BE = place_BE.expand(len(wave_BT), -1)
        source = _reflected(place_BE, length_B[:, None], self.config.edges == "mirror") - origin
        value = wave_BT.gather(1, source.clamp(0, wave_BT.shape[1] - 1))
        target = place_BE - begin
        inside = (target >= 0) & (target < span.shape[1])
        row = torch.arange(len(span), device=span.device)[:, None].expand_as(target)
        span.index_put_((row[inside], target[inside]), value[inside])

    @property
    def offset(self) -> int:
        """Return where the first window begins, in samples from the recording's beginning."""
        config = self.config
        if config.edges == "inside":
            return 0
        if config.edges == "mirror":
            return config.hop_samples // 2 - config.window_samples // 2
        return (config.points - config.window_samples) // 2 - config.points // 2

    def _checked(self, wave_BT: Tensor, length_B: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return samples in float32 or float64, zero beyond their lengths, and the lengths."""
        if wave_BT.ndim != 2 or not wave_BT.is_floating_point():
            raise DataError(
                f"Features take floating-point samples of shape (recordings, samples), found {wave_BT.dtype} of shape "
                f"{tuple(wave_BT.shape)}."
            )
        if wave_BT.dtype not in (torch.float32, torch.float64):
            wave_BT = wave_BT.float()
        size = wave_BT.shape[1]
        if length_B is None:
            return wave_BT, torch.full((len(wave_BT),), size, device=wave_BT.device)
        length_B = length_B.to(wave_BT.device, torch.int64)
        shortest, longest = (int(v) for v in length_B.aminmax()) if len(length_B) else (size, size)
        if length_B.shape != (len(wave_BT),) or shortest < 0 or longest > size:
            raise DataError(
                f"Features need one length for each of {len(wave_BT)} recordings, 0 to {size}, found "
                f"{length_B.tolist()[:8]}."
            )
        if shortest < size:
            beyond = ~frames_up_to(length_B, size)
            wave_BT = wave_BT.masked_fill(beyond, 0.0)
        return wave_BT, length_B

    def _plain(self, wave_BT: Tensor, length_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return features without normalisation, and frames."""
        frames_B = self.frames(length_B)
        count = int(frames_B.max()) if len(frames_B) else 0
        feature = self.bands(self.span(wave_BT, length_B, 0, count), count)
        feature = self.cepstra(self._levelled(feature, frames_B))
        if self.config.deltas:
            feature = Deltas(self.config.deltas, self.config.delta_window)(feature, frames_B)
        return feature, frames_B

    def cepstra(self, feature_BNM: Tensor) -> Tensor:
        """Return the cepstra of log-mel frames, with ``kind="mfcc"``; else the frames as they are."""
        config = self.config
        if config.kind != "mfcc":
            return feature_BNM
        dct = _tables(config, feature_BNM.dtype, feature_BNM.device).dct
        if not config.energy:
            return feature_BNM @ dct
        return torch.cat([feature_BNM[..., :1], feature_BNM[..., 1:] @ dct[:, 1:]], -1)

    def _levelled(self, feature_BNF: Tensor, frames_B: Tensor) -> Tensor:
        """Apply what goes by the loudest place of a recording."""
        config = self.config
        reach = 8.0 if config.log == "whisper" else config.top_db
        if reach is None or not feature_BNF.numel():
            return feature_BNF
        loudest = _without(feature_BNF, frames_B, -torch.inf).amax((1, 2), keepdim=True)
        level = torch.maximum(feature_BNF, loudest - reach)
        return (level + 4) / 4 if config.log == "whisper" else level

    def _normalised(self, feature_BNF: Tensor, frames_B: Tensor) -> Tensor:
        """Apply the normalisation, and set what lies beyond a recording's frames to 0."""
        config = self.config
        if config.cmvn == "utterance":
            feature_BNF = by_utterance(feature_BNF, frames_B, config.cmvn_variance)
        elif config.cmvn == "sliding":
            feature_BNF = Sliding(config.cmvn_window, config.cmvn_min, config.cmvn_variance)(feature_BNF, frames_B)
        elif config.cmvn == "global":
            feature_BNF = self.standardised(feature_BNF)
        return _without(feature_BNF, frames_B, 0.0)

    def standardised(self, feature_BNF: Tensor) -> Tensor:
        """Return features less the fitted mean, over the fitted deviation.

        Raises:
            ConfigError: if they have not been fitted.
        """
        if not self._fitted:
            if not int(self.count):
                raise ConfigError(
                    "Global normalisation (cmvn='global') is not fitted yet: call SpeechFeatures.fit first."
                )
            self._fitted = True
        return (feature_BNF - self.mean.to(feature_BNF)) / self.deviation.to(feature_BNF)


def _without(feature_BNF: Tensor, frames_B: Tensor, fill: float) -> Tensor:
    """Return features with ``fill`` in what lies beyond a recording's frames."""
    size = feature_BNF.shape[1]
    if len(frames_B) == 1 or not size:  # one recording is as long as itself
        return feature_BNF
    beyond = ~frames_up_to(frames_B, size)
    return feature_BNF.masked_fill(beyond[..., None], fill)


def _reflected(place: Tensor, length: Tensor, repeat: bool) -> Tensor:
    """Return which of ``length`` samples is taken to lie at a place outside; ``repeat``: the outermost comes twice."""
    if repeat:
        period = (2 * length).clamp(min=1)
        place = place % period
        return torch.minimum(place, period - 1 - place)
    period = (2 * (length - 1)).clamp(min=1)
    place = place % period
    return torch.minimum(place, period - place) * (length > 1)
