"""InfoNCE in one direction: each query against a list of candidates, of which one is its own.

The matrix of logits is made and used a few rows at a time, and made again in the backward pass: memory is linear.

Shapes: B queries, M candidates (M >= B), D features.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from intermodal.losses.distributed import all_gather_with_grad, is_distributed, rank_and_world

ROWS = 1024
"""Queries whose logits are held at once."""


def softmax_over_candidates(
    query_BD: Tensor, candidate_MD: Tensor, logit_scale: float | Tensor, *, gather: bool = True, rows: int = ROWS
) -> Tensor:
    """Return the mean over queries of ``-log softmax(logit_scale * query @ candidates.T)`` at each query's own candidate.

    The own candidate of query i is candidate i; the candidates behind the first B belong to nobody (hard negatives).
    This is van den Oord et al. 2018 (arXiv:1807.03748), equation 4, as Gao et al. 2021 (arXiv:2104.08821) use it in
    equations 4 and 5; the loss of CLIP is the mean of this in both directions.

    Args:
        query_BD: unit vectors, shape ``(B, D)``, any floating dtype; sums are in float32, for float64 in float64.
        candidate_MD: unit vectors, shape ``(M, D)``, M from B.
        logit_scale: inverse temperature.
        gather: compare with the candidates of all ranks when torch.distributed is initialised; every rank must then
            call with equal shapes. The mean over ranks, which DistributedDataParallel takes, is the loss of the whole.
        rows: queries whose logits are held at once; it changes memory, not the result.

    Returns:
        A scalar, at least 0, float32 (float64 for float64 input).

    Raises:
        ValueError: if shapes do not fit together or a query has no candidate.
    """
    if query_BD.dim() != 2 or candidate_MD.dim() != 2 or query_BD.shape[1] != candidate_MD.shape[1]:
        raise ValueError(
            f"Queries (B, D) and candidates (M, D) are needed, found {list(query_BD.shape)} and "
            f"{list(candidate_MD.shape)}."
        )
    if not 1 <= len(query_BD) <= len(candidate_MD):
        raise ValueError(f"{len(query_BD)} queries need at least as many candidates, found {len(candidate_MD)}.")
    precise = torch.float64 if query_BD.dtype == torch.float64 else torch.float32
    first = 0
    if gather and is_distributed():
        first = rank_and_world()[0] * len(candidate_MD)
        candidate_MD = all_gather_with_grad(candidate_MD)
    with torch.autocast(query_BD.device.type, enabled=False):
        query_BD, candidate_MD = query_BD.to(precise) * logit_scale, candidate_MD.to(precise)
        total = query_BD.new_zeros(())
        for start in range(0, len(query_BD), rows):
            part_bD = query_BD[start : start + rows]
            own_b = torch.arange(first + start, first + start + len(part_bD), device=part_bD.device)
            if len(query_BD) <= rows:
                total = total + _sum(part_bD, candidate_MD, own_b)
            else:
                total = total + checkpoint(_sum, part_bD, candidate_MD, own_b, use_reentrant=False)
        return total / len(query_BD)


def _sum(query_bD: Tensor, candidate_MD: Tensor, own_b: Tensor) -> Tensor:
    return F.cross_entropy(query_bD @ candidate_MD.T, own_b, reduction="sum")
