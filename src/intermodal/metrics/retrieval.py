"""Retrieval: how near the top of a ranked gallery the right item comes.

Ties are broken at random, in expectation: where the best relevant item shares its score with others, each
order of the tied items counts alike. A constant embedding therefore scores exactly as chance does.

Shapes: N queries, M gallery items, D features, P relevant pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Relevant = Tensor | Sequence[int] | Sequence[Sequence[int]] | Mapping[int, Sequence[int]]
"""What is right for each query: see :func:`retrieval`."""

TILE = 2048
"""Queries and gallery items whose scores are held at a time: 32 MB."""
PAIRS = 16_384
"""Relevant pairs whose scores are computed at a time."""
TOLERANCE = 1e-12
"""Scores nearer than this (for unit vectors) are tied: more than float64 rounds, less than inputs do."""


def retrieval(
    query_ND: Tensor, gallery_MD: Tensor, relevant: Relevant, *, ks: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """Return recall at each k and the median rank of the best relevant item, by dot product.

    Recall at k is the share of queries with at least one relevant item among the first k (the convention for
    pictures with several captions). The median rank is the smallest rank that at least half of the queries
    reach. Both are expectations over random orders of tied items. Scores are computed in float64, in tiles:
    memory is O((N + M) D + tile^2 + P).

    Args:
        query_ND: query embeddings, any floating dtype and device; unit vectors make the dot product the
            cosine.
        gallery_MD: gallery embeddings.
        relevant: the gallery's right items for each query: ids of shape ``(N,)`` where each has one, a
            sequence of N sequences of ids, a mapping from each query's number to its ids, or a boolean tensor
            of shape ``(N, M)``.
        ks: the depths at which to cut, each at least 1.

    Returns:
        ``{"R@1": ..., "R@5": ..., "R@10": ..., "median_rank": ...}``: recalls in [0, 1], the rank from 1 to
        M.

    Raises:
        ValueError: if shapes do not fit, an embedding is not finite, a query has no relevant item, or an id
            is not in the gallery.
    """
    if query_ND.ndim != 2 or gallery_MD.ndim != 2 or query_ND.shape[1] != gallery_MD.shape[1]:
        raise ValueError(
            "Queries and gallery must have shapes (N, D) and (M, D), "
            f"found {list(query_ND.shape)} and {list(gallery_MD.shape)}."
        )
    for name, tensor in (("query", query_ND), ("gallery", gallery_MD)):
        if not (finite := torch.isfinite(tensor).all(1)).all():
            raise ValueError(f"The {name} embedding in row {int(finite.int().argmin())} is not finite.")
    queries, items = _pairs(relevant, len(query_ND), len(gallery_MD))
    return _summary(*_standing(query_ND, gallery_MD, queries, items), len(gallery_MD), ks)


def chance(relevant: Relevant, queries: int, gallery: int, *, ks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """Return what :func:`retrieval` gives, in expectation, when the gallery is ordered at random.

    Recall at k is one minus the hypergeometric probability that none of a query's r relevant items is among k
    of M drawn without replacement, ``C(M - r, k) / C(M, k)``, averaged over the queries.

    Args:
        relevant: as for :func:`retrieval`.
        queries: N, the number of queries.
        gallery: M, the number of gallery items.
        ks: the depths at which to cut.

    Returns:
        The same keys as :func:`retrieval`.

    Raises:
        ValueError: if a query has no relevant item or an id is not in the gallery.
    """
    right = torch.bincount(_pairs(relevant, queries, gallery)[0], minlength=queries)
    return _summary(torch.zeros_like(right), torch.full_like(right, gallery), right, gallery, ks)


def _summary(above: Tensor, tied: Tensor, right: Tensor, gallery: int, ks: Sequence[int]) -> dict[str, float]:
    if any(k < 1 for k in ks):
        raise ValueError(f"Each k must be at least 1, found {list(ks)}.")
    found = {f"R@{k}": _hit(k, above, tied, right) for k in ks}
    low, high = 1, gallery
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _hit(middle, above, tied, right) >= 0.5 else (middle + 1, high)
    return {**found, "median_rank": float(low)}


def _hit(k: int, above: Tensor, tied: Tensor, right: Tensor) -> float:
    """Return the mean probability that a right item is among the first k.

    Args:
        k: the depth.
        above: for each query, the items that score above its best right item.
        tied: the items that score the same, itself included.
        right: how many of those are right.
    """
    drawn = (k - above).clamp(min=0).minimum(tied)
    # The probability of no right item among the drawn is C(tied - right, drawn) / C(tied, drawn), which
    # equals C(tied - drawn, right) / C(tied, right): take the one with fewer factors.
    steps, taken = (right, drawn) if right.max() <= drawn.max() else (drawn, right)
    miss = torch.ones(len(above), dtype=torch.float64)
    for i in range(int(steps.max())):
        factor = (tied - taken - i).clamp(min=0) / (tied - i).clamp(min=1).double()
        miss = torch.where(i < steps, miss * factor, miss)
    return 1.0 - float(miss.mean())


def _standing(query_ND: Tensor, gallery_MD: Tensor, queries: Tensor, items: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return for each query: items above its best right item, items level with it, right ones level."""
    device = torch.device("cpu") if query_ND.device.type == "mps" else query_ND.device  # MPS has no float64
    query_ND, gallery_MD = query_ND.detach().to(device), gallery_MD.detach().to(device)
    queries, items = queries.to(device), items.to(device)
    count = len(query_ND)
    # TOLERANCE is meant for unit vectors.
    longest = torch.linalg.vector_norm(gallery_MD, dim=1, dtype=torch.float64).amax()
    tolerance = TOLERANCE * longest * torch.linalg.vector_norm(query_ND, dim=1, dtype=torch.float64)

    scores = torch.cat(
        [
            (query_ND[q].double() * gallery_MD[i].double()).sum(1)
            for q, i in zip(queries.split(PAIRS), items.split(PAIRS), strict=True)
        ]
    )
    best = torch.full((count,), -torch.inf, dtype=torch.float64, device=device)
    best.scatter_reduce_(0, queries, scores, "amax")
    level, higher = best - tolerance, best + tolerance
    right = torch.bincount(queries[scores >= level[queries]], minlength=count)

    above, not_below = torch.zeros_like(right), torch.zeros_like(right)
    for start in range(0, count, TILE):
        rows = slice(start, start + TILE)
        query_nD = query_ND[rows].double()
        for gallery_mD in gallery_MD.split(TILE):
            scores_nm = query_nD @ gallery_mD.double().T
            above[rows] += (scores_nm > higher[rows, None]).sum(1)
            not_below[rows] += (scores_nm >= level[rows, None]).sum(1)
    tied = not_below - above
    return above.cpu(), tied.cpu(), right.minimum(tied).cpu()


