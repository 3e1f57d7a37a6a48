"""Distances between embeddings: one vocabulary for pairs, miners and losses.

=====================  ===========================================  ===============
name                   d(x, y)                                      range
=====================  ===========================================  ===============
``euclidean``          ``|x - y|``                                  from 0
``squared_euclidean``  ``|x - y|^2``                                from 0
``cosine``             ``1 - x.y / (|x| |y|)``                      0 to 2
=====================  ===========================================  ===============

Embeddings are taken as they are; pass them through :func:`unit` first where a paper compares unit vectors.

Shapes: N and M embeddings, D features.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from intermodal.losses.tiles import full_precision

Distance = Literal["euclidean", "squared_euclidean", "cosine"]


def unit(x_ND: Tensor) -> Tensor:
    """Return each row divided by its length; a row of zeros stays zeros and has a zero gradient.

    Args:
        x_ND: any shape ``(..., D)``, any floating dtype.

    Returns:
        The same shape, float32 (float64 for float64 input), also under autocast. NaN in gives NaN out.
    """
    with full_precision(x_ND):
        x_ND = precise(x_ND)
        length = torch.linalg.vector_norm(x_ND, dim=-1, keepdim=True)
        return x_ND / torch.where(length == 0, torch.inf, length)


def rowwise_distance(x_ND: Tensor, y_ND: Tensor, distance: Distance = "euclidean") -> Tensor:
    """Return the distance of each row of ``x`` to the same row of ``y``.

    Where two rows are equal the Euclidean distance has no derivative; its gradient is 0 there.

    Args:
        x_ND: shape ``(..., D)``, any floating dtype.
        y_ND: the same shape.
        distance: one of the names at the head of this module.

    Returns:
        Shape ``(...)``, float32 (float64 for float64 input), also under autocast.

    Raises:
        ValueError: if the shapes differ or the distance is unknown.
    """
    check_distance(distance)
    if x_ND.shape != y_ND.shape or x_ND.ndim == 0:
        raise ValueError(f"Both must have one shape (..., D), found {list(x_ND.shape)} and {list(y_ND.shape)}.")
    with full_precision(x_ND):
        if distance == "cosine":
            return 1 - (unit(x_ND) * unit(y_ND)).sum(-1)
        difference = precise(x_ND) - precise(y_ND)
        if distance == "euclidean":
            return torch.linalg.vector_norm(difference, dim=-1)  # its gradient at 0 is 0
        return difference.square().sum(-1)


def pairwise_distance(x_ND: Tensor, y_MD: Tensor, distance: Distance = "euclidean") -> Tensor:
    """Return the distance of every row of ``x`` to every row of ``y``: a matrix, which the losses never hold.

    Args:
        x_ND: shape ``(N, D)``, any floating dtype.
        y_MD: shape ``(M, D)``.
        distance: one of the names at the head of this module.

    Returns:
        Shape ``(N, M)``, float32 (float64 for float64 input), also under autocast.

    Raises:
        ValueError: if the shapes do not fit together or the distance is unknown.
    """
    check_distance(distance)
    if x_ND.ndim != 2 or y_MD.ndim != 2 or x_ND.shape[1] != y_MD.shape[1]:
        raise ValueError(f"Expected shapes (N, D) and (M, D), found {list(x_ND.shape)} and {list(y_MD.shape)}.")
    with full_precision(x_ND):
        if distance == "cosine":
            return 1 - unit(x_ND) @ unit(y_MD).T
        x_ND, y_MD = precise(x_ND), precise(y_MD)
        apart = torch.cdist(x_ND, y_MD, compute_mode="donot_use_mm_for_euclid_dist")  # its gradient at 0 is 0
        return apart if distance == "euclidean" else apart.square()


def precise(x: Tensor) -> Tensor:
    """Return ``x`` in the dtype that losses are computed in: float64 as it is, any other as float32."""
    return x if x.dtype == torch.float64 else x.to(torch.float32)


def check_distance(distance: str) -> None:
    """Raise ValueError if there is no such distance."""
    if distance not in get_args(Distance):
        raise ValueError(f"There is no distance {distance!r}: choose one of {', '.join(get_args(Distance))}.")


def check_embeddings(x_ND: Tensor, name: str = "Embeddings") -> None:
    """Raise ValueError unless ``x`` is of shape ``(N, D)``, not empty, and of a floating dtype."""
    if x_ND.ndim != 2 or x_ND.numel() == 0:
        raise ValueError(f"{name} must have shape (N, D) with N and D at least 1, found {list(x_ND.shape)}.")
    if not x_ND.is_floating_point():
        raise ValueError(f"{name} must be of a floating dtype, found {x_ND.dtype}.")


def check_labels(labels_N: Tensor, x_ND: Tensor) -> None:
    """Raise ValueError unless there is one integer label for each embedding, on the same device."""
    if labels_N.shape != x_ND.shape[:1]:
        raise ValueError(
            f"Expected one label for each of {x_ND.shape[0]} embeddings, found shape {list(labels_N.shape)}."
        )
    if labels_N.is_floating_point() or labels_N.is_complex():
        raise ValueError(f"Labels must be integers, found {labels_N.dtype}.")
    if labels_N.device != x_ND.device:
        raise ValueError(f"Labels and embeddings must be on one device, found {labels_N.device} and {x_ND.device}.")
