"""How features answer to a transformation of their input: not at all, in a predictable way, or readably.

With f an encoder, x an input and T a transformation: f is invariant where f(Tx) = f(x); equivariant where some map M_T
gives f(Tx) = M_T f(x) for all x, here a linear one with an offset that is fitted on some inputs and judged on others (Lenc &
Vedaldi 2015, arXiv:1411.5908, section 3). Invariance is the special case in which M_T is the identity. Whether the
transformation itself can be told from (f(x), f(Tx)) is what equivariant self-supervision trains for (Dangovski et al.
2022, arXiv:2111.00899, section 3).

All are computed in float64. Shapes: N inputs, D features, P parameters, M inputs that are judged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

RIDGES = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Penalties that are tried, as shares of the mean variance of a feature."""
INNER = 4
"""One group in so many is held out to choose the penalty."""


def mean_cosine(x_ND: Tensor) -> float:
    """Return the mean cosine of two different inputs' features, in time and memory O(N D).

    Args:
        x_ND: features, shape ``(N, D)``, N at least 2.

    Returns:
        From ``-1 / (N - 1)`` to 1 (collapsed).

    Raises:
        ValueError: if there are fewer than two rows.
    """
    if x_ND.ndim != 2 or len(x_ND) < 2:
        raise ValueError(f"Features must have shape (N, D), N at least 2, found {list(x_ND.shape)}.")
    unit_ND, count = F.normalize(x_ND.double(), dim=1), len(x_ND)
    return float((unit_ND.sum(0).square().sum() - unit_ND.square().sum()) / (count * (count - 1)))


def invariance(x_ND: Tensor, y_ND: Tensor) -> float:
    """Return how much nearer f(Tx) is to f(x) than another input's features are: 1 is fully invariant.

    ``(c - o) / (1 - o)``, where c is the mean cosine of f(x) and f(Tx), and o that of f of two different inputs
    (:func:`mean_cosine`), so that encoders whose vectors all lie close together are not flattered.

    Args:
        x_ND: f(x), shape ``(N, D)``, N at least 2.
        y_ND: f(Tx), row by row.

    Returns:
        1: T changes nothing; 0: Tx is as far from x as another input is; below 0: farther. NaN where all inputs
        have the same features up to rounding: then there is no scale.

    Raises:
        ValueError: if the shapes differ or there are fewer than two rows.
    """
    if x_ND.shape != y_ND.shape:
        raise ValueError(f"f(x) and f(Tx) must have one shape, found {list(x_ND.shape)} and {list(y_ND.shape)}.")
    other = mean_cosine(x_ND)
    same = float(F.cosine_similarity(x_ND.double(), y_ND.double(), dim=1).mean())
    return (same - other) / (1 - other) if 1 - other > 1e-6 else math.nan


@dataclass(frozen=True)
class Errors:
    """Sums of squared errors of three predictions of f(Tx), on inputs that were not fitted; they add up over T.

    Attributes:
        mapped: of the fitted linear map of f(x).
        identity: of f(x) itself.
        mean: of the mean f(Tx) over the fitted inputs.
    """

    mapped: float
    identity: float
    mean: float

    def __add__(self, other: Errors) -> Errors:
        return Errors(self.mapped + other.mapped, self.identity + other.identity, self.mean + other.mean)

    @property
    def equivariance(self) -> float:
        """The map's R^2: 1 is fully equivariant, 0 no better than the mean; NaN where f(Tx) is constant."""
        return self._against(self.mapped, self.mean)

    @property
    def of_identity(self) -> float:
        """The R^2 of predicting f(Tx) by f(x): 1 is fully invariant."""
        return self._against(self.identity, self.mean)

    @property
    def gain(self) -> float:
        """The share of the identity's error that the map takes away; NaN where the identity makes none."""
        return self._against(self.mapped, self.identity)

    @staticmethod
    def _against(error: float, reference: float) -> float:
        return 1 - error / reference if reference > 1e-12 else math.nan