def _pairs(relevant: Relevant, queries: int, gallery: int) -> tuple[Tensor, Tensor]:
    """Return the relevant pairs as two int64 tensors of shape ``(P,)``, without repetitions."""
    if isinstance(relevant, Tensor) and relevant.dtype == torch.bool:
        if relevant.shape != (queries, gallery):
            raise ValueError(
                f"A boolean ground truth must have shape {[queries, gallery]}, found {list(relevant.shape)}."
            )
        query_P, item_P = relevant.cpu().nonzero().unbind(1)
    else:
        query_P, item_P = _listed(relevant, queries)
        if len(item_P) and not (int(item_P.min()) >= 0 and int(item_P.max()) < gallery):
            raise ValueError(
                f"Relevant ids must be from 0 to {gallery - 1}, found {int(item_P.min())} to {int(item_P.max())}."
            )
        query_P, item_P = torch.unique(torch.stack((query_P, item_P)), dim=1).unbind(0)
    if (without := torch.bincount(query_P, minlength=queries) == 0).any() or queries == 0:
        some = f"query {int(without.int().argmax())} has none" if queries else "there are no queries"
        raise ValueError(f"Every query needs a relevant item in the gallery: {some}.")
    return query_P, item_P


def _listed(relevant: Relevant, queries: int) -> tuple[Tensor, Tensor]:
    if isinstance(relevant, Mapping):
        if unknown := [q for q in relevant if not 0 <= q < queries]:
            raise ValueError(f"Relevant items are given for query {unknown[0]}, but queries are 0 to {queries - 1}.")
        lists: list[Sequence[int]] = [relevant.get(q, ()) for q in range(queries)]
    else:
        rows: list[Any] = relevant.tolist() if isinstance(relevant, Tensor) else list(relevant)
        if len(rows) != queries:
            raise ValueError(f"There are {queries} queries, but relevant items for {len(rows)}.")
        lists = [list(row) if isinstance(row, Sequence) else [row] for row in rows]
    lengths = torch.tensor([len(row) for row in lists], dtype=torch.int64)
    flat = torch.tensor([int(i) for row in lists for i in row], dtype=torch.int64)
    return torch.arange(queries).repeat_interleave(lengths), flat
