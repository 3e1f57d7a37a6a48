"""The pair loss: what belongs together is pulled together, what does not is pushed a margin apart.

Shapes: B embeddings over all ranks, b of them on this rank, N pairs, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.distributed as dist
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
from intermodal.losses.tiles import differentiable_once, full_precision

Reduction = Literal["nonzero", "mean"]
"""``nonzero``: the mean over those that are above 0 (pytorch-metric-learning's default); ``mean``: over all."""


def pair_loss(
    x1_ND: Tensor,
    x2_ND: Tensor,
    same_N: Tensor,
    *,
    distance: Distance = "euclidean",
    pos_margin: float = 0.0,
    neg_margin: float = 1.0,
    squared: bool = True,
) -> Tensor:
    """Return the mean contrastive loss of given pairs.

    With d the distance of a pair, ``max(0, d - pos_margin)^2 / 2`` for what belongs together and
    ``max(0, neg_margin - d)^2 / 2`` for what does not: Hadsell et al. 2006 (CVPR), equation 4 (there,
    ``pos_margin`` is 0). With ``squared=False``, the same without square and half, as pytorch-metric-learning
    has it.

    Args:
        x1_ND: one embedding of each pair, shape ``(N, D)``, any floating dtype.
        x2_ND: the other, the same shape.
        same_N: whether the two belong together, bool (or integer 0 and 1), shape ``(N,)``.
        distance: see :mod:`intermodal.losses.distances`.
        pos_margin: the distance up to which a positive pair costs nothing.
        neg_margin: the distance from which a negative pair costs nothing, in units of ``distance`` (for unit
            vectors, Euclidean and cosine distances end at 2, squared ones at 4).
        squared: with the square and the half of the paper.

    Returns:
        A scalar, at least 0, float32 (float64 for float64 input), also under autocast; the mean over all N
        pairs. Its gradient is 0 for pairs of equal embeddings. NaN in gives NaN out.

    Raises:
        ValueError: if the shapes do not fit together, there is no pair, or the distance is unknown.
    """
    check_embeddings(x1_ND)
    if same_N.shape != x1_ND.shape[:1] or same_N.is_floating_point():
        raise ValueError(
            f"same_N must be bool with one value for each of {x1_ND.shape[0]} pairs, "
            f"found {same_N.dtype} {list(same_N.shape)}."
        )
    apart_N = rowwise_distance(x1_ND, x2_ND, distance)
    excess_N = torch.where(same_N.bool(), apart_N - pos_margin, neg_margin - apart_N).relu()
    return excess_N.square().mean() / 2 if squared else excess_N.mean()


def batch_pair_loss(
    embeddings_BD: Tensor,
    labels_B: Tensor,
    *,
    distance: Distance = "euclidean",
    pos_margin: float = 0.0,
    neg_margin: float = 1.0,
    squared: bool = False,
    reduction: Reduction = "nonzero",
    gather: bool = True,
    group: dist.ProcessGroup | None = None,
    tile: int | None = None,
) -> Tensor:
    """Return the contrastive loss over all pairs of a labelled batch.

    The mean over positive pairs (one label) of ``max(0, d - pos_margin)`` plus the mean over negative pairs of
    ``max(0, neg_margin - d)``, each over the pairs whose loss is above 0: what pytorch-metric-learning's
    ``ContrastiveLoss`` computes. With ``squared``, each of these is squared and halved, equation 4 of Hadsell
    et al. 2006 (CVPR). No embedding is paired with itself.

    *Memory* is O(B D + tile^2). *Many processes*: every rank returns the loss of the whole batch, all of whose
    pairs count, and gradients are exact after the averaging of DistributedDataParallel. It can be
    differentiated once.

    Args:
        embeddings_BD: shape ``(B, D)`` (with ``gather``: this rank's ``(b, D)``), any floating dtype.
        labels_B: integer classes, shape ``(B,)``.
        distance: see :mod:`intermodal.losses.distances`. With ``cosine`` this equals pytorch-metric-learning's
            ``CosineSimilarity`` with margins ``1 - pos_margin`` and ``1 - neg_margin``.
        pos_margin: the distance up to which a positive pair costs nothing.
        neg_margin: the distance from which a negative pair costs nothing.
        squared: with the square and the half of the paper.
        reduction: ``nonzero`` or ``mean``: over which pairs each of the two means goes.
        gather: pair with the embeddings of all ranks when torch.distributed is initialised; every rank must
            then call.
        group: the ranks to gather over; None for all.
        tile: rows and columns of a tile; None chooses by device. It changes speed and memory, not the result.

    Returns:
        A scalar, at least 0, float32 (float64 for float64 input), also under autocast. A kind of pairs that
        the batch does not have (no two of one label, one label only, a batch of one) adds 0. Equal embeddings
        (distance 0) have a zero gradient. NaN in gives NaN out.

    Raises:
        ValueError: if shapes do not fit together, an option is unknown, or ranks hold different shapes.
    """
    check_embeddings(embeddings_BD)
    check_labels(labels_B, embeddings_BD)
    check_distance(distance)
    check_reduction(reduction)
    with full_precision(embeddings_BD):
        x_bD = unit(embeddings_BD) if distance == "cosine" else precise(embeddings_BD)
        batch = Batch.of(x_bD, gather, group, tile)
        costs = _Costs(pos_margin, neg_margin, squared, reduction)
        loss: Tensor = _BatchPairs.apply(x_bD, batch, Classes.of(labels_B, batch), distance, costs)
    return loss


@dataclass(frozen=True)
class _Costs:
    pos_margin: float
    neg_margin: float
    squared: bool
    reduction: Reduction

    def excess(self, apart_rc: Tensor, same_rc: Tensor) -> Tensor:
        """Return by how much each distance is too large (one label) or too small; 0 for a row and itself."""
        # The distance of a row to itself is infinite: so its excess is 0 once it does not count as of one label.
        signed = torch.where(same_rc, apart_rc - self.pos_margin, self.neg_margin - apart_rc)
        return signed.relu_()


class _BatchPairs(torch.autograd.Function):
    """The loss of this rank's rows of the distances, and the whole gradient of this rank's embeddings."""

    @staticmethod
    def forward(  # noqa: PLR0917 (autograd passes arguments by position)
        ctx: Any, x_bD: Tensor, batch: Batch, classes: Classes, distance: Distance, costs: _Costs
    ) -> Tensor:
        apart = Distances(batch, distance)
        cost, count = x_bD.new_zeros(2), torch.zeros(2, dtype=torch.int64, device=x_bD.device)
        for i, j, apart_rc in apart.walk():
            times = 2 if apart.products.twice(i, j) else 1
            same_rc = _same(apart, classes, i, j)
            excess_rc = costs.excess(apart_rc, same_rc)
            if costs.reduction == "nonzero":
                above_rc = excess_rc > 0
                positive = (above_rc & same_rc).sum()
                count += times * torch.stack((positive, above_rc.sum() - positive))
            if costs.squared:
                excess_rc.square_().mul_(0.5)
            both = excess_rc.sum()
            positive = excess_rc.masked_fill_(~same_rc, 0).sum()
            cost += times * torch.stack((positive, both - positive))
        cost = batch.total(cost)
        if costs.reduction == "nonzero":
            count = batch.total(count)
        else:
            every = len(batch.all_BD) * (len(batch.all_BD) - 1)
            positives = int(classes.positives_B.sum())
            count = torch.tensor([positives, every - positives], device=x_bD.device)
        count = count.clamp(min=1)
        ctx.save_for_backward(x_bD)
        ctx.apart, ctx.classes, ctx.costs, ctx.count = apart, classes, costs, count.tolist()
        return (cost / count).sum()

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        apart, costs, (of_positive, of_negative) = ctx.apart, ctx.costs, ctx.count
        grad_bD = torch.zeros_like(ctx.saved_tensors[0])
        for i, j, apart_rc in apart.walk():
            same_rc = _same(apart, ctx.classes, i, j)
            slope_rc = costs.excess(apart_rc, same_rc)
            if not costs.squared:
                slope_rc.sign_()
            # Both orders of a pair count, hence 2.
            slope_rc *= torch.where(
                same_rc, slope_rc.new_tensor(2 / of_positive), slope_rc.new_tensor(-2 / of_negative)
            )
            apart.add(grad_bD, apart.weigh(slope_rc, apart_rc), i, j)
        return grad_bD.mul_(grad_loss * apart.batch.world), None, None, None, None


def _same(apart: Distances, classes: Classes, i: slice, j: slice) -> Tensor:
    """Return which pairs of a tile are of one label, a row and itself not among them."""
    same_rc = classes.alike(apart.batch, i, j)
    if (me := apart.products.itself(same_rc, i, j)) is not None:
        me.fill_(False)
    return same_rc


def check_reduction(reduction: str) -> None:
    """Raise ValueError if there is no such reduction."""
    if reduction not in get_args(Reduction):
        raise ValueError(f"There is no reduction {reduction!r}: choose one of {', '.join(get_args(Reduction))}.")
