"""k-nearest-neighbour classification of frozen features, by cosine.

A query takes the labels of the training features that are most alike. Memory is linear: queries are taken in tiles
whose similarities to all training features are held at a time.

Shapes: N training features, M queries, D features, C classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TILE = 1 << 23
"""Similarities held at a time: 32 MB of float32."""
TOLERANCE = 1e-6
"""Cosines nearer than this are tied: more than float32 rounds."""
DECIMALS = 6
"""Of a class's share of the votes."""


def knn_scores(
    train_ND: Tensor,
    labels_N: Tensor,
    query_MD: Tensor,
    *,
    classes: int,
    k: int = 20,
    temperature: float | None = 0.07,
) -> Tensor:
    """Return each class's share of the votes of the k nearest training features, by cosine.

    A neighbour of similarity s votes with the weight ``exp(s / temperature)`` (Wu et al. 2018, arXiv:1805.01978, section
    3.4; k = 20 and 0.07 are those of DINO, Caron et al. 2021), or with the weight 1.

    Ties are fair and do not depend on the order of the training features: neighbours level with the k-th share the places
    that are left for them. Classes with the same votes have the same score, which
    :func:`~intermodal.metrics.classification.top_k_accuracy` counts in expectation.

    Args:
        train_ND: training features, any floating dtype; they are scaled to length one, in float32.
        labels_N: their classes, integers from 0 to C - 1.
        query_MD: the features to classify.
        classes: C.
        k: how many neighbours vote, at least 1; all of them where there are fewer.
        temperature: positive; None for a plain majority.

    Returns:
        float32 ``(M, C)`` on the CPU; each row sums to one up to rounding (to six decimals).

    Raises:
        ValueError: if shapes do not fit, there is no training feature, a feature is not finite (the first is named), a
            label is no class, or ``k`` or ``temperature`` is not positive.
    """
    _check(train_ND, labels_N, query_MD, classes)
    if k < 1 or (temperature is not None and not temperature > 0):
        raise ValueError(f"k and temperature must be positive, found {k} and {temperature}.")
    train_ND = F.normalize(train_ND.detach().float(), dim=1)
    query_MD = F.normalize(query_MD.detach().to(train_ND.device).float(), dim=1)
    labels_N, k = labels_N.detach().cpu().long(), min(k, len(train_ND))
    scores_MC = torch.empty(len(query_MD), classes)
    rows = max(1, TILE // len(train_ND))
    for start in range(0, len(query_MD), rows):
        similarity_mN = (query_MD[start : start + rows] @ train_ND.T).cpu()
        scores_MC[start : start + rows] = _votes(similarity_mN, labels_N, classes, k, temperature)
    return scores_MC


def _votes(similarity_mN: Tensor, labels_N: Tensor, classes: int, k: int, temperature: float | None) -> Tensor:
    top_mk = similarity_mN.topk(k, dim=1).values
    kth_m1 = top_mk[:, -1:]
    row_P, column_P = (similarity_mN >= kth_m1 - TOLERANCE).nonzero().unbind(1)
    similarity_P = similarity_mN[row_P, column_P]
    above_P = similarity_P > (kth_m1 + TOLERANCE)[row_P, 0]
    above_m = torch.bincount(row_P[above_P], minlength=len(similarity_mN))
    level_m = torch.bincount(row_P, minlength=len(similarity_mN)) - above_m
    share_P = torch.where(above_P, 1.0, ((k - above_m) / level_m)[row_P]).double()
    if temperature is not None:  # against the nearest, so that no exponential overflows
        share_P = share_P * ((similarity_P - top_mk[row_P, 0]) / temperature).double().exp()
    votes_mC = torch.bincount(row_P * classes + labels_N[column_P], share_P, minlength=len(similarity_mN) * classes)
    votes_mC = votes_mC.view(-1, classes)
    # Rounded, so that what float32 leaves between equal cosines does not decide between classes with equal votes.
    return (votes_mC / votes_mC.sum(1, keepdim=True)).round(decimals=DECIMALS).float()


def _check(train_ND: Tensor, labels_N: Tensor, query_MD: Tensor, classes: int) -> None:
    if train_ND.ndim != 2 or query_MD.ndim != 2 or train_ND.shape[1] != query_MD.shape[1] or train_ND.numel() == 0:
        raise ValueError(
            "Training features and queries must have shapes (N, D) and (M, D), N and D at least 1, "
            f"found {list(train_ND.shape)} and {list(query_MD.shape)}."
        )
    check_labels(labels_N, len(train_ND), classes)
    check_finite(train_ND, "training feature")
    check_finite(query_MD, "query")


def check_labels(labels_N: Tensor, count: int, classes: int) -> None:
    """Raise a ValueError unless there are ``count`` integer labels from 0 to ``classes - 1``."""
    if labels_N.shape != (count,) or labels_N.is_floating_point():
        raise ValueError(f"Labels must be {count} integers, found {labels_N.dtype} of shape {list(labels_N.shape)}.")
    if count and not (int(labels_N.min()) >= 0 and int(labels_N.max()) < classes):
        raise ValueError(
            f"Labels must be from 0 to {classes - 1}, found {int(labels_N.min())} to {int(labels_N.max())}."
        )


def check_finite(features_ND: Tensor, what: str) -> None:
    """Raise a ValueError that names the first row that is not finite."""
    if not (finite_N := torch.isfinite(features_ND).all(1)).all():
        raise ValueError(f"The {what} in row {int(finite_N.int().argmin())} is not finite.")
