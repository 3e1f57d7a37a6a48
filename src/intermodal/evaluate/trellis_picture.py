"""The trellis of a hidden Markov model as a picture: how probable each state is in each frame, and the best path.

Shapes: T frames, S states of the text in order.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from intermodal.data.audio import Waveform
from intermodal.evaluate.speech_pictures import DPI, INK, LINE, SOFT, WIDTH, draw_spectrogram, literal, rendered
from intermodal.nn import hmm_kernels
from intermodal.nn.hmm import Graph, training_graph, viterbi


def occupations(loglik_TP: np.ndarray, graph: Graph, stay_P: np.ndarray) -> np.ndarray:
    """Return how probable each state of a text is in each frame, given the whole recording: float64 ``(T, S)``."""
    weight_A, final_S = graph.weights(stay_P)
    each_TS = np.ascontiguousarray(loglik_TP[:, graph.pdf_S], np.float64)
    own = np.arange(len(graph.pdf_S), dtype=np.int32)
    found = hmm_kernels.occupations(each_TS, own, graph.start_S, final_S, graph.first_S1, graph.source_A, weight_A)
    return found[1]


def draw_trellis(model: Any, wave: Waveform, text: str) -> Image.Image:
    """Return a recording's spectrogram and under it the trellis of a text: frames across, states from top to bottom.

    Args:
        model: a :class:`~intermodal.methods.speech.graph_recogniser.GraphRecogniser`.
        wave: the recording.
        text: what is said.
    """
    emission = model.emissions(wave)
    graph = training_graph(model.lexicon.split(text), model.lexicon, model.topology, model.search.silence)
    gamma_TS = occupations(emission.log_probs, graph, model.stay())
    path = viterbi(emission.log_probs, graph, model.stay())
    states, step = len(graph.pdf_S), emission.frame_seconds
    figure = Figure(figsize=(WIDTH, 1.7 + 0.09 * states + 0.9), dpi=DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [1.7, 0.09 * states + 0.3]})
    draw_spectrogram(above, wave)
    above.tick_params(labelbottom=False, bottom=False)
    extent = (0, len(gamma_TS) * step, states - 0.5, -0.5)
    below.imshow(gamma_TS.T, aspect="auto", cmap="Greens", vmin=0, vmax=1, extent=extent, interpolation="nearest")
    below.step(
        np.append(np.arange(len(path.nodes_T)), len(path.nodes_T)) * step,
        np.append(path.nodes_T, path.nodes_T[-1]),
        where="post",
        color="#8a5a00",
        linewidth=1.0,
    )
    borders = [0, *(np.flatnonzero(np.diff(graph.unit_S)) + 1).tolist(), states]
    for border in borders[1:-1]:
        below.axhline(border - 0.5, color=LINE, linewidth=0.6)
    names = [graph.units[graph.unit_S[first]].phone for first in borders[:-1]]
    middles = [(first + end - 1) / 2 for first, end in itertools.pairwise(borders)]
    below.set_yticks(middles, [literal(name) for name in names], fontsize=6)
    below.set_ylabel("states", fontsize=7.5, color=SOFT)
    below.set_xlabel("seconds", fontsize=8, color=SOFT)
    below.tick_params(labelsize=6.5, colors=SOFT, length=2, width=0.6)
    for spine in below.spines.values():
        spine.set_color(LINE)
    below.set_xlim(0, max(wave.seconds, 1e-3))
    figure.suptitle(literal(text), x=0.01, ha="left", fontsize=9.5, color=INK)
    return rendered(canvas)
