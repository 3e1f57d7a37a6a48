"""An alignment as a picture: words and phones with their borders drawn over the spectrogram."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from intermodal.core.transcript import Alignment, Word
from intermodal.data.audio import Waveform
from intermodal.data.lexicon import SILENCE
from intermodal.evaluate.speech_pictures import DPI, INK, LINE, SOFT, WIDTH, draw_spectrogram, literal, rendered

PHONE, WORD, QUIET = "#8fd3cb", "#f7d08a", "#e9edf1"
LEAST_WIDTH, SECOND_WIDTH, MOST_WIDTH = WIDTH, 2.4, 60.0
"""Inches: at least, for each second of sound, and at most."""


def draw_alignment(wave: Waveform, alignment: Alignment, title: str = "") -> Image.Image:
    """Return a recording's spectrogram with the borders of words (solid) and phones (dotted), and their names below.

    Args:
        wave: the recording.
        alignment: of its text.
        title: above all.
    """
    rows = [("phones", alignment.phones, PHONE), ("words", alignment.words, WORD)]
    rows = [row for row in rows if row[1]]
    width = min(max(LEAST_WIDTH, SECOND_WIDTH * wave.seconds), MOST_WIDTH)
    figure = Figure(figsize=(width, 2.6 + 0.42 * len(rows)), dpi=DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    heights = [2.2, *[0.42] * len(rows)]
    grid = figure.subplots(len(heights), 1, sharex=True, gridspec_kw={"height_ratios": heights}, squeeze=False)
    axes: list[Axes] = [row[0] for row in grid]
    draw_spectrogram(axes[0], wave)
    for word in alignment.phones:
        _borders(axes[0], word, "dotted", 0.7)
    for word in alignment.words:
        _borders(axes[0], word, "solid", 1.1)
    inches = width * 0.9 / max(wave.seconds, 1e-3)
    for axis, (name, words, colour) in zip(axes[1:], rows, strict=True):
        _row(axis, name, words, colour, inches)
    for axis in axes[:-1]:
        axis.tick_params(labelbottom=False, bottom=False)
    axes[-1].set_xlim(0, max(wave.seconds, 1e-3))
    axes[-1].set_xlabel("seconds", color=SOFT, fontsize=8)
    axes[-1].tick_params(labelsize=7, colors=SOFT, length=2, width=0.6)
    if title:
        figure.suptitle(literal(title), x=0.01, ha="left", fontsize=9.5, color=INK)
    return rendered(canvas)


def _borders(axis: Axes, word: Word, style: str, width: float) -> None:
    for place in (word.start, word.end):
        if place is not None:
            axis.axvline(place, color="white", linestyle=style, linewidth=width, alpha=0.85)


def _row(axis: Axes, name: str, words: Sequence[Word], colour: str, inches: float) -> None:
    """Draw one row of names; those too long for their place are drawn smaller, silence grey and without a name."""
    axis.set_ylim(0, 1)
    axis.set_yticks([])
    axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=7.5, color=SOFT)
    for spine in axis.spines.values():
        spine.set_color(LINE)
    for word in words:
        if word.start is None or word.end is None:
            continue
        quiet = word.text == SILENCE
        axis.axvspan(word.start, word.end, color=QUIET if quiet else colour, linewidth=0)
        axis.axvline(word.start, color="white", linewidth=1.0)
        if quiet:
            continue
        room = (word.end - word.start) * inches * 72 / (0.72 * max(len(word.text), 1))
        size = min(8.0, room)
        if size >= 3.0:
            middle = (word.start + word.end) / 2
            axis.text(middle, 0.5, literal(word.text), ha="center", va="center", fontsize=size, color=INK, clip_on=True)
