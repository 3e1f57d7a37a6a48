"""What a recogniser hears, as a picture: the mel spectrogram, what it holds for probable in each frame, the words over time.

Shapes: T samples, N frames of the spectrogram, U frames of the emissions, V symbols, S symbols that are shown.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from PIL import Image

from intermodal.core.transcript import Emissions, Transcript, Word
from intermodal.data.audio import Waveform
from intermodal.nn.speech_features import FeatureConfig, SpeechFeatures

WIDTH, DPI = 10.0, 160
"""Inches and dots an inch: 1,600 pixels across."""
SYMBOLS = 28
"""As many symbols are shown, those that are most probable at some time."""
LEAST = 0.05
"""Symbols that never reach this probability are not shown."""
COLUMNS = 1600
"""Spectrograms and posteriors of more frames are drawn by the loudest, or most probable, of neighbours."""
RANGE = 70.0
"""Decibels from the loudest to what is drawn black."""
HEARD, SAID, INK, SOFT, LINE = "#0d7d74", "#8a5a00", "#1d2733", "#5c6b7a", "#d7dee6"
HOP_MS, WINDOW_MS, BINS = 10.0, 25.0, 80


def draw_utterance(
    wave: Waveform,
    emissions: Emissions | None,
    rows: Sequence[tuple[str, Sequence[Word]]],
    *,
    title: str = "",
    width: float = WIDTH,
) -> Image.Image:
    """Return a recording's spectrogram, posteriors and words, one above the other over the same time.

    Args:
        wave: the recording.
        emissions: what the model says of each frame; None leaves the posteriors out.
        rows: names and words with times (``without a language model``, ``with one``); words without times are left out.
        title: above all.
        width: in inches.
    """
    kept = [(name, [w for w in words if w.start is not None and w.end is not None]) for name, words in rows]
    shown = [] if emissions is None else shown_symbols(emissions)
    tall = 0.17 * max(len(shown), 5) + 0.25 if emissions is not None and len(emissions.log_probs) else 0.0
    heights = [1.9, *([tall] if tall else []), *([0.5] * len(kept))]
    figure = Figure(figsize=(width, sum(heights) + 0.95), dpi=DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    grid = figure.subplots(len(heights), 1, sharex=True, gridspec_kw={"height_ratios": heights}, squeeze=False)
    axes: list[Axes] = [row[0] for row in grid]
    draw_spectrogram(axes[0], wave)
    if tall:
        assert emissions is not None
        _posteriors(axes[1], emissions, shown)
    for axis, (name, words) in zip(axes[len(axes) - len(kept) :], kept, strict=True):
        _words(axis, name, words)
    for axis in axes[:-1]:
        axis.tick_params(labelbottom=False, bottom=False)
    axes[-1].set_xlim(0, max(wave.seconds, 1e-3))
    axes[-1].set_xlabel("seconds", color=SOFT, fontsize=8)
    if title:
        figure.suptitle(literal(title), x=0.01, ha="left", fontsize=9.5, color=INK)
    return rendered(canvas)


def draw_transcript(
    wave: Waveform, emissions: Emissions | None, transcript: Transcript, title: str = ""
) -> Image.Image:
    """Return :func:`draw_utterance` of one transcript."""
    return draw_utterance(wave, emissions, [("heard", transcript.words)], title=title)


def mel_decibels(wave: Waveform) -> np.ndarray:
    """Return a recording's log-mel spectrogram in decibels below its loudest place, float32 ``(N, bins)``, -70 at least."""
    # Few samples a second have no room for 80 bands of different frequencies.
    bins = min(BINS, max(8, int(wave.rate * WINDOW_MS / 1000) // 4))
    config = FeatureConfig(
        rate=wave.rate, bins=bins, log="db", hop_ms=HOP_MS, window_ms=WINDOW_MS, pre_emphasis=0.0, remove_dc=False
    )
    with torch.inference_mode():
        features, _ = SpeechFeatures(config)(torch.from_numpy(wave.samples)[None])
    level = features[0].float().cpu().numpy()
    return np.clip(level - level.max(initial=-100.0), -RANGE, 0.0).astype(np.float32)


def shown_symbols(emissions: Emissions, most: int = SYMBOLS) -> list[int]:
    """Return the symbols worth a row, in the order in which they are first at their most probable; the blank comes first."""
    if not len(emissions.log_probs):
        return []
    top_V = emissions.log_probs.max(0)
    rows = [int(v) for v in np.argsort(-top_V, kind="stable") if top_V[v] >= np.log(LEAST)][:most]
    rows = [v for v in rows if v != emissions.blank]
    rows.sort(key=lambda v: int(emissions.log_probs[:, v].argmax()))
    return rows if emissions.blank is None else [emissions.blank, *rows]


def draw_spectrogram(axis: Axes, wave: Waveform) -> None:
    """Draw a recording's mel spectrogram over its seconds."""
    level_NF = thinned(mel_decibels(wave))
    axis.imshow(
        level_NF.T,
        origin="lower",
        aspect="auto",
        cmap="magma",
        vmin=-RANGE,
        vmax=0,
        extent=(0, wave.seconds, 0, level_NF.shape[1]),
        interpolation="nearest",
    )
    _framed(axis, "mel spectrogram")
    mel = 2595 * np.log10(1 + wave.rate / 2 / 700)
    low = 2595 * np.log10(1 + 20 / 700)
    marks = [hertz for hertz in (250, 1000, 2000, 4000, 8000) if hertz <= wave.rate / 2]
    places = [(2595 * np.log10(1 + hertz / 700) - low) / (mel - low) * level_NF.shape[1] for hertz in marks]
    axis.set_yticks(places, [f"{h / 1000:g} kHz" for h in marks])


def _posteriors(axis: Axes, emissions: Emissions, shown: Sequence[int]) -> None:
    probability_US = thinned(np.exp(emissions.log_probs[:, list(shown)]))
    seconds = len(emissions.log_probs) * emissions.frame_seconds
    axis.imshow(
        probability_US.T,
        aspect="auto",
        cmap=_fading(),
        vmin=0,
        vmax=1,
        extent=(0, seconds, len(shown) - 0.5, -0.5),
        interpolation="nearest",
    )
    _framed(axis, "posteriors")
    names = [_named(emissions.symbols[v], v == emissions.blank) for v in shown]
    axis.set_yticks(range(len(shown)), names, fontsize=6.5 if len(shown) > 12 else 7.5)
    for place in range(1, len(shown)):
        axis.axhline(place - 0.5, color=LINE, linewidth=0.4)


def _words(axis: Axes, name: str, words: Sequence[Word]) -> None:
    axis.set_ylim(0, 1)
    axis.set_yticks([])
    _framed(axis, "")
    axis.set_ylabel(literal(name), rotation=0, ha="right", va="center", fontsize=7.5, color=SOFT)
    for word in words:
        assert word.start is not None and word.end is not None
        sure = 1.0 if word.confidence is None else min(max(word.confidence, 0.0), 1.0)
        length = max(word.end - word.start, 0.01)
        box = FancyBboxPatch(
            (word.start, 0.1),
            length,
            0.8,
            boxstyle="round,pad=0,rounding_size=0.03",
            facecolor=(*_rgb(HEARD), 0.06 + 0.9 * sure**1.5),
            edgecolor=HEARD,
            linewidth=0.7,
        )
        axis.add_patch(box)
        middle, colour = word.start + length / 2, "white" if sure > 0.65 else INK
        axis.text(middle, 0.58, literal(word.text), ha="center", va="center", fontsize=7, color=colour, clip_on=True)
        if word.confidence is not None:
            axis.text(middle, 0.26, f"{sure:.0%}", ha="center", va="center", fontsize=5, color=colour, clip_on=True)


def _framed(axis: Axes, name: str) -> None:
    if name:
        axis.set_ylabel(name, fontsize=7.5, color=SOFT)
    axis.tick_params(labelsize=7, colors=SOFT, length=2, width=0.6)
    for spine in axis.spines.values():
        spine.set_color(LINE)


def _named(symbol: str, blank: bool) -> str:
    """Return a symbol as it can be read: the blank and the space have no letter of their own."""
    if blank:
        return "blank"
    return "space" if symbol in (" ", "|") else literal(symbol)


def literal(text: str) -> str:
    """Return a text that is drawn as it is: a dollar sign begins no formula."""
    return text.replace("$", r"\$")


def thinned(values_NF: np.ndarray) -> np.ndarray:
    """Return values of at most :data:`COLUMNS` frames: the largest of neighbours."""
    if len(values_NF) <= COLUMNS:
        return values_NF
    each = -(-len(values_NF) // COLUMNS)
    padding = -len(values_NF) % each
    padded = np.concatenate([values_NF, np.repeat(values_NF[-1:], padding, 0)])
    return padded.reshape(-1, each, values_NF.shape[1]).max(1)


def _fading() -> Any:
    """Return a map from white to the colour of what was heard."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("heard", ["#ffffff", "#8fd3cb", HEARD, "#063f3a"])


def _rgb(colour: str) -> tuple[float, float, float]:
    return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))  # type: ignore[return-value]


def rendered(canvas: FigureCanvasAgg) -> Image.Image:
    """Return what was drawn, as a picture."""
    buffer = io.BytesIO()
    canvas.print_png(buffer)
    buffer.seek(0)
    return Image.open(buffer).convert("RGB")
