"""The steps from a wave to features as one picture: sampling, a window, its spectrum, aliasing, mel filters, cepstra.

Shapes: T samples, N frames, K frequencies of the transform, M filters, F features of a frame.
"""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from PIL import Image

from intermodal.data.audio import Waveform, resample
from intermodal.evaluate.speech_pictures import HEARD, INK, LINE, RANGE, SAID, SOFT, rendered, thinned
from intermodal.nn.mel import hz_to_mel, mel_edges
from intermodal.nn.speech_features import FeatureConfig, SpeechFeatures

WIDTH, DPI = 10.0, 150
SHOWN_MS = 4.0
"""So much of the window is shown sample by sample."""
ALIAS_MS = 64.0
"""So much around the window goes into the picture of aliasing."""
POINTS = 3000
"""A wave of more samples is drawn by the lowest and highest of neighbours."""
BELOW = 90.0
"""Decibels under the loudest that a spectrum is drawn down to."""


def draw_features(wave: Waveform, config: FeatureConfig, title: str = "") -> Image.Image:
    """Return the picture of every step for one recording.

    Args:
        wave: the recording, at the configuration's rate.
        config: of the features; ``bins`` and ``coefficients`` count, whatever its kind.
        title: above all.
    """
    plain = config.replace(kind="log_mel", deltas=0, cmvn="none", energy=False, log="ln", top_db=None, drop_last=False)
    shown = _Loudest(wave, plain)
    figure = Figure(figsize=(WIDTH, 12.6), dpi=DPI, layout="constrained", facecolor="white")
    canvas = FigureCanvasAgg(figure)
    grid = figure.add_gridspec(6, 1, height_ratios=[1.1, 1.7, 1.7, 1.7, 1.8, 1.5])

    def halves(row: int, widths: tuple[float, float]) -> tuple[Axes, Axes]:
        inner = grid[row].subgridspec(1, 2, width_ratios=widths)
        return figure.add_subplot(inner[0]), figure.add_subplot(inner[1])

    _wave(figure.add_subplot(grid[0]), wave, shown)
    left, right = halves(1, (1, 1.5))
    _sampling(left, shown)
    _window(right, shown)
    left, right = halves(2, (1, 1))
    _spectrum(left, shown)
    _aliasing(right, wave, shown)
    left, right = halves(3, (1.9, 1))
    _filters(left, plain)
    _scales(right, plain)
    _bands(figure.add_subplot(grid[4]), wave, plain)
    cepstra = plain.replace(kind="mfcc", coefficients=min(config.coefficients, config.bins))
    _cepstra(figure.add_subplot(grid[5]), wave, cepstra)
    if title:
        figure.suptitle(title.replace("$", r"\$"), x=0.01, ha="left", fontsize=10, color=INK)
    return rendered(canvas)


class _Loudest:
    """The window with the most energy, and what each step makes of it."""

    def __init__(self, wave: Waveform, config: FeatureConfig) -> None:
        self.config, self.rate = config, wave.rate
        self.features = SpeechFeatures(config)
        samples = torch.from_numpy(wave.samples)[None]
        length = torch.tensor([len(wave.samples)])
        count = max(self.features.frames(len(wave.samples)), 1)
        span = self.features.span(samples, length, 0, count) / config.scale
        size, hop = config.window_samples, config.hop_samples
        energy = torch.stack([span[0, n * hop : n * hop + size].square().sum() for n in range(count)])
        self.number = int(energy.argmax())
        first = self.number * hop
        piece = span[:, first : first + config.points]
        self.begin = first + self.features.offset
        self.raw = piece[0, :size].numpy()
        self.done = self.features.windows(piece)[0, 0, :size].numpy()
        self.taper = config.taper()
        self.milliseconds = np.arange(size) / wave.rate * 1000
        self.power = self.features.spectra(piece)[0, 0].numpy()
        padded = np.zeros(config.points)
        padded[:size] = self.raw
        self.plain = np.abs(np.fft.rfft(padded)) ** 2


