"""The geometry of an embedding: alignment, uniformity, effective rank, the gap between modalities.

All are computed in float64. Shapes: N samples, D features.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

TILE = 2048
"""Rows whose distances are held at a time: 32 MB."""


def alignment(x_ND: Tensor, y_ND: Tensor, alpha: float = 2.0) -> float:
    """Return the mean of ``|x_i - y_i| ** alpha`` over positive pairs: 0 is perfect.

    Wang & Isola 2020 (arXiv:2005.10242), section 4.1.

    Args:
        x_ND: unit vectors, shape ``(N, D)``.
        y_ND: their partners, row by row.
        alpha: exponent, positive.

    Returns:
        A number from 0 to ``2 ** alpha`` for unit vectors.

    Raises:
        ValueError: if the shapes differ or there are no rows.
    """
    _check_rows(x_ND, 1)
    if x_ND.shape != y_ND.shape:
        raise ValueError(f"Partners must have one shape, found {list(x_ND.shape)} and {list(y_ND.shape)}.")
    return float(torch.linalg.vector_norm(_double(x_ND) - _double(y_ND), dim=1).pow(alpha).mean())


def uniformity(x_ND: Tensor, t: float = 2.0) -> float:
    """Return the logarithm of the mean of ``exp(-t |x_i - x_j|^2)`` over pairs i < j: less is better.

    Wang & Isola 2020 (arXiv:2005.10242), section 4.1. Memory is O(N D + tile^2).

    Args:
        x_ND: unit vectors, shape ``(N, D)``, N at least 2.
        t: inverse width of the kernel, positive.

    Returns:
        A number from ``-4 t`` (for unit vectors; about ``-2 t`` when spread over many dimensions) to 0
        (collapsed).

    Raises:
        ValueError: if ``x_ND`` is no matrix of two rows or more.
    """
    _check_rows(x_ND, 2)
    x_ND = _double(x_ND)
    square_N = x_ND.square().sum(1)
    count = len(x_ND)
    total = torch.full((), -torch.inf, dtype=torch.float64, device=x_ND.device)
    for start in range(0, count, TILE):
        rows = slice(start, start + TILE)
        for other in range(start, count, TILE):
            columns = slice(other, other + TILE)
            distance = square_N[rows, None] + square_N[columns] - 2 * x_ND[rows] @ x_ND[columns].T
            exponent = distance.clamp_(min=0).mul_(-t)
            if start == other:
                exponent.masked_fill_(torch.ones_like(exponent, dtype=torch.bool).tril(), -torch.inf)
            total = torch.logaddexp(total, exponent.flatten().logsumexp(0))
    return float(total) - math.log(count * (count - 1) / 2)


def effective_rank(x_ND: Tensor) -> float:
    """Return how many dimensions are in use: exp of the entropy of the normalised singular values.

    Roy & Vetterli 2007, "The effective rank", equation 2; on embeddings it is RankMe (Garrido et al. 2023,
    arXiv:2210.02885). Rows are taken as they are, not centred.

    Args:
        x_ND: embeddings, shape ``(N, D)``.

    Returns:
        From 1 (all rows parallel) to ``min(N, D)``; 0 if every entry is zero.

    Raises:
        ValueError: if ``x_ND`` is no matrix with rows, or not finite.
    """
    _check_rows(x_ND, 1)
    if not torch.isfinite(x_ND).all():
        raise ValueError("The embeddings are not finite, so they have no singular values.")
    sigma = torch.linalg.svdvals(_double(x_ND))
    if sigma.sum() == 0:
        return 0.0
    return float(torch.special.entr(sigma / sigma.sum()).sum().exp())


def modality_gap(x_ND: Tensor, y_MD: Tensor) -> float:
    """Return the distance between the mean embeddings of two modalities.

    Liang et al. 2022 (arXiv:2203.02053), section 4.2.

    Args:
        x_ND: unit vectors of one modality, shape ``(N, D)``.
        y_MD: unit vectors of the other, shape ``(M, D)``.

    Returns:
        A number from 0 to 2 for unit vectors.

    Raises:
        ValueError: if there are no rows or the features differ in number.
    """
    _check_rows(x_ND, 1)
    _check_rows(y_MD, 1)
    if x_ND.shape[1] != y_MD.shape[1]:
        raise ValueError(f"Both must have the same number of features, found {x_ND.shape[1]} and {y_MD.shape[1]}.")
    return float(torch.linalg.vector_norm(_double(x_ND).mean(0) - _double(y_MD).mean(0)))


def _double(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()  # MPS has no float64


def _check_rows(tensor: Tensor, least: int) -> None:
    if tensor.ndim != 2 or tensor.shape[0] < least or tensor.shape[1] < 1:
        raise ValueError(f"Embeddings must have shape (N, D), N at least {least}, found {list(tensor.shape)}.")
