"""The gap between pictures and texts in a joint space: measured, and drawn (Liang et al. 2022, section 2).

The gap is the distance between the means of the pictures' and of the texts' unit vectors. The drawing is the plane of
the two first principal components of both together.

N pictures   M texts   D the joint space
"""

from __future__ import annotations

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from intermodal.evaluate.speech_pictures import DPI, INK, rendered

COLOURS = {"texts": "#0d7d74", "pictures": "#8a5a00", "projected": "#7b3fa0"}


# --8<-- [start:gap]
def gap(one_ND: np.ndarray, other_MD: np.ndarray) -> float:
    """Return the distance between the means of two sets of unit vectors, from 0 to 2."""
    return float(np.linalg.norm(one_ND.mean(0) - other_MD.mean(0)))


# --8<-- [end:gap]


def told_apart(one_ND: np.ndarray, other_MD: np.ndarray) -> float:
    """Return the share of vectors that lie on their own side of the plane halfway between the means, 0.5 to 1."""
    axis = one_ND.mean(0) - other_MD.mean(0)
    middle = 0.5 * (one_ND.mean(0) + other_MD.mean(0)) @ axis
    return float(0.5 * ((one_ND @ axis > middle).mean() + (other_MD @ axis < middle).mean()))


def plane(*sets: np.ndarray) -> list[np.ndarray]:
    """Return sets of vectors ``(., D)`` in the plane of the first two principal components of all, ``(., 2)`` each."""
    joint = np.concatenate(sets).astype(np.float64)
    mean = joint.mean(0)
    axes = np.linalg.svd(joint - mean, full_matrices=False)[2][:2]
    return [(vectors - mean) @ axes.T for vectors in sets]


def draw_gap(sets: dict[str, np.ndarray]) -> Image.Image:
    """Return sets of vectors as points of the plane, with lines between the points of like number in a few of them.

    Args:
        sets: by name (a key of :data:`COLOURS`), ``(N, D)``; the first ones' rows belong together.
    """
    places = dict(zip(sets, plane(*sets.values()), strict=True))
    figure = Figure(figsize=(6.4, 4.4), dpi=DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, points in places.items():
        axes.scatter(points[:, 0], points[:, 1], s=7, alpha=0.45, color=COLOURS[name], label=name, linewidths=0)
        middle = points.mean(0, keepdims=True)
        axes.scatter(middle[:, 0], middle[:, 1], s=90, marker="X", color=COLOURS[name], edgecolors="white")
    if {"texts", "pictures"} <= set(places):
        for one, other in zip(places["texts"][:24], places["pictures"][:24], strict=False):
            axes.plot(*np.stack([one, other]).T, color=INK, linewidth=0.4, alpha=0.5)
    axes.legend(frameon=False, markerscale=2)
    axes.set_xlabel("first principal component")
    axes.set_ylabel("second")
    axes.spines[["top", "right"]].set_visible(False)
    return rendered(canvas)
