"""Supervised contrastive learning: every other embedding of the same label is a positive.

Shapes: B embeddings over all ranks, b of them on this rank, D features.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
import torch.distributed as dist
from torch import Tensor

from intermodal.losses.all_pairs import Batch, Classes, Products
from intermodal.losses.distances import check_embeddings, check_labels, unit
from intermodal.losses.tiles import SAFE_EXPONENT, add_exponentials, differentiable_once, full_precision, view

Variant = Literal["out", "in"]


def supcon(
    embeddings_BD: Tensor,
    labels_B: Tensor,
    temperature: float | Tensor = 0.1,
    *,
    variant: Variant = "out",
    gather: bool = True,
    group: dist.ProcessGroup | None = None,
    tile: int | None = None,
) -> Tensor:
    """Return the supervised contrastive loss of a labelled batch.

    With z the unit vectors of the embeddings, P(i) the other embeddings of i's label and
    ``q(i, j) = exp(z_i.z_j / temperature) / (sum over all a except i of exp(z_i.z_a / temperature))``, the mean
    over the embeddings that have a positive of

    - ``out``: ``-(1 / |P(i)|) sum over p in P(i) of log q(i, p)``, Khosla et al. 2020 (arXiv:2004.11362),
      equation 2, pytorch-metric-learning's ``SupConLoss``;
    - ``in``: ``-log((1 / |P(i)|) sum over p in P(i) of q(i, p))``, equation 3, with the logarithm outside of
      the sum; never above ``out``.

    *Memory* is O(B D + tile^2). *Many processes*: every rank returns the loss of the whole batch, and
    gradients (that of a learnt temperature included) are exact after the averaging of
    DistributedDataParallel. It can be differentiated once.

    Args:
        embeddings_BD: shape ``(B, D)`` (with ``gather``: this rank's ``(b, D)``), any floating dtype, any
            length: made unit vectors here. Several views of a picture are so many rows with one label.
        labels_B: integer classes, shape ``(B,)``.
        temperature: above 0; a tensor of one element may be learnt.
        variant: ``out`` or ``in``.
        gather: compare with the embeddings of all ranks when torch.distributed is initialised; every rank must
            then call.
        group: the ranks to gather over; None for all.
        tile: rows and columns of a tile; None chooses by device. It changes speed and memory, not the result.

    Returns:
        A scalar, at least 0, float32 (float64 for float64 input), also under autocast. It is 0, with a zero
        gradient, where there is nothing to contrast: no positive at all, or no negative at all (one label
        only, a batch of one), as in pytorch-metric-learning. NaN in gives NaN out.

    Raises:
        ValueError: if shapes do not fit together, the temperature is not above 0, the variant is unknown, or
            ranks hold different shapes.
    """
    check_embeddings(embeddings_BD)
    check_labels(labels_B, embeddings_BD)
    if variant not in get_args(Variant):
        raise ValueError(f"There is no variant {variant!r}: choose one of {', '.join(get_args(Variant))}.")
    with full_precision(embeddings_BD):
        z_bD = unit(embeddings_BD)
        z_bD = z_bD * _root_of_scale(temperature, z_bD)  # logits are then products of rows
        batch = Batch.of(z_bD, gather, group, tile)
        classes = Classes.of(labels_B, batch)
        if len(classes.count_K) == 1 or len(classes.count_K) == len(batch.all_BD):
            return (z_bD * 0).sum()
        function = _Out if variant == "out" else _In
        loss: Tensor = function.apply(z_bD, batch, classes)
    return loss


class _Out(torch.autograd.Function):
    """L_out of this rank's rows of the logits, and the whole gradient of this rank's embeddings.

    It is the mean over anchors of log-sum-exp over all others minus the mean logit of the positives, which
    follows from the sum of each class and needs no matrix. With S the softmax of a row's logits over its others,
    logit (i, j) has the gradient ``S_ij + S_ji`` of row and column together, 0 of rows that are no anchors.
    """

    @staticmethod
    def forward(ctx: Any, z_bD: Tensor, batch: Batch, classes: Classes) -> Tensor:
        own, positives_B = batch.own, classes.positives_B
        anchors_B = positives_B > 0
        products = Products(batch)
        # Where every logit is known to be small, exponentials need no running maximum: the maxima stay 0.
        bounded = bool(torch.linalg.vector_norm(batch.all_BD, dim=1).amax() ** 2 <= SAFE_EXPONENT)
        others, scratch = LogSumExp(z_bD, bounded), products.scratch()
        for i, j, logits in products.walk():
            if (me := products.itself(logits, i, j)) is not None:
                me.fill_(-torch.inf)
            others.add(logits, i, j, products.twice(i, j), scratch)
        lse_b = others.finish()

        sum_KD = z_bD.new_zeros(len(classes.count_K), z_bD.shape[1])
        sum_KD.index_add_(0, classes.index_B, batch.all_BD)
        rest_bD = sum_KD[classes.index_B[own]].sub_(z_bD).div_(positives_B[own, None].clamp(min=1))
        loss_b = (lse_b - (z_bD * rest_bD).sum(1)).clamp_(min=0)  # below 0 by rounding alone
        loss = torch.where(anchors_B[own], loss_b, 0).sum()
        ctx.save_for_backward(z_bD, rest_bD, batch.over_ranks(lse_b.masked_fill(~anchors_B[own], torch.inf)))
        ctx.products, ctx.bounded, ctx.anchors = products, bounded, int(anchors_B.sum())
        return batch.total(loss) / ctx.anchors

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        _, rest_bD, lse_B = ctx.saved_tensors
        products, own = ctx.products, ctx.products.batch.own
        grad_bD = torch.mul(rest_bD, -2).masked_fill_((lse_B[own] == torch.inf)[:, None], 0)
        share_B, weight, scratch = (-lse_B).exp(), products.scratch(), products.scratch()
        for i, j, logits in products.walk():
            weight_rc, other_rc = view(weight, logits.shape), view(scratch, logits.shape)
            if ctx.bounded:
                torch.add(share_B[own][i, None], share_B[j], out=other_rc)
                torch.exp(logits, out=weight_rc).mul_(other_rc)
            else:
                torch.sub(logits, lse_B[own][i, None], out=weight_rc).exp_()
                weight_rc += torch.sub(logits, lse_B[j], out=other_rc).exp_()
            if (me := products.itself(weight_rc, i, j)) is not None:
                me.zero_()
            products.add(grad_bD, weight_rc, i, j)
        return grad_bD.mul_(grad_loss * (products.batch.world / ctx.anchors)), None, None


class _In(torch.autograd.Function):
    """L_in: as L_out, with the log-sum-exp over the positives in place of their mean logit."""

    @staticmethod
    def forward(ctx: Any, z_bD: Tensor, batch: Batch, classes: Classes) -> Tensor:
        own, positives_B = batch.own, classes.positives_B
        anchors_b = positives_B[own] > 0
        products = Products(batch)
        others, same = LogSumExp(z_bD, False), LogSumExp(z_bD, False)
        scratch, masked = products.scratch(), products.scratch()
        for i, j, logits in products.walk():
            if (me := products.itself(logits, i, j)) is not None:
                me.fill_(-torch.inf)
            twice = products.twice(i, j)
            others.add(logits, i, j, twice, scratch)
            alike_rc = view(masked, logits.shape).copy_(logits)
            alike_rc.masked_fill_(~classes.alike(batch, i, j), -torch.inf)
            same.add(alike_rc, i, j, twice, scratch)
        lse_b, same_b = others.finish(), same.finish()
        loss_b = lse_b - same_b + positives_B[own].clamp(min=1).to(lse_b.dtype).log()
        loss = torch.where(anchors_b, loss_b.clamp_(min=0), 0).sum()
        no_anchor = torch.stack((lse_b, same_b), 1).masked_fill(~anchors_b[:, None], torch.inf)
        ctx.save_for_backward(z_bD, batch.over_ranks(no_anchor))
        ctx.products, ctx.classes, ctx.anchors = products, classes, int((positives_B > 0).sum())
        return batch.total(loss) / ctx.anchors

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        z_bD, both_B2 = ctx.saved_tensors
        products, own = ctx.products, ctx.products.batch.own
        lse_B, same_B = both_B2.T.contiguous()
        grad_bD = torch.zeros_like(z_bD)
        weight, scratch = products.scratch(), products.scratch()
        for i, j, logits in products.walk():
            weight_rc, other_rc = view(weight, logits.shape), view(scratch, logits.shape)
            torch.sub(logits, same_B[own][i, None], out=weight_rc).exp_().neg_()
            weight_rc -= torch.sub(logits, same_B[j], out=other_rc).exp_()
            weight_rc.masked_fill_(~ctx.classes.alike(products.batch, i, j), 0)
            weight_rc += torch.sub(logits, lse_B[own][i, None], out=other_rc).exp_()
            weight_rc += torch.sub(logits, lse_B[j], out=other_rc).exp_()
            if (me := products.itself(weight_rc, i, j)) is not None:
                me.zero_()
            products.add(grad_bD, weight_rc, i, j)
        return grad_bD.mul_(grad_loss * (products.batch.world / ctx.anchors)), None, None


class LogSumExp:
    """The logarithm of a sum of exponentials for each of this rank's rows, tile by tile."""

    def __init__(self, z_bD: Tensor, bounded: bool) -> None:
        # A finite start: rows may begin with tiles that are all minus infinity.
        start = 0.0 if bounded else torch.finfo(z_bD.dtype).min
        self.bounded, self.maximum_b = bounded, z_bD.new_full((len(z_bD),), start)
        self.total_b = z_bD.new_zeros(len(z_bD))

    def add(self, logits_rc: Tensor, i: slice, j: slice, twice: bool, scratch: Tensor) -> None:
        """Add a tile to rows i, and, ``twice``, its transpose to rows j."""
        other_rc = view(scratch, logits_rc.shape)
        if self.bounded:
            torch.exp(logits_rc, out=other_rc)
            self.total_b[i] += other_rc.sum(1)
            if twice:
                self.total_b[j] += other_rc.sum(0)
            return
        add_exponentials(logits_rc, 1, self.maximum_b[i], self.total_b[i], other_rc)
        if twice:
            add_exponentials(logits_rc, 0, self.maximum_b[j], self.total_b[j], other_rc)

    def finish(self) -> Tensor:
        """Return shape ``(b,)``; minus infinity for a row of no entries."""
        return self.total_b.log() + self.maximum_b


def _root_of_scale(temperature: float | Tensor, z_bD: Tensor) -> Tensor:
    found = torch.as_tensor(temperature, dtype=None if isinstance(temperature, Tensor) else z_bD.dtype)
    if found.numel() != 1 or not bool(found.detach() > 0):
        raise ValueError(f"The temperature must be one number above 0, found {found.tolist()}.")
    return found.reshape(()).to(z_bD.device, z_bD.dtype) ** -0.5
