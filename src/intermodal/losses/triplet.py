"""The triplet loss: an anchor nearer to its positive than to its negative, by a margin.

Shapes: B embeddings over all ranks, b of them on this rank, N triplets, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from intermodal.losses.all_pairs import Batch, Classes
from intermodal.losses.distance_tiles import Distances
from intermodal.losses.distances import (
    Distance,
    check_distance,
    check_embeddings,
    check_labels,
    precise,
    rowwise_distance,
    unit,
)
from intermodal.losses.distributed import all_gather_with_grad, total_over_ranks
from intermodal.losses.miners import Anchors, anchors, hardest
from intermodal.losses.pair import Reduction, check_reduction
from intermodal.losses.tiles import differentiable_once, full_precision

Mining = Literal["all", "hard", "semihard"]
FEW = 8
"""Up to so many positives of an anchor, comparing with each is faster than searching among them."""


def triplet_loss(
    anchor_ND: Tensor,
    positive_ND: Tensor,
    negative_ND: Tensor,
    *,
    distance: Distance = "euclidean",
    margin: float = 0.2,
    soft: bool = False,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return the loss of given triplets.

    ``max(0, d(anchor, positive) - d(anchor, negative) + margin)``: Schroff et al. 2015 (arXiv:1503.03832),
    equation 2, with ``distance="squared_euclidean"`` of unit vectors; with the plain Euclidean distance,
    Hermans et al. 2017 (arXiv:1703.07737), equation 1.

    Args:
        anchor_ND: shape ``(N, D)``, any floating dtype.
        positive_ND: what belongs to the anchors, the same shape.
        negative_ND: what does not, the same shape.
        distance: see :mod:`intermodal.losses.distances`.
        margin: in units of ``distance``.
        soft: ``log(1 + exp(x))`` in place of ``max(0, x)``: Hermans et al. 2017, section 2, "soft-margin"
            (there with ``margin=0``).
        reduction: ``mean`` over all triplets, or over the ``nonzero`` ones.

    Returns:
        A scalar, at least 0, float32 (float64 for float64 input), also under autocast; 0 with a zero gradient
        where there is no triplet. NaN in gives NaN out.

    Raises:
        ValueError: if the shapes differ or an option is unknown.
    """
    check_reduction(reduction)
    cost_N = rowwise_distance(anchor_ND, positive_ND, distance) - rowwise_distance(anchor_ND, negative_ND, distance)
    cost_N = _cost(cost_N + margin, soft)
    return cost_N.sum() / _count(cost_N, reduction).clamp(min=1)


def batch_triplet_loss(
    embeddings_BD: Tensor,
    labels_B: Tensor,
    *,
    mining: Mining = "semihard",
    distance: Distance = "euclidean",
    margin: float = 0.2,
    soft: bool = False,
    reduction: Reduction = "nonzero",
    gather: bool = True,
    group: dist.ProcessGroup | None = None,
    tile: int | None = None,
) -> Tensor:
    """Return the triplet loss of a labelled batch, over the triplets that ``mining`` chooses.

    A triplet is an anchor a, another embedding p of its label and an embedding n of another label:

    - ``all``: every triplet ("batch all", Hermans et al. 2017, equation 6; with the mean over ``nonzero``);
    - ``semihard``: every triplet with ``d(a, p) < d(a, n) < d(a, p) + margin`` (Schroff et al. 2015, equation
      4): the negative is farther than the positive, but within the margin;
    - ``hard``: for each anchor its farthest positive and its nearest negative ("batch hard", Hermans et al.
      2017, equation 5).

    The loss of a triplet is that of :func:`triplet_loss`; the result equals pytorch-metric-learning's
    ``TripletMarginLoss`` with no miner or ``TripletMarginMiner(margin, "all")``, with
    ``TripletMarginMiner(margin, "semihard")``, and with ``BatchHardMiner``.

    *Memory* is O(B D), triplets are never listed: for an anchor, sorting its positives tells for each
    negative with how many of them it violates the margin, and by how much in sum. (``soft`` has no such way:
    with ``all`` and ``semihard`` its time grows with the number of triplets, its memory does not.)
    *Many processes*: every rank returns the loss of the whole batch, and gradients are exact after the
    averaging of DistributedDataParallel. It can be differentiated once.

    Args:
        embeddings_BD: shape ``(B, D)`` (with ``gather``: this rank's ``(b, D)``), any floating dtype.
        labels_B: integer classes, shape ``(B,)``.
        mining: ``all``, ``hard`` or ``semihard``.
        distance: see :mod:`intermodal.losses.distances`.
        margin: in units of ``distance``, at least 0 for ``semihard``.
        soft: ``log(1 + exp(x))`` in place of ``max(0, x)``.
        reduction: the mean over the ``nonzero`` of these triplets, or over all of them (``mean``).
        gather: form triplets with the embeddings of all ranks when torch.distributed is initialised; every
            rank must then call.
        group: the ranks to gather over; None for all.
        tile: the square of it bounds the entries of the distance matrix in memory; None chooses by device. It
            changes speed and memory, not the result.

    Returns:
        A scalar, at least 0, float32 (float64 for float64 input), also under autocast; 0 with a zero gradient
        where there is no such triplet (no two of one label, one label only, a batch of one). Equal embeddings
        (distance 0) have a zero gradient. NaN in gives NaN out.

    Raises:
        ValueError: if shapes do not fit together, an option is unknown, or ranks hold different shapes.
    """
    check_embeddings(embeddings_BD)
    check_labels(labels_B, embeddings_BD)
    check_distance(distance)
    check_reduction(reduction)
    if mining not in get_args(Mining):
        raise ValueError(f"There is no mining {mining!r}: choose one of {', '.join(get_args(Mining))}.")
    with full_precision(embeddings_BD):
        x_bD = unit(embeddings_BD) if distance == "cosine" else precise(embeddings_BD)
        batch = Batch.of(x_bD, gather, group, tile)
        classes = Classes.of(labels_B, batch)
        x_BD = all_gather_with_grad(x_bD, group) if gather else x_bD
        rule = _Rule(mining == "semihard", margin, soft, reduction)
        if mining == "hard":
            total, count = _hardest(x_bD, x_BD, batch, classes, distance, rule)
        else:
            total, count = _Triplets.apply(x_bD, x_BD, batch, classes, distance, rule)
        count = batch.total(count)
        return (total_over_ranks(total, group) if gather else total) / count.clamp(min=1)