def linear_map_errors(x_ND: Tensor, y_ND: Tensor, fitted_N: Tensor) -> Errors:
    """Fit ``f(Tx) = M f(x) + m`` on some inputs and return its errors on the others.

    M is found by ridge regression, drawn towards zero or towards the identity. Which of them, and how strongly, is what
    predicts best on a quarter of the fitted inputs. A fully invariant and a fully equivariant encoder are both predicted
    exactly.

    Args:
        x_ND: f(x), shape ``(N, D)``.
        y_ND: f(Tx), row by row.
        fitted_N: boolean: the inputs to fit on; the map is judged on the others.

    Raises:
        ValueError: if the shapes differ, fewer than eight inputs are fitted or none is judged.
    """
    if x_ND.shape != y_ND.shape or fitted_N.shape != x_ND.shape[:1]:
        raise ValueError(
            f"f(x), f(Tx) and the choice of inputs must fit, found {list(x_ND.shape)}, {list(y_ND.shape)} and "
            f"{list(fitted_N.shape)}."
        )
    if int(fitted_N.sum()) < 2 * INNER or bool(fitted_N.all()):
        raise ValueError(
            f"A map needs at least {2 * INNER} fitted inputs and one that is judged, found {int(fitted_N.sum())} of "
            f"{len(fitted_N)}."
        )
    x_ND, y_ND = x_ND.double(), y_ND.double()
    x, y = x_ND[fitted_N], y_ND[fitted_N]
    inner = torch.arange(len(x)) % INNER == 0
    width = x.shape[1]
    both = torch.cat([y, y - x], dim=1)  # towards zero, and towards the identity
    best, chosen = math.inf, (RIDGES[-1], False)
    for ridge, predicted in zip(RIDGES, _ridges(x[~inner], both[~inner], x[inner], RIDGES), strict=True):
        for identity in (False, True):
            guess = predicted[:, width:] + x[inner] if identity else predicted[:, :width]
            error = float((guess - y[inner]).square().sum())
            if error < best:
                best, chosen = error, (ridge, identity)
    ridge, identity = chosen
    judged_x, judged_y = x_ND[~fitted_N], y_ND[~fitted_N]
    predicted = _ridges(x, y - x if identity else y, judged_x, (ridge,))[0]
    mapped = predicted + judged_x if identity else predicted
    return Errors(
        float((mapped - judged_y).square().sum()),
        float((judged_x - judged_y).square().sum()),
        float((y.mean(0) - judged_y).square().sum()),
    )


def read_out(features_ND: Tensor, targets_NP: Tensor, groups_N: Tensor, fitted_N: Tensor) -> tuple[Tensor, Tensor]:
    """Predict targets linearly from features: fit on some rows, with the penalty chosen inside them, predict the others.

    Args:
        features_ND: for example f(x) beside f(Tx), shape ``(N, D)``.
        targets_NP: for example T's parameters, shape ``(N, P)``.
        groups_N: integers: rows of one group (of one input) are held out together when the penalty is chosen.
        fitted_N: boolean: the rows to fit on.

    Returns:
        the predictions of the other rows and their targets, ``(M, P)`` each.

    Raises:
        ValueError: if the fitted rows are of fewer than eight groups, or no row is left.
    """
    x, y, groups = features_ND.double()[fitted_N], targets_NP.double()[fitted_N], groups_N[fitted_N]
    names, place = groups.unique(return_inverse=True)
    if len(names) < 2 * INNER or bool(fitted_N.all()):
        raise ValueError(f"A read-out needs at least {2 * INNER} fitted inputs and one that is judged.")
    inner = place % INNER == 0
    errors = [float((p - y[inner]).square().sum()) for p in _ridges(x[~inner], y[~inner], x[inner], RIDGES)]
    ridge = RIDGES[errors.index(min(errors))]
    return _ridges(x, y, features_ND.double()[~fitted_N], (ridge,))[0], targets_NP.double()[~fitted_N]


def r_squared(predicted_MP: Tensor, target_MP: Tensor) -> float:
    """Return the share of the targets' variance that predictions explain: 1 exact, 0 as good as the targets' mean.

    Raises:
        ValueError: if the shapes differ or the targets are constant.
    """
    if predicted_MP.shape != target_MP.shape:
        raise ValueError(f"Shapes must be equal, found {list(predicted_MP.shape)} and {list(target_MP.shape)}.")
    spread = float((target_MP - target_MP.mean(0)).square().sum())
    if spread == 0:
        raise ValueError("The targets are constant: there is nothing to explain.")
    return 1 - float((predicted_MP - target_MP).square().sum()) / spread


def _ridges(x_ND: Tensor, y_NP: Tensor, query_MD: Tensor, ridges: Sequence[float]) -> list[Tensor]:
    """Return, for each penalty, the predictions of a ridge regression with an offset.

    The system is as large as the smaller of N and D: ``W = (X'X + r I)^-1 X'Y = X'(XX' + r I)^-1 Y``.
    """
    mean_x, mean_y = x_ND.mean(0), y_NP.mean(0)
    x, y, query = x_ND - mean_x, y_NP - mean_y, query_MD - mean_x
    scale = float(x.square().sum()) / min(x.shape)
    if scale == 0:  # constant features say nothing
        return [mean_y.expand(len(query), -1)] * len(ridges)
    primal = x.shape[1] <= x.shape[0]
    gram = x.T @ x if primal else x @ x.T
    right = x.T @ y if primal else y
    left = query if primal else query @ x.T
    eye = torch.eye(len(gram), dtype=gram.dtype)
    return [left @ torch.cholesky_solve(right, torch.linalg.cholesky(gram + r * scale * eye)) + mean_y for r in ridges]
