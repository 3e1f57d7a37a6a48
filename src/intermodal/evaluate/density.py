"""Judges a learnt density against one that is known, by quadrature on a fine grid.

``log_likelihood``: the mean log density, in nats, that the normalised model gives to the truth's samples, computed as an
integral, not from samples. ``kl``: the Kullback-Leibler divergence from the truth to the model, which is what the
log-likelihood lacks. ``chance_`` marks the same figures of a single Gaussian with the training points' mean and
covariance, the density that a person would fit first.

    N points of the grid   D dimensions, one or two
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from intermodal.core.errors import DataError
from intermodal.data.densities import Density, DensitySource, GaussianMixture, density
from intermodal.evaluate.result import Evaluation, Gallery, Headline, Item, Line, Lines, Panel, Table

LogDensity = Callable[[Tensor], Tensor]
"""Takes float32 points ``(N, D)`` and returns log densities up to a constant, ``(N,)``."""
MARGIN = 1.5
"""The grid reaches this many times as far as the density."""
CELLS = {1: 8001, 2: 401}
"""Cells a side of the grid."""


class Grid:
    """The midpoints of equal cells around a density.

    Args:
        truth: the density.
    """

    def __init__(self, truth: Density) -> None:
        self.truth, self.cells = truth, CELLS[truth.dim]
        far = truth.extent * MARGIN
        self.axis = (np.arange(self.cells) + 0.5) / self.cells * 2 * far - far
        axes = np.meshgrid(*[self.axis] * truth.dim, indexing="ij")
        self.points = np.stack([a.reshape(-1) for a in axes], 1)
        self.log_cell = truth.dim * np.log(2 * far / self.cells)
        self.log_truth = truth.log_prob(self.points)

    def values(self, log_density: LogDensity) -> np.ndarray:
        """Return a model's log density on the grid, float64 ``(N,)``.

        Raises:
            DataError: if one is not finite.
        """
        points = torch.from_numpy(self.points.astype(np.float32))
        with torch.no_grad():
            found = torch.cat([log_density(part) for part in points.split(16_384)]).double().cpu().numpy()
        if not np.isfinite(found).all():
            raise DataError("The model's log density is not finite everywhere: its weights are broken.")
        return found

    def log_normaliser(self, values_N: np.ndarray) -> float:
        """Return the logarithm of the integral of ``exp(values)`` by the midpoint rule."""
        top = values_N.max()
        return float(np.log(np.exp(values_N - top).sum()) + top + self.log_cell)

    def mean(self, values_N: np.ndarray) -> float:
        """Return the expectation of some values under the truth."""
        weight = np.exp(self.log_truth + self.log_cell)
        held = weight > 0
        return float((weight[held] * values_N[held]).sum() / weight.sum())

    def figures(self, values_N: np.ndarray) -> dict[str, float]:
        """Return log-likelihood and divergence of a model's log density, normalised on the grid."""
        likelihood = self.mean(values_N) - self.log_normaliser(values_N)
        held = np.isfinite(self.log_truth)
        entropy = -self.mean(np.where(held, self.log_truth, 0.0))
        return {"log_likelihood": likelihood, "kl": -entropy - likelihood}


def fitted_gaussian(point_ND: np.ndarray) -> GaussianMixture:
    """Return the Gaussian with the mean and covariance of some points."""
    point_ND = np.asarray(point_ND, np.float64)
    covariance = np.atleast_2d(np.cov(point_ND, rowvar=False))
    return GaussianMixture(point_ND.mean(0, keepdims=True), covariance, float(np.abs(point_ND).max()))