@dataclass(frozen=True)
class _Rule:
    semihard: bool
    margin: float
    soft: bool
    reduction: Reduction


def _hardest(  # noqa: PLR0917
    x_bD: Tensor, x_BD: Tensor, batch: Batch, classes: Classes, distance: Distance, rule: _Rule
) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        a, p, n = hardest(Distances(batch, distance), classes)
    anchor_ND = x_bD[a - batch.first]
    gap_N = rowwise_distance(anchor_ND, x_BD[p], distance) - rowwise_distance(anchor_ND, x_BD[n], distance)
    cost_N = _cost(gap_N + rule.margin, rule.soft)
    nothing = (x_bD * 0).sum()  # keeps NaN, and the graph, where there is no triplet
    return nothing + cost_N.sum(), _count(cost_N, rule.reduction)


class _Triplets(torch.autograd.Function):
    """The sum over triplets of this rank's anchors, their number, and, in the same pass, the gradient."""

    @staticmethod
    def forward(  # noqa: PLR0917 (autograd passes arguments by position)
        ctx: Any, x_bD: Tensor, x_BD: Tensor, batch: Batch, classes: Classes, distance: Distance, rule: _Rule
    ) -> tuple[Tensor, Tensor]:
        apart = Distances(batch, distance)
        total = (x_bD * 0).sum()  # keeps NaN where there is no triplet
        count = torch.zeros((), dtype=torch.int64, device=x_bD.device)
        graph = any(ctx.needs_input_grad)
        grad_bD, grad_BD = (torch.zeros_like(x) if graph else None for x in (x_bD, x_BD))
        for some in anchors(apart, classes):
            found = _soft(some, rule) if rule.soft else _hinge(some, rule)
            total += found.total
            count += found.count
            if grad_bD is not None and grad_BD is not None:
                slope_rB = found.by_negative_rB.neg_()
                slope_rB.scatter_add_(1, some.member_rM, found.by_positive_rM)
                apart_rB = some.apart_rB.scatter_(1, some.member_rM, some.to_positive_rM)
                apart.add_rows(grad_bD, grad_BD, apart.weigh(slope_rB, apart_rB), some.i)
        if rule.reduction == "mean" and not rule.semihard:
            positives_b = classes.positives_B[batch.own]
            count = (positives_b * (len(batch.all_BD) - 1 - positives_b)).sum()
        if grad_bD is not None and grad_BD is not None:
            ctx.save_for_backward(grad_bD, grad_BD, x_bD, x_BD)  # inputs for differentiable_once
        ctx.mark_non_differentiable(count)
        return total, count

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad_total: Tensor, grad_count: Tensor) -> tuple[Tensor | None, ...]:
        grad_bD, grad_BD, *_ = ctx.saved_tensors
        return grad_bD * grad_total, grad_BD * grad_total, None, None, None, None


