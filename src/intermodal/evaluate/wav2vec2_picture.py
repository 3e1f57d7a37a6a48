"""wav2vec 2.0's task on one recording as a picture: what is hidden, the codes, and how masked frames are told apart.

Shapes: U frames, G groups of codes, n masked frames.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch.nn import functional as F

from intermodal.data.audio import Waveform
from intermodal.evaluate.speech_pictures import DPI, HEARD, INK, SAID, SOFT, WIDTH, draw_spectrogram, literal, rendered
from intermodal.methods.speech.wav2vec2 import Wav2Vec2
from intermodal.nn.wav2vec2_targets import draw_spans


@torch.inference_mode()
def draw_told_apart(method: Wav2Vec2, wave: Waveform, title: str = "", seed: int = 0) -> Image.Image:
    """Return the picture of one recording: masked spans, each frame's codes, and cosines of all masked frames' pairs.

    Args:
        method: the model, in evaluation mode.
        wave: the recording.
        title: above all.
        seed: of the masked spans.
    """
    config = method.config
    audio_1T, length_1 = method.waveforms([wave])
    frames = int(method.encoder.frames(length_1))
    generator = torch.Generator().manual_seed(seed)
    mask_1U = draw_spans([frames], config.mask_share, config.mask_span, generator).to(audio_1T.device)
    heard = method.encoder.hear(audio_1T, length_1, mask_1U)
    chosen = method.quantizer(heard.features[0], method.gumbel)
    masked_n = mask_1U[0].nonzero()[:, 0]
    context_nE = F.normalize(method.project_context(heard.hidden[0, masked_n]).float(), dim=-1)
    target_nE = F.normalize(method.project_target(chosen.vectors[masked_n]).float(), dim=-1)
    cosine_nn = (context_nE @ target_nE.T).cpu().numpy()
    code_UG, mask_U = chosen.codes.cpu().numpy(), mask_1U[0].cpu().numpy()

    seconds = config.encoder.stride / method.sample_rate
    figure = Figure(figsize=(WIDTH, 8.6), dpi=DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    grid = figure.add_gridspec(3, 2, height_ratios=[1.4, 1.2, 3.4], width_ratios=[1.25, 1.0])
    above, middle = figure.add_subplot(grid[0, :]), figure.add_subplot(grid[1, :])
    draw_spectrogram(above, wave)
    for start, end in runs(mask_U):
        for axis in (above, middle):
            axis.axvspan(start * seconds, end * seconds, color=SAID, alpha=0.3, linewidth=0)
    above.set_title("what is heard; masked spans are shaded", fontsize=8.5, color=INK)
    time_U = (np.arange(frames) + 0.5) * seconds
    for group, colour in zip(range(code_UG.shape[1]), (HEARD, INK, SOFT, SAID) * code_UG.shape[1], strict=False):
        middle.scatter(time_U, code_UG[:, group], s=5, color=colour, label=f"codebook {group + 1}", linewidths=0)
    middle.set_ylim(-1, config.quantizer.codes)
    middle.set_xlim(0, max(wave.seconds, 1e-3))
    middle.set_title("the code of each frame", fontsize=8.5, color=INK)
    middle.tick_params(labelsize=7, colors=SOFT)
    middle.legend(loc="upper right", fontsize=7, frameon=False)
    _matrix(figure, figure.add_subplot(grid[2, 0]), cosine_nn)
    _places(figure.add_subplot(grid[2, 1]), cosine_nn, code_UG[masked_n.cpu().numpy()])
    if title:
        figure.suptitle(literal(title), x=0.01, ha="left", fontsize=9.5, color=INK)
    return rendered(canvas)


def runs(mask_U: np.ndarray) -> list[tuple[int, int]]:
    """Return where a mask is True without a break: pairs of the first frame and the one behind the last."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask_U, [False]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def places(cosine_nn: np.ndarray, code_nG: np.ndarray) -> np.ndarray:
    """Return how many targets with other codes each masked frame holds for likelier than its own, as a share, (n,).

    Args:
        cosine_nn: of what is said of a masked frame (rows) and the targets of all (columns).
        code_nG: the codes of the targets; those with a frame's own codes are no wrong answers.
    """
    other_nn = (code_nG[:, None] != code_nG[None]).any(-1)
    above_nn = (cosine_nn > np.diag(cosine_nn)[:, None]) & other_nn
    return above_nn.sum(1) / np.maximum(other_nn.sum(1), 1)


def _matrix(figure: Figure, axis: Any, cosine_nn: np.ndarray) -> None:
    image = axis.imshow(cosine_nn, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest", aspect="equal")
    figure.colorbar(image, ax=axis, shrink=0.75, pad=0.02).ax.tick_params(labelsize=7, colors=SOFT)
    axis.set_title("cosines: the right target is on the diagonal", fontsize=8.5, color=INK)
    axis.set_xlabel("target of a masked frame", fontsize=8, color=SOFT)
    axis.set_ylabel("what is said of a masked frame", fontsize=8, color=SOFT)
    axis.tick_params(labelsize=7, colors=SOFT)


def _places(axis: Any, cosine_nn: np.ndarray, code_nG: np.ndarray) -> None:
    axis.hist(places(cosine_nn, code_nG), bins=20, range=(0, 1), color=HEARD)
    axis.axhline(len(cosine_nn) / 20, color=SAID, linewidth=1, linestyle="--", label="by lot")
    axis.set_title("wrong targets that seem likelier than the right one", fontsize=8.5, color=INK)
    axis.set_xlabel("share of the other targets", fontsize=8, color=SOFT)
    axis.set_ylabel("masked frames", fontsize=8, color=SOFT)
    axis.tick_params(labelsize=7, colors=SOFT)
    axis.legend(loc="upper right", fontsize=7, frameon=False)
