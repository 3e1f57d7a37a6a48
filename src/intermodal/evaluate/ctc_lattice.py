"""CTC's alignment lattice as a picture: the states over the frames, how probable each is, and the best path through them.

Rows are the states, from the first blank below to the last above; a dark field is one in which nearly all the probability of
the text's paths passes. What training does to them is the whole of CTC: first a broad band, then a staircase of symbols
between blanks.

    T frames   V symbols   U symbols of the text   S = 2 U + 1 states
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from PIL import Image

from intermodal.core.transcript import Emissions
from intermodal.losses.ctc import ctc_align, ctc_occupations

Array = np.ndarray[Any, Any]

INK, SOFT, LINE, ROW, PATH = "#1d2733", "#5c6b7a", "#d7dee6", "#f1f4f7", "#c8461e"
NOTHING = 0.03
"""Fields below the square of it are left empty."""
PAPER = LinearSegmentedColormap.from_list("paper", ["#ffffff", "#d5ebe8", "#6fb9b1", "#0d7d74", "#063f3b"])
DPI = 160
MOST_NAMED = 60
"""Beyond so many symbols, their names would lie upon one another, and every second, third and so on is left out."""


def draw_lattice(emissions: Emissions, target_U: Sequence[int], *, title: str = "", width: float = 10.0) -> Image.Image:
    """Return the lattice of a text over an utterance's frames, with the occupations in colour and the best path over them.

    Below it stand the probability that the frame is a blank, and that it is the symbol of the best path.

    Args:
        emissions: what a CTC model says of each frame.
        target_U: the text, as numbers of symbols.
        title: above the picture; the text's symbols by default.
        width: in inches; the height goes with the text's length.

    Raises:
        DataError: if the text does not fit into the frames, or a log-probability is not a number.
    """
    blank = emissions.blank if emissions.blank is not None else 0
    target = np.asarray(target_U, np.int64)
    occupied_TS, log_p = ctc_occupations(emissions.log_probs, target, blank=blank)
    path = ctc_align(emissions.log_probs, target, blank=blank)
    names = ["␣" if emissions.symbols[i].isspace() else emissions.symbols[i] for i in target]
    states = occupied_TS.shape[1]
    tall = min(max(0.095 * states, 1.6), 9.0)
    figure = Figure(figsize=(width, tall + 1.7), dpi=DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    lattice, below = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [tall, 0.8]})
    step = emissions.frame_seconds
    _draw_states(lattice, occupied_TS, path.states_T, names, step)
    _draw_frames(below, emissions, target, path.states_T, blank)
    said = title or "".join(emissions.symbols[i] for i in target)
    figure.suptitle(said.replace("$", r"\$"), x=0.01, ha="left", fontsize=10, color=INK)
    figure.text(
        0.995,
        0.992,
        f"ln p(text) = {log_p:.2f}, best path {path.score:.2f}",
        ha="right",
        va="top",
        fontsize=8,
        color=SOFT,
    )
    buffer = io.BytesIO()
    canvas.print_png(buffer)
    return Image.open(buffer).convert("RGB")


def _draw_states(axes: Axes, occupied_TS: Array, states_T: Array, names: Sequence[str], step: float) -> None:
    frames, states = occupied_TS.shape
    for blank in range(0, states, 2):
        axes.axhspan(blank - 0.5, blank + 0.5, color=ROW, linewidth=0, zorder=0)
    # The square root shows what is improbable but not nothing.
    axes.imshow(
        np.ma.masked_less(np.sqrt(occupied_TS.T), NOTHING),
        zorder=1,
        origin="lower",
        aspect="auto",
        cmap=PAPER,
        vmin=0,
        vmax=1,
        interpolation="nearest",
        extent=(0, frames * step, -0.5, states - 0.5),
    )
    edges = np.arange(frames + 1) * step
    axes.stairs(states_T, edges, baseline=None, color=PATH, linewidth=1.1, label="best path")
    said = states_T % 2 == 1
    middles = edges[:-1] + step / 2
    axes.plot(middles[said], states_T[said], ".", color=PATH, markersize=max(1.5, min(5.0, 500 / max(frames, 1))))
    every = -(-len(names) // MOST_NAMED) if names else 1
    shown = range(0, len(names), every)
    axes.set_yticks([2 * i + 1 for i in shown], [names[i] for i in shown], fontsize=7, color=INK)
    axes.tick_params(axis="x", labelbottom=False, length=0)
    axes.set_ylabel("states (blanks grey)", fontsize=8, color=SOFT)
    _frame(axes)
    axes.legend(loc="lower right", fontsize=7, frameon=False, labelcolor=SOFT)


def _draw_frames(axes: Axes, emissions: Emissions, target: Array, states_T: Array, blank: int) -> None:
    probs_TV, step = np.exp(emissions.log_probs), emissions.frame_seconds
    frames = len(probs_TV)
    edges = np.arange(frames + 1) * step
    symbols_T = np.full(frames, blank)
    said = states_T % 2 == 1
    symbols_T[said] = target[states_T[said] // 2]
    spoken = np.where(said, probs_TV[np.arange(frames), symbols_T], 0.0)
    axes.stairs(probs_TV[:, blank], edges, fill=True, color=LINE, linewidth=0, label="blank")
    axes.stairs(spoken, edges, fill=True, color=PATH, alpha=0.85, linewidth=0, label="the path's symbol")
    axes.set_ylim(0, 1.5)
    axes.set_yticks([0, 1])
    axes.tick_params(labelsize=7, colors=SOFT)
    axes.set_ylabel("p", fontsize=8, color=SOFT, rotation=0)
    axes.set_xlabel("seconds", fontsize=8, color=SOFT)
    axes.set_xlim(0, frames * step)
    _frame(axes)
    axes.legend(loc="upper right", fontsize=7, frameon=True, framealpha=0.8, edgecolor="none", labelcolor=SOFT, ncols=2)


def _frame(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(LINE)
