"""How far two sets of pictures are from one another as sets, by the features of each picture.

Three families, all on features of a network that the caller names, because a figure means nothing without it: "Fréchet
distance on features-v1" is what ours is called. (FID and KID are the published figures on one Inception network; no figure
here can be compared with them.)

- The Fréchet distance between the Gaussians of two sets (Heusel et al. 2017, section "Fréchet Inception Distance").
- The kernel distance: an unbiased estimate of the squared maximum mean discrepancy under a cubic kernel (Bińkowski et al.
  2018, section 4).
- Precision and recall by nearest neighbours (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020), which tell
  pictures that are wrong from pictures that are lacking.

Shapes: N first pictures, M second pictures, D features, n a tile of rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from intermodal.core.errors import DataError
from intermodal.metrics.knn import check_finite

TILE = 1 << 22
"""Numbers of a pairwise matrix held at a time."""
SAMPLES_PER_FEATURE = 20
"""Below so many pictures for each feature :func:`few_samples` speaks up: the bias is then no longer small."""


def frechet_distance(first_ND: Tensor, second_MD: Tensor) -> float:
    """Return the squared Fréchet distance between the Gaussians of two sets of features.

    ``|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))`` with the sets' means and their covariances over ``N - 1`` (Dowson &
    Landau 1982; Heusel et al. 2017). The trace of the root is computed without a root: with ``S = R^T R / (N - 1)`` from the
    QR decomposition of the centred features it is the sum of the singular values of ``R1 R2^T``, which is exact to rounding
    also where a covariance is singular.

    The estimate is biased upwards, the more so the fewer pictures and the more features (Bińkowski et al. 2018, section 4):
    two sets of one distribution are not at 0. Compare at equal numbers of pictures only; :func:`few_samples` says when the
    bias is large.

    Args:
        first_ND: features of at least two pictures, shape ``(N, D)``.
        second_MD: features of the other set, shape ``(M, D)``.

    Returns:
        The squared distance, at least 0; computed in float64.

    Raises:
        DataError: if a set has fewer than two pictures.
        ValueError: if the shapes do not fit or a feature is not finite.
    """
    first, second = _features(first_ND, second_MD)
    mean1, root1 = _gaussian(first)
    mean2, root2 = _gaussian(second)
    shared = torch.linalg.svdvals(root1 @ root2.T).sum()
    spread = root1.square().sum() + root2.square().sum() - 2 * shared
    return max(0.0, float((mean1 - mean2).square().sum() + spread))


def few_samples(first: int, second: int, features: int) -> str | None:
    """Say in words that a Fréchet distance is biased because a set is small, or return None.

    Args:
        first: pictures of one set.
        second: pictures of the other.
        features: D.
    """
    least = min(first, second)
    if least >= SAMPLES_PER_FEATURE * features:
        return None
    singular = " and its covariance is singular" if least <= features else ""
    return (
        f"The smaller set has {least:,} pictures for {features} features{singular}: its Fréchet distance is biased upwards, "
        "so compare it only with one over as many pictures; the kernel distance has no such bias."
    )


def kernel_distance(first_ND: Tensor, second_MD: Tensor) -> float:
    """Return the unbiased squared maximum mean discrepancy under the kernel ``(x . y / D + 1)^3``.

    It is the U-statistic over all pairs of different pictures (Gretton et al. 2012, equation 3; Bińkowski et al. 2018,
    section 4, who average it over random subsets to save time; nothing is drawn here). Its mean over sets is the true value
    at any number of pictures, so two sets of one distribution give about 0, on either side.

    Args:
        first_ND: features of at least two pictures, shape ``(N, D)``.
        second_MD: features of the other set, shape ``(M, D)``.

    Returns:
        The squared discrepancy, which may be slightly below 0.

    Raises:
        DataError: if a set has fewer than two pictures.
        ValueError: if the shapes do not fit or a feature is not finite.
    """
    first, second = _features(first_ND, second_MD)
    n, m = len(first), len(second)
    within = (_kernel_sum(first, first) - _self_sum(first)) / (n * (n - 1))
    within += (_kernel_sum(second, second) - _self_sum(second)) / (m * (m - 1))
    return within - 2 * _kernel_sum(first, second) / (n * m)


@dataclass(frozen=True)
class Coverage:
    """What :func:`coverage` returns; each number is a share, but ``density``, which can exceed 1.

    Attributes:
        precision: generated pictures that lie among the real ones: in the ball of at least one of them.
        recall: real pictures that lie among the generated ones.
        density: real balls in which a generated picture lies, over k, on average.
        coverage: real pictures in whose ball at least one generated picture lies.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def coverage(real_ND: Tensor, generated_MD: Tensor, k: int = 3) -> Coverage:
    """Return precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020).

    A picture's ball reaches to the k-th nearest other picture of its own set; what lies exactly on it is inside
    (Kynkäänniemi et al., equation 1). Precision and recall grow with outliers, whose balls are large: density and coverage
    are less moved by them.

    Args:
        real_ND: features of the real pictures, shape ``(N, D)``.
        generated_MD: features of the generated pictures, shape ``(M, D)``.
        k: which neighbour a ball reaches to; the first paper takes 3, the second 5.

    Raises:
        DataError: if a set has no k-th other picture.
        ValueError: if the shapes do not fit, a feature is not finite or ``k`` is below 1.
    """
    real, generated = _features(real_ND, generated_MD)
    if k < 1:
        raise ValueError(f"k must be at least 1, found {k}.")
    if min(len(real), len(generated)) <= k:
        raise DataError(
            f"The {k}-th neighbour of a picture in its own set needs more than {k} pictures in each set, found "
            f"{len(real)} and {len(generated)}."
        )
    radius_N, radius_M = _radius(real, k), _radius(generated, k)
    covered_N = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    recalled_N, balls_M = torch.zeros_like(covered_N), []
    rows = max(1, TILE // len(real))
    for tile_nD, radius_n in zip(generated.split(rows), radius_M.split(rows), strict=True):
        distance_nN = _distances(tile_nD, real)
        inside_nN = distance_nN <= radius_N
        balls_M.append(inside_nN.sum(1))
        covered_N |= inside_nN.any(0)
        recalled_N |= (distance_nN <= radius_n[:, None]).any(0)
    balls = torch.cat(balls_M).double()
    return Coverage(
        precision=float((balls > 0).double().mean()),
        recall=float(recalled_N.double().mean()),
        density=float(balls.mean() / k),
        coverage=float(covered_N.double().mean()),
    )


def _gaussian(features_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the triangular R with ``R^T R`` the covariance."""
    mean_D = features_ND.mean(0)
    root_rD = torch.linalg.qr((features_ND - mean_D) / (len(features_ND) - 1) ** 0.5, mode="r").R
    return mean_D, root_rD


def _kernel_sum(x_ND: Tensor, y_MD: Tensor) -> float:
    rows = max(1, TILE // len(y_MD))
    return sum(float((tile_nD @ y_MD.T / x_ND.shape[1] + 1).pow(3).sum()) for tile_nD in x_ND.split(rows))


def _self_sum(x_ND: Tensor) -> float:
    return float((x_ND.square().sum(1) / x_ND.shape[1] + 1).pow(3).sum())


def _radius(x_ND: Tensor, k: int) -> Tensor:
    """Return the distance of each picture to its k-th nearest other one."""
    rows = max(1, TILE // len(x_ND))
    # The picture itself, at 0, is one of the k + 1 smallest, whichever of its equals comes first.
    return torch.cat([_distances(tile, x_ND).kthvalue(k + 1, dim=1).values for tile in x_ND.split(rows)])


def _distances(x_nD: Tensor, y_MD: Tensor) -> Tensor:
    return torch.cdist(x_nD, y_MD, compute_mode="donot_use_mm_for_euclid_dist")


def _features(first_ND: Tensor, second_MD: Tensor) -> tuple[Tensor, Tensor]:
    if first_ND.ndim != 2 or second_MD.ndim != 2 or first_ND.shape[1] != second_MD.shape[1] or not first_ND.shape[1]:
        raise ValueError(
            "Two sets of features have shapes (N, D) and (M, D), D at least 1, found "
            f"{list(first_ND.shape)} and {list(second_MD.shape)}."
        )
    if min(len(first_ND), len(second_MD)) < 2:
        raise DataError(
            f"The distance of two sets needs at least two pictures in each, found {len(first_ND)} and {len(second_MD)}."
        )
    check_finite(first_ND, "first set's feature")
    check_finite(second_MD, "second set's feature")
    return first_ND.detach().double(), second_MD.detach().double()