def evaluate_density(
    source: DensitySource,
    split: str,
    log_density: LogDensity,
    samples_ND: np.ndarray,
    learnt_log_normaliser: float | None = None,
) -> Evaluation:
    """Judge a learnt density of one or two dimensions.

    Args:
        source: the known density, and the points that were trained on.
        split: named in the result; the truth is the same for all.
        log_density: the model's, up to a constant, or with the normaliser that it learnt.
        samples_ND: the model's own samples, for a picture.
        learnt_log_normaliser: that of the model's energy, where it has learnt one. ``normaliser_error`` then is the
            absolute difference to the integral of ``exp(-E)``, in nats.
    """
    start = time.monotonic()
    grid = Grid(density(source.kind))
    train = source.open("train").points
    values = grid.values(log_density)
    gaussian = fitted_gaussian(train).log_prob(grid.points)
    metrics = grid.figures(values)
    metrics |= {f"chance_{name}": value for name, value in grid.figures(gaussian).items()}
    normaliser = grid.log_normaliser(values)
    if learnt_log_normaliser is not None:
        metrics["log_normaliser"] = learnt_log_normaliser
        metrics["normaliser_error"] = abs(normaliser)
    shown = _panels(
        grid, model_N=values - normaliser, gaussian_N=gaussian, train=train, samples_ND=samples_ND, metrics=metrics
    )
    headline = Headline(
        f"{metrics['kl']:.3f} nats",
        f"So far is the learnt density from the true one ({source.kind}; Kullback-Leibler divergence, by quadrature); a "
        f"single Gaussian fitted to the same points is {metrics['chance_kl']:.3f} nats away.",
    )
    return Evaluation(split, metrics, shown, time.monotonic() - start, headline)


def _panels(
    grid: Grid,
    *,
    model_N: np.ndarray,
    gaussian_N: np.ndarray,
    train: np.ndarray,
    samples_ND: np.ndarray,
    metrics: dict[str, float],
) -> list[Panel]:
    rows: list[list[str | float | None]] = [
        ["the model", metrics["log_likelihood"], metrics["kl"]],
        ["one Gaussian", metrics["chance_log_likelihood"], metrics["chance_kl"]],
        ["the truth", metrics["log_likelihood"] + metrics["kl"], 0.0],
    ]
    table = Table(
        "Distance to the truth",
        "Nats, by quadrature: the expected log density of the truth's samples, and the divergence from truth to model.",
        ["density", "log-likelihood", "KL"],
        rows,
        emphasis=0,
    )
    if grid.truth.dim == 1:
        every = slice(None, None, 40)
        series = [
            Line(name, grid.axis[every].tolist(), np.exp(values[every]).tolist())
            for name, values in (("truth", grid.log_truth), ("model", model_N), ("one Gaussian", gaussian_N))
        ]
        return [table, Lines("Densities", "The truth, the model, and one Gaussian.", "x", "density", series)]
    top = float(np.exp(grid.log_truth).max())
    maps = [
        Item(image=density_map(np.exp(values), grid.cells, top), text=name)
        for name, values in (("truth", grid.log_truth), ("learnt density", model_N), ("one Gaussian", gaussian_N))
    ]
    far = float(grid.axis[-1])
    points = [
        Item(image=density_map(histogram(p, far), 101, top), text=name)
        for name, p in (("training points", train), ("the model's own samples", samples_ND))
    ]
    about = "Dark is empty, bright is dense; all maps have one scale."
    rows_of_maps = [(Item(text="density"), maps), (Item(text="points, counted"), points)]
    return [Gallery("True and learnt density", about, rows_of_maps), table]


def histogram(point_ND: np.ndarray, far: float, cells: int = 101) -> np.ndarray:
    """Return the density of points of the plane by counting them in ``cells`` x ``cells`` cells of ``-far..far``."""
    edges = np.linspace(-far, far, cells + 1)
    counts, _, _ = np.histogram2d(point_ND[:, 0], point_ND[:, 1], bins=[edges, edges])
    return (counts / max(len(point_ND), 1) / (edges[1] - edges[0]) ** 2).reshape(-1)


def density_map(value_N: np.ndarray, cells: int, top: float) -> Image.Image:
    """Return values on a square grid as a picture: the first axis to the right, the second up."""
    from matplotlib import colormaps

    shares = np.clip(value_N.reshape(cells, cells).T[::-1] / top, 0, 1)
    colours = (colormaps["magma"](shares)[..., :3] * 255).round().astype(np.uint8)
    return Image.fromarray(colours).resize((320, 320), Image.Resampling.BILINEAR)