@dataclass(frozen=True)
class _Found:
    """What the triplets of some anchors cost: in sum, their number, and derivatives by the distances."""

    total: Tensor
    count: Tensor
    by_positive_rM: Tensor
    by_negative_rB: Tensor  # by minus the distance


def _hinge(some: Anchors, rule: _Rule) -> _Found:
    """Sum ``d(a, p) + margin - d(a, n)`` over the triplets at which it is above 0, without listing them."""
    positive_rM = some.to_positive_rM.masked_fill(~some.positive_rM, -torch.inf)
    limit_rM, order_rM = (positive_rM + rule.margin).sort(1)
    # A negative is in a triplet with every positive whose limit lies beyond it.
    by_negative_rB, by_positive_rM = _beyond(limit_rM, some.apart_rB, including=False)
    if rule.semihard:  # But not with those that are not nearer than it.
        nearer_rB, fewer_rM = _beyond(positive_rM.gather(1, order_rM), some.apart_rB, including=True)
        by_negative_rB -= nearer_rB
        by_positive_rM -= fewer_rM
    of_positives = limit_rM.masked_fill(limit_rM == -torch.inf, 0).mul_(by_positive_rM).sum()
    total = of_positives - (some.apart_rB * by_negative_rB).sum()  # the largest number times 0 is 0
    unsorted_rM = torch.zeros_like(by_positive_rM).scatter_(1, order_rM, by_positive_rM)
    return _Found(total, by_positive_rM.sum(dtype=torch.int64), unsorted_rM, by_negative_rB)


def _beyond(limit_rM: Tensor, apart_rB: Tensor, including: bool) -> tuple[Tensor, Tensor]:
    """Return for each distance how many limits lie beyond it, and for each limit how many distances below it.

    ``limit_rM`` rises along a row; ``including`` counts equals. Both counts are in the dtype of distances.
    """
    most = limit_rM.shape[1]
    by_negative_rB, by_positive_rM = torch.zeros_like(apart_rB), torch.zeros_like(limit_rM)
    if most <= FEW:
        for m in range(most):
            limit_r1 = limit_rM[:, m, None]
            below_rB = apart_rB <= limit_r1 if including else apart_rB < limit_r1
            by_negative_rB += below_rB
            by_positive_rM[:, m] = below_rB.sum(1)
        return by_negative_rB, by_positive_rM
    at_rB = torch.searchsorted(limit_rM, apart_rB, right=not including)
    steps = limit_rM.new_zeros(len(limit_rM), most + 1).scatter_add_(1, at_rB, torch.ones_like(apart_rB))
    return torch.sub(most, at_rB, out=by_negative_rB), steps.cumsum(1)[:, :most]


def _soft(some: Anchors, rule: _Rule) -> _Found:
    """Sum ``log(1 + exp(d(a, p) + margin - d(a, n)))`` over triplets, one positive of each anchor at a time."""
    negative_rB = some.apart_rB < torch.finfo(some.apart_rB.dtype).max
    by_negative_rB, by_positive_rM = torch.zeros_like(some.apart_rB), torch.zeros_like(some.to_positive_rM)
    total, count = some.apart_rB.new_zeros(()), torch.zeros((), dtype=torch.int64, device=some.apart_rB.device)
    for m in range(some.member_rM.shape[1]):
        to_positive_r1 = some.to_positive_rM[:, m, None]
        chosen_rB = negative_rB & some.positive_rM[:, m, None]
        if rule.semihard:
            chosen_rB &= (to_positive_r1 < some.apart_rB) & (some.apart_rB < to_positive_r1 + rule.margin)
        over_rB = (to_positive_r1 + rule.margin - some.apart_rB).masked_fill_(~chosen_rB, -torch.inf)
        total -= F.logsigmoid(-over_rB).sum()
        count += chosen_rB.sum()
        slope_rB = over_rB.sigmoid_()
        by_negative_rB += slope_rB
        by_positive_rM[:, m] = slope_rB.sum(1)
    return _Found(total, count, by_positive_rM, by_negative_rB)


def _cost(over_N: Tensor, soft: bool) -> Tensor:
    return -F.logsigmoid(-over_N) if soft else over_N.relu()


def _count(cost_N: Tensor, reduction: Reduction) -> Tensor:
    """Return by how many to divide a sum of costs."""
    return (cost_N.detach() > 0).sum() if reduction == "nonzero" else torch.tensor(cost_N.numel(), device=cost_N.device)
