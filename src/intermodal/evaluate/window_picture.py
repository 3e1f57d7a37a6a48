"""Swin's windows, shifts, masks and merges as a picture, and what its windows look at, drawn from what the network uses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor

from intermodal.evaluate.speech_pictures import DPI, INK, SOFT, WIDTH, rendered
from intermodal.nn.swin import SwinConfig, SwinTransformer
from intermodal.nn.swin_attention import WindowWeights, attention_maps, rollout
from intermodal.nn.swin_windows import windows

CUT, MASKS = "#0d7d74", 4
ASKS = "#c2185b"
BLOCKS = 8
"""At most so many blocks are shown, the last ones of each stage."""


def draw_windows(config: SwinConfig, image: Image.Image) -> Image.Image:
    """Return a picture of how a Swin looks at ``image``: three ways to cut the first map, masks, and all stages' maps."""
    height, width = config.size
    picture = np.asarray(image.convert("RGB").resize((width, height)), np.uint8)
    stages = len(config.depths)
    figure = Figure(figsize=(WIDTH, 8.2), dpi=DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    parts: Any = figure.subfigures(3, 1, height_ratios=[1.15, 0.95, 0.95])
    above, middle, below = parts
    rows, columns = config.grids(height, width)[0]
    side, patch = config.window_of(0), config.patch_size
    shift = side // 2
    cut = windows(rows, columns, side, shift)
    three = above.subplots(1, 3)
    _windows(three[0], picture, patch, side, 0)
    three[0].set_title(f"windows of {side} x {side} places", fontsize=8.5, color=INK)
    _windows(three[1], picture, patch, side, shift)
    three[1].set_title(f"shifted by {shift} down and right", fontsize=8.5, color=INK)
    count_across = (columns + cut.right) // side
    rolled = np.zeros((rows + cut.below, columns + cut.right), np.int64)
    for number, regions in enumerate(cut.region_NS.numpy()):
        top, left = side * (number // count_across), side * (number % count_across)
        rolled[top : top + side, left : left + side] = regions.reshape(side, side)
    three[2].imshow(_coloured(_rolled(picture, patch, shift), rolled, patch))
    _grid(three[2], (rows + cut.below) * patch, (columns + cut.right) * patch, side * patch, 0)
    three[2].set_title("rolled: parts of one colour see each other", fontsize=8.5, color=INK)
    apart = cut.apart_NSS.numpy()
    kinds = {tuple(a.ravel()): number for number, a in reversed(list(enumerate(apart)))}
    shown = sorted(kinds.values())[:MASKS]
    for axis, number in zip(np.atleast_1d(middle.subplots(1, MASKS)), [*shown, *[-1] * MASKS][:MASKS], strict=True):
        if number < 0:
            axis.axis("off")
            continue
        axis.imshow(apart[number], cmap="Greys", vmin=0, vmax=1.4, interpolation="nearest")
        row, column = number // count_across + 1, number % count_across + 1
        axis.set_title(f"window {row}, {column}: who sees whom", fontsize=8, color=INK)
        axis.set_xlabel("key", fontsize=7, color=SOFT)
        axis.set_ylabel("query", fontsize=7, color=SOFT)
        axis.tick_params(labelsize=6, colors=SOFT)
    middle.suptitle("Masks: white is seen, grey is kept apart", fontsize=8.5, color=SOFT)
    grids = config.grids(height, width)
    for stage, axis in enumerate(np.atleast_1d(below.subplots(1, stages))):
        _maps(axis, picture, patch * 2**stage, config.window_of(stage))
        axis.set_title(
            f"stage {stage + 1}: {grids[stage][0]} x {grids[stage][1]} places of {config.width_of(stage)}",
            fontsize=8,
            color=INK,
        )
    below.suptitle("Merges: four places become one; thick lines are windows", fontsize=8.5, color=SOFT)
    return rendered(canvas)


def draw_attention(tower: SwinTransformer, images: Sequence[Image.Image], prepared_BCHW: Tensor) -> Image.Image:
    """Return pictures, each beside its rollout and what one of its places looks at in each block, put back to the picture.

    The place that asks is the one that reaches the answer most; on coarser maps the one that it has become a part of.

    Args:
        tower: a Swin of either version.
        images: pictures of the size that the tower reads, at least one.
        prepared_BCHW: the same, prepared.
    """
    found = attention_maps(tower, prepared_BCHW)
    rolled_Bhw = rollout(found).cpu()
    shown = _some(found)
    figure = Figure(figsize=(WIDTH, 0.35 + 1.2 * len(images)), dpi=DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes: Any = figure.subplots(len(images), 2 + len(shown), squeeze=False)
    for number, image in enumerate(images):
        height, width = prepared_BCHW.shape[2:]
        picture = np.asarray(image.convert("RGB").resize((width, height)), np.uint8)
        row, column = divmod(int(rolled_Bhw[number].argmax()), rolled_Bhw.shape[2])
        axes[number, 0].imshow(picture)
        _heat(axes[number, 1], picture, rolled_Bhw[number].numpy(), tower.config.patch_size)
        for axis, weights in zip(axes[number, 2:], shown, strict=True):
            pixels, at = tower.config.patch_size * 2**weights.stage, (row >> weights.stage, column >> weights.stage)
            _heat(axis, picture, weights.of_place(*at)[number].mean(0).cpu().numpy(), pixels)
            _outline(axis, weights, at, pixels)
        for axis in axes[number]:
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_xlim(-0.5, width - 0.5)
            axis.set_ylim(height - 0.5, -0.5)
    titles = ["picture", "rollout", *(f"stage {w.stage + 1}{', shifted' if w.cut.shift else ''}" for w in shown)]
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=7.5, color=INK)
    return rendered(canvas)


def _some(found: Sequence[WindowWeights]) -> list[WindowWeights]:
    """Return the last blocks of each stage, as many of each as there is room for."""
    stages = found[-1].stage + 1
    each = max(BLOCKS // stages, 1)
    return [w for stage in range(stages) for w in [w for w in found if w.stage == stage][-each:]]


def _heat(axis: Any, picture: np.ndarray, weight_hw: np.ndarray, pixels: int) -> None:
    """Show a faded picture with weights over it, each place as large as the pixels that it stands for."""
    axis.imshow(0.35 * picture / 255 + 0.65)
    strength = weight_hw / max(float(weight_hw.max()), 1e-12)
    heat = colormaps["inferno"](strength)
    heat[..., 3] = 0.8 * strength
    extent = (-0.5, weight_hw.shape[1] * pixels - 0.5, weight_hw.shape[0] * pixels - 0.5, -0.5)
    axis.imshow(heat, extent=extent, interpolation="nearest")


def _outline(axis: Any, weights: WindowWeights, at: tuple[int, int], pixels: int) -> None:
    """Draw the borders of the windows, and the place that asks."""
    cut = weights.cut
    for line, count in ((axis.axhline, cut.rows), (axis.axvline, cut.columns)):
        for border in range(cut.shift, count + 1, cut.side):
            line(border * pixels - 0.5, color=CUT, linewidth=0.5, alpha=0.6)
    corner = (at[1] * pixels - 0.5, at[0] * pixels - 0.5)
    axis.add_patch(Rectangle(corner, pixels, pixels, fill=False, edgecolor=ASKS, linewidth=1.2))


def _rolled(picture: np.ndarray, patch: int, shift: int) -> np.ndarray:
    return np.roll(picture, (-shift * patch, -shift * patch), (0, 1))


def _coloured(picture: np.ndarray, parts: np.ndarray, patch: int) -> np.ndarray:
    """Return a picture tinted by the number of the part that each place belongs to."""
    colours = np.array(colormaps["Set3"].colors[:9]) * 255  # type: ignore[attr-defined]
    tint = colours[parts].repeat(patch, 0).repeat(patch, 1)
    whole = np.full_like(tint, 255)
    whole[: picture.shape[0], : picture.shape[1]] = picture
    return (0.55 * tint + 0.45 * whole).astype(np.uint8)


def _windows(axis: Any, picture: np.ndarray, patch: int, side: int, shift: int) -> None:
    axis.imshow(picture, alpha=0.75)
    _grid(axis, picture.shape[0], picture.shape[1], patch, 0, thin=True)
    _grid(axis, picture.shape[0], picture.shape[1], side * patch, shift * patch)


def _maps(axis: Any, picture: np.ndarray, pixels: int, side: int) -> None:
    """Show a picture at the resolution of one stage's places: each is the mean of its pixels."""
    height, width = picture.shape[:2]
    tall, wide = -(-height // pixels), -(-width // pixels)
    small = Image.fromarray(picture).resize((wide, tall), Image.Resampling.BOX)
    axis.imshow(np.asarray(small), extent=(0, wide, tall, 0), interpolation="nearest")
    for at in range(0, tall + 1, side):
        axis.axhline(at, color=CUT, linewidth=1.6)
    for at in range(0, wide + 1, side):
        axis.axvline(at, color=CUT, linewidth=1.6)
    axis.set_xticks([])
    axis.set_yticks([])


def _grid(axis: Any, height: int, width: int, step: int, first: int, *, thin: bool = False) -> None:
    line = {"color": SOFT if thin else CUT, "linewidth": 0.3 if thin else 1.6}
    for at in range(first, height + 1, step):
        axis.axhline(at - 0.5, **line)
    for at in range(first, width + 1, step):
        axis.axvline(at - 0.5, **line)
    axis.set_xlim(-0.5, width - 0.5)
    axis.set_ylim(height - 0.5, -0.5)
    axis.set_xticks([])
    axis.set_yticks([])