def _wave(axis: Axes, wave: Waveform, shown: _Loudest) -> None:
    seconds = np.arange(len(wave.samples)) / wave.rate
    if len(wave.samples) > POINTS:
        each = -(-len(wave.samples) // (POINTS // 2))
        padded = np.pad(wave.samples, (0, -len(wave.samples) % each), mode="edge").reshape(-1, each)
        middle = (np.arange(len(padded)) + 0.5) * each / wave.rate
        axis.fill_between(middle, padded.min(1), padded.max(1), color=HEARD, linewidth=0.3)
    else:
        axis.plot(seconds, wave.samples, color=HEARD, linewidth=0.7)
    size = shown.config.window_samples / wave.rate
    begin = shown.begin / wave.rate
    axis.axvspan(begin, begin + size, color=SAID, alpha=0.35, linewidth=0)
    axis.set_xlim(0, max(wave.seconds, 1e-3))
    _titled(axis, "1  Wave, and its loudest window", "seconds")


def _sampling(axis: Axes, shown: _Loudest) -> None:
    size = max(min(round(SHOWN_MS * shown.rate / 1000), len(shown.raw)), 2)
    start = (len(shown.raw) - size) // 2
    taken = slice(start, start + size)
    finer, fold = np.fft.rfft(shown.raw), 16
    smooth = np.fft.irfft(finer, len(shown.raw) * fold) * fold  # the band-limited curve through all samples
    time = np.arange(len(smooth)) / (shown.rate * fold) * 1000
    axis.plot(time[start * fold : (start + size - 1) * fold + 1], smooth[start * fold : (start + size - 1) * fold + 1],
              color=LINE, linewidth=2)  # fmt: skip
    axis.vlines(shown.milliseconds[taken], 0, shown.raw[taken], color=HEARD, linewidth=0.6, alpha=0.6)
    axis.plot(shown.milliseconds[taken], shown.raw[taken], "o", color=HEARD, markersize=2.6)
    axis.axhline(0, color=LINE, linewidth=0.6)
    _titled(axis, f"2  Sampling: {shown.rate:,} numbers a second", "milliseconds within the window")


def _window(axis: Axes, shown: _Loudest) -> None:
    scale = max(float(np.abs(shown.done).max()), 1e-12)
    loud = max(float(np.abs(shown.raw).max()), 1e-12)
    axis.plot(shown.milliseconds, shown.raw / loud, color="#9aa7b4", linewidth=0.8, label="as it is")
    axis.plot(shown.milliseconds, shown.done / scale, color=HEARD, linewidth=1.0, label="emphasised and tapered")
    axis.plot(shown.milliseconds, shown.taper, color=SAID, linewidth=0.9, linestyle="--", label="taper")
    axis.set_ylim(-1.1, 1.5)
    axis.legend(loc="upper center", ncols=3, frameon=False, fontsize=7, labelcolor=INK, handlelength=1.4)
    emphasis = f"pre-emphasis {shown.config.pre_emphasis:g}" if shown.config.pre_emphasis else "no pre-emphasis"
    _titled(axis, f"3  One window: {shown.config.window_ms:g} ms, {shown.config.window}, {emphasis}", "milliseconds")


def _spectrum(axis: Axes, shown: _Loudest) -> None:
    kilohertz = np.arange(len(shown.power)) * shown.rate / shown.config.points / 1000
    axis.plot(kilohertz, _decibels(shown.plain), color="#9aa7b4", linewidth=0.8, label="as it is")
    axis.plot(kilohertz, _decibels(shown.power), color=HEARD, linewidth=1.0, label="emphasised and tapered")
    axis.set_ylim(-BELOW, 12)
    axis.set_xlim(0, kilohertz[-1])
    axis.legend(loc="lower left", ncols=2, frameon=False, fontsize=7, labelcolor=INK, handlelength=1.4)
    _titled(axis, f"4  Its spectrum: transform of {shown.config.points} points, in dB", "kHz")


def _aliasing(axis: Axes, wave: Waveform, shown: _Loudest) -> None:
    """Draw what keeping every n-th sample does with and without a filter before it."""
    step = 4 if shown.rate >= 16000 else 2
    size = round(ALIAS_MS * shown.rate / 1000)
    start = max(shown.begin + shown.config.window_samples // 2 - size // 2, 0)
    piece = wave.samples[start : start + size]
    piece = np.pad(piece, (0, size - len(piece))).astype(np.float64)
    filtered = resample(wave.samples, shown.rate, shown.rate / step)[start // step : start // step + size // step]
    filtered = np.pad(filtered, (0, size // step - len(filtered)))
    whole = _level(piece)
    top = float(whole.max())
    axis.plot(*_over(piece, shown.rate, top), color="#9aa7b4", linewidth=0.7, label="all samples")
    axis.plot(
        *_over(piece[::step], shown.rate / step, top), color=SAID, linewidth=0.9, label=f"every {_nth(step)} sample"
    )
    axis.plot(*_over(filtered, shown.rate / step, top), color=HEARD, linewidth=0.9, label="filtered first")
    axis.axvline(shown.rate / step / 2000, color=INK, linewidth=0.7, linestyle=":")
    axis.set_xlim(0, shown.rate / 2000)
    axis.set_ylim(-BELOW, 12)
    axis.legend(
        loc="lower right", ncols=3, frameon=False, fontsize=6.5, labelcolor=INK, handlelength=1.2, columnspacing=0.9
    )
    _titled(axis, f"5  Aliasing: what lies above {shown.rate / step / 2000:g} kHz folds back", "kHz")


def _filters(axis: Axes, config: FeatureConfig) -> None:
    bank = config.bank() / config.bank().max()
    kilohertz = np.arange(len(bank)) * config.rate / config.points / 1000
    for first, colour in enumerate((HEARD, SAID)):
        shapes = []
        for m in range(first, config.bins, 2):
            place = np.nonzero(bank[:, m])[0]
            if len(place):
                part = slice(max(place[0] - 1, 0), place[-1] + 2)
                shapes.append(np.stack([kilohertz[part], bank[part, m]], 1))
        axis.add_collection(PolyCollection(shapes, facecolors=to_rgba(colour, 0.1), edgecolors=colour, linewidths=0.7))
    axis.set_xlim(0, kilohertz[-1])
    axis.set_ylim(0, 1.12)
    axis.set_yticks([])
    scale = {"htk": "HTK", "slaney": "Slaney", "kaldi": "Kaldi"}[config.mel]
    _titled(axis, f"6  Filter bank: {config.bins} triangles equally far apart in mel ({scale})", "kHz")


def _scales(axis: Axes, config: FeatureConfig) -> None:
    hertz = np.linspace(0, config.rate / 2, 400)
    for scale, name, style in (("htk", "HTK and Kaldi", "-"), ("slaney", "Slaney", "--")):
        mel = hz_to_mel(hertz, scale)  # type: ignore[arg-type]
        own = (config.mel == "slaney") == (scale == "slaney")
        axis.plot(hertz / 1000, mel / mel[-1], style, color=HEARD if own else "#9aa7b4", label=name, linewidth=1.2)
    axis.plot([0, hertz[-1] / 1000], [0, 1], ":", color=LINE, linewidth=1)
    axis.set_xlim(0, hertz[-1] / 1000)
    axis.set_ylim(0, 1.02)
    axis.legend(loc="lower right", frameon=False, fontsize=7, labelcolor=INK, handlelength=1.8)
    _titled(axis, "Mel over frequency (share of the whole)", "kHz")


def _bands(axis: Axes, wave: Waveform, config: FeatureConfig) -> None:
    level_NF = _frames(wave, config) * (10 / np.log(10))
    if not len(level_NF):
        level_NF = np.full((1, config.bins), 0.0)
    top = float(level_NF.max())
    image = axis.imshow(
        thinned(level_NF - top).T, origin="lower", aspect="auto", cmap="magma", vmin=-RANGE, vmax=0,
        extent=(0, max(wave.seconds, 1e-3), 0, config.bins), interpolation="nearest",
    )  # fmt: skip
    centres = mel_edges(config.mel, config.bins, config.low, config.high or config.rate / 2)[1:-1]
    marks = [hz for hz in (250, 500, 1000, 2000, 4000, 8000) if centres[0] <= hz <= centres[-1]]
    axis.set_yticks([float(np.interp(hz, centres, np.arange(config.bins) + 0.5)) for hz in marks])
    axis.set_yticklabels([f"{hz / 1000:g} kHz" for hz in marks])
    _titled(axis, "7  Log-mel bands, in dB below the loudest", "seconds")
    _bar(image, axis)


def _cepstra(axis: Axes, wave: Waveform, config: FeatureConfig) -> None:
    cepstrum_NF = _frames(wave, config)
    if not len(cepstrum_NF):
        cepstrum_NF = np.zeros((1, config.coefficients))
    spread = cepstrum_NF.std(0)
    standard = (cepstrum_NF - cepstrum_NF.mean(0)) / np.where(spread > 1e-6, spread, 1.0)
    image = axis.imshow(
        thinned(standard.astype(np.float32)).T, origin="lower", aspect="auto", cmap="RdBu_r", vmin=-2.5, vmax=2.5,
        extent=(0, max(wave.seconds, 1e-3), -0.5, config.coefficients - 0.5), interpolation="nearest",
    )  # fmt: skip
    axis.set_yticks(range(0, config.coefficients, 3))
    about = f"8  MFCC: {config.coefficients} coefficients of a cosine transform of the bands, each standardised"
    _titled(axis, about, "seconds")
    _bar(image, axis)


def _frames(wave: Waveform, config: FeatureConfig) -> np.ndarray:
    with torch.inference_mode():
        return SpeechFeatures(config)(torch.from_numpy(wave.samples)[None])[0][0].numpy()


def _decibels(power: np.ndarray) -> np.ndarray:
    top = float(power.max())
    return 10 * np.log10(np.maximum(power, 1e-30) / max(top, 1e-30)).clip(min=-2 * BELOW)


def _level(samples: np.ndarray) -> np.ndarray:
    """Return the power of a piece's frequencies, by a Hann window, the same for the same sound at any rate."""
    taper = np.hanning(len(samples)) if len(samples) > 2 else np.ones(len(samples))
    return (np.abs(np.fft.rfft(samples * taper)) / max(taper.sum(), 1e-12)) ** 2


def _over(samples: np.ndarray, rate: float, top: float) -> tuple[np.ndarray, np.ndarray]:
    power = _level(samples)
    kilohertz = np.arange(len(power)) * rate / max(len(samples), 1) / 1000
    return kilohertz, 10 * np.log10(np.maximum(power, 1e-30) / max(top, 1e-30)).clip(min=-2 * BELOW)


def _nth(step: int) -> str:
    return {2: "second", 4: "fourth"}[step]


def _bar(image: AxesImage, axis: Axes) -> None:
    place = axis.inset_axes((1.008, 0.0, 0.012, 1.0))
    bar = axis.figure.colorbar(image, cax=place)
    place.tick_params(labelsize=6.5, colors=SOFT, length=2, width=0.6)
    bar.outline.set_visible(False)


def _titled(axis: Axes, title: str, x: str) -> None:
    axis.set_title(title, fontsize=8.5, color=INK, loc="left", pad=4)
    axis.set_xlabel(x, fontsize=7, color=SOFT, labelpad=1)
    axis.tick_params(labelsize=7, colors=SOFT, length=2, width=0.6)
    for spine in axis.spines.values():
        spine.set_color(LINE)
    if (legend := axis.get_legend()) is not None:
        legend.set_in_layout(False)
