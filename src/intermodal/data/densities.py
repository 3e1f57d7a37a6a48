"""Densities of one and two dimensions whose normaliser is known and which are sampled exactly.

They are what density models are judged on: the distance between a learnt density and the truth can be computed.

    N samples   D dimensions of a point   K components of a mixture
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.core.fields import Field
from intermodal.data.processors import Processor
from intermodal.data.source import Sample, Source, SourceConfig
from intermodal.data.splits import SPLITS, check_split

Kind = Literal["gaussian-1d", "mixture-1d", "gaussian", "mixture", "rings", "moons", "checkerboard"]


class Density(Protocol):
    """A normalised density.

    Attributes:
        dim: D.
        extent: every coordinate of all but a negligible share of the samples lies in ``-extent..extent``.
    """

    dim: int
    extent: float

    def log_prob(self, point_ND: np.ndarray) -> np.ndarray:
        """Return log densities ``(N,)`` in nats, float64; minus infinity outside of the support."""
        ...

    def sample(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Return ``(count, D)`` float64 exact samples."""
        ...


class GaussianMixture:
    """A mixture of Gaussians with equal weights.

    Args:
        mean_KD: of the components.
        covariance_DD: of every component.
        extent: see :class:`Density`.
    """

    def __init__(self, mean_KD: np.ndarray, covariance_DD: np.ndarray, extent: float) -> None:
        self.mean = np.asarray(mean_KD, np.float64)
        self.factor = np.linalg.cholesky(np.asarray(covariance_DD, np.float64))
        self.dim, self.extent = self.mean.shape[1], extent

    @property
    def precision(self) -> np.ndarray:
        """The precision matrix ``(D, D)`` of the components."""
        return np.linalg.inv(self.factor @ self.factor.T)

    @property
    def log_normaliser(self) -> float:
        """The logarithm of the integral of ``exp(-(x - mean)' P (x - mean) / 2)`` of one component."""
        return self.dim / 2 * math.log(2 * math.pi) + float(np.log(np.diagonal(self.factor)).sum())

    def log_prob(self, point_ND: np.ndarray) -> np.ndarray:
        """Return log densities ``(N,)``."""
        inverse = np.linalg.inv(self.factor)
        white_ND, mean_KD = np.asarray(point_ND, np.float64) @ inverse.T, self.mean @ inverse.T
        square_NK = (white_ND**2).sum(1)[:, None] + (mean_KD**2).sum(1) - 2 * white_ND @ mean_KD.T
        top_N = -square_NK.min(1) / 2
        total_N = np.log(np.exp(-square_NK / 2 - top_N[:, None]).mean(1)) + top_N
        return total_N - self.log_normaliser

    def sample(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Return exact samples: a component, then a point of it."""
        which = rng.integers(len(self.mean), size=count)
        return self.mean[which] + rng.standard_normal((count, self.dim)) @ self.factor.T


class Rings:
    """Circles around the origin, equally likely, with a normal radius.

    The density at distance r is ``mean over rings of normal(r; radius, width) / (2 pi r)``; the share of a normal radius
    below zero is removed and counted in the normaliser.

    Args:
        radii: of the circles.
        width: standard deviation of the radius.
    """

    dim = 2

    def __init__(self, radii: tuple[float, ...], width: float) -> None:
        self.radii, self.width = np.array(radii), width
        self.extent = max(radii) + 5 * width
        self._above = np.array([0.5 * (1 + math.erf(r / width / math.sqrt(2))) for r in radii])

    def log_prob(self, point_ND: np.ndarray) -> np.ndarray:
        """Return log densities ``(N,)``."""
        r_N = np.linalg.norm(np.asarray(point_ND, np.float64), axis=1)
        r_N = np.maximum(r_N, self.width / 10)  # the pole of 1 / r at the origin, where there is no mass, is cut off
        score_NK = -(((r_N[:, None] - self.radii) / self.width) ** 2) / 2 - np.log(self._above)
        top_N = score_NK.max(1)
        radial_N = np.log(np.exp(score_NK - top_N[:, None]).mean(1)) + top_N
        return radial_N - math.log(self.width * math.sqrt(2 * math.pi)) - np.log(2 * math.pi * r_N)

    def sample(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Return exact samples: a ring, a radius (drawn again where it is negative), an angle."""
        which = rng.integers(len(self.radii), size=count)
        radius = self.radii[which] + self.width * rng.standard_normal(count)
        while (bad := radius <= 0).any():
            radius[bad] = self.radii[which[bad]] + self.width * rng.standard_normal(int(bad.sum()))
        angle = rng.uniform(0, 2 * math.pi, count)
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)


class Checkerboard:
    """Uniform on every second of 4 x 4 squares of side 2."""

    dim, extent = 2, 4.0

    def log_prob(self, point_ND: np.ndarray) -> np.ndarray:
        """Return log densities ``(N,)``: ``-log 32`` on the dark squares, else minus infinity."""
        point = np.asarray(point_ND, np.float64)
        inside = (np.abs(point) < 4).all(1)
        dark = np.floor(point / 2).astype(np.int64).sum(1) % 2 == 0
        return np.where(inside & dark, -math.log(32), -np.inf)

    def sample(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Return exact samples: a dark square, a point of it."""
        column, pair = rng.integers(4, size=count), rng.integers(2, size=count)
        corner = np.stack([column - 2, 2 * pair + column % 2 - 2], 1)
        return 2.0 * corner + 2 * rng.random((count, 2))


def density(kind: Kind) -> Density:
    """Return a density by name.

    ``gaussian-1d``, ``gaussian``: one Gaussian off the origin, the second correlated. ``mixture-1d``: three bumps.
    ``mixture``: eight bumps on a circle. ``rings``: two. ``moons``: two half circles, each of 64 narrow Gaussians.
    ``checkerboard``: uniform on eight squares.

    Raises:
        ConfigError: if there is no such density.
    """
    if kind == "gaussian-1d":
        return GaussianMixture(np.array([[0.7]]), np.array([[0.6**2]]), 4.0)
    if kind == "mixture-1d":
        return GaussianMixture(np.array([[-2.0], [0.5], [2.0]]), np.array([[0.3**2]]), 4.0)
    if kind == "gaussian":
        return GaussianMixture(np.array([[0.5, -0.3]]), np.array([[1.0, 0.6], [0.6, 0.8]]), 6.0)
    if kind == "mixture":
        angle = np.arange(8) * math.pi / 4
        return GaussianMixture(2 * np.stack([np.cos(angle), np.sin(angle)], 1), np.eye(2) * 0.25**2, 4.0)
    if kind == "rings":
        return Rings((1.0, 2.5), 0.15)
    if kind == "moons":
        angle = (np.arange(64) + 0.5) * math.pi / 64
        upper = np.stack([np.cos(angle) - 0.5, np.sin(angle) - 0.25], 1)
        return GaussianMixture(1.6 * np.concatenate([upper, -upper]), np.eye(2) * 0.16**2, 4.0)
    if kind == "checkerboard":
        return Checkerboard()
    raise ConfigError(f"There is no density {kind!r}.")


@dataclass(frozen=True, kw_only=True)
class DensitySource(SourceConfig):
    """Samples of a known density.

    Attributes:
        kind: which; see :func:`density`.
        samples: how many there are to train on; the other splits have as many.
        seed: of the samples; each split draws its own.
    """

    kind: Kind = "mixture"
    samples: int = 20_000
    seed: int = 0

    def open(self, split: str) -> Points:
        """Draw the samples of one split.

        Raises:
            DataError: if the split is unknown, or there are no samples.
        """
        check_split(split)
        if self.samples < 1:
            raise DataError(f"A density needs at least one sample to learn from, found samples={self.samples}.")
        rng = np.random.default_rng([self.seed, SPLITS.index(split)])
        return Points(f"{self.kind} ({split})", density(self.kind).sample(self.samples, rng))


class Points(Source):
    """Points of a space of few dimensions; a sample holds one ``point``, float32 ``(D,)``."""

    def __init__(self, name: str, point_ND: np.ndarray) -> None:
        self.name = name
        self.points = np.asarray(point_ND, np.float32)
        self.fields: Mapping[str, Field] = {"point": Field((self.points.shape[1],), "float32", "a point")}

    def __len__(self) -> int:
        return len(self.points)

    def sample(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """Return one point."""
        del rng
        return {"point": self.points[index]}


@dataclass(frozen=True, kw_only=True)
class PointProcessor(Config, Processor):
    """Points -> float32 ``(D,)``.

    Attributes:
        dim: D.
    """

    dim: int

    raw = Field((None,), "float32", "a point")

    def encode(self, value: Any) -> Tensor:
        """Return one point as a tensor.

        Raises:
            DataError: if it has another number of coordinates, or one that is not finite.
        """
        point = torch.as_tensor(np.array(value, np.float32))
        if point.shape != (self.dim,) or not point.isfinite().all():
            raise DataError(f"A point should be {self.dim} finite numbers, found {value!r}.")
        return point

    def to_folder(self, folder: Path) -> dict[str, Any]:
        """Return the configuration; there are no assets."""
        del folder
        return self.to_dict()
