"""Contrastive losses of a batch of pairs, exact, with memory that grows linearly with the batch.

The B x B matrix of logits is never held: it is made tile by tile, used and overwritten; backward makes the
tiles again.

Shapes: B pairs (over all ranks), b of them on this rank, D features, r x c one tile of the logits.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from intermodal.losses.distributed import (
    all_gather_with_grad,
    all_reduce_sum,
    is_distributed,
    rank_and_world,
    stack_over_ranks,
)
from intermodal.losses.tiles import (
    SAFE_EXPONENT,
    Block,
    Gradients,
    Tile,
    add_exponentials,
    buffer,
    default_size,
    diagonal,
    differentiable_once,
    full_precision,
    view,
    walk,
)


def info_nce(
    image_BD: Tensor,
    text_BD: Tensor,
    logit_scale: Tensor,
    *,
    gather: bool = True,
    group: dist.ProcessGroup | None = None,
    tile: int | None = None,
) -> Tensor:
    """Return the symmetric InfoNCE loss of a batch of pairs (CLIP).

    With ``logits = logit_scale * image @ text.T``, the mean of two cross entropies, each picture against all
    texts and each text against all pictures, where pair i is the right answer of row and of column i. Radford
    et al. 2021 (arXiv:2103.00020), figure 3; each half is van den Oord et al. 2018 (arXiv:1807.03748),
    equation 4.

    *Memory* is O(B D + tile^2). Forward visits each tile once and keeps a running maximum and sum of
    exponentials for every row and column; backward computes each tile again. It can be differentiated once: a
    second time raises.

    *Many processes.* Rank k computes the logits of its own pictures with the texts of all ranks, a W-th of
    the matrix and of the work. The ranks exchange texts and each column's maximum and sum, never pictures or
    logits. Every rank returns the loss of the whole batch. What a rank can differentiate is its own block:
    this gives the whole gradient of its own pictures, a share of the gradient of all texts (backward of the
    gather sums the shares and returns each text's home) and a share of the gradient of ``logit_scale``.
    Summed over the ranks, the resulting parameter gradients are those of one process with the whole batch.
    Since DistributedDataParallel (and FSDP) *average* over W ranks, backward multiplies everything by W, and
    the average is the exact gradient, ``logit_scale`` included.

    Args:
        image_BD: unit vectors, shape ``(B, D)`` (with ``gather``: this rank's ``(b, D)``), any floating
            dtype; products and sums are in float32, for float64 input in float64.
        text_BD: unit vectors of the same shape; row i belongs to row i of ``image_BD``.
        logit_scale: inverse temperature, already exponentiated, one element, from 0 to about 100.
        gather: compare with the pairs of all ranks when torch.distributed is initialised; every rank must
            then call.
        group: the ranks to gather over; None for all.
        tile: rows and columns of a tile; None chooses by device. It changes speed and memory, not the result.

    Returns:
        A scalar (0-d), at least 0, float32 (float64 for float64 input). NaN in gives NaN out.

    Raises:
        ValueError: if shapes do not fit together or ``tile`` is not positive, or if ranks hold different
            shapes.
    """
    _check_pairs(image_BD, text_BD, tile)
    scale = _scalar(logit_scale, "logit_scale", image_BD, text_BD)
    text_BD, block = _whole_batch(text_BD, tile, gather, group)
    alone = image_BD.shape[0] == text_BD.shape[0]  # no other rank's texts came in
    function = _SmallInfoNCE if alone and image_BD.shape[0] <= block.size else _InfoNCE
    loss: Tensor = function.apply(image_BD, text_BD, scale, block)
    return loss


def sigmoid_loss(
    image_BD: Tensor,
    text_BD: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor,
    *,
    gather: bool = True,
    group: dist.ProcessGroup | None = None,
    tile: int | None = None,
) -> Tensor:
    """Return the pairwise sigmoid loss of a batch of pairs (SigLIP).

    With ``logits = logit_scale * image @ text.T + logit_bias`` and z = 1 on the diagonal, -1 elsewhere, the
    sum of ``-log sigmoid(z * logits)`` over all B^2 entries, divided by B. Zhai et al. 2023
    (arXiv:2303.15343), algorithm 1.

    *Memory* is O(B D + tile^2): since no entry depends on another, one visit of each tile gives its loss and
    its gradient. *Many processes*: as in :func:`info_nce`, with nothing to exchange but texts; the loss is
    that of the whole batch, and gradients are exact after the averaging of DistributedDataParallel. It can be
    differentiated once.

    Args:
        image_BD: unit vectors, shape ``(B, D)`` (with ``gather``: this rank's ``(b, D)``), any floating
            dtype.
        text_BD: unit vectors of the same shape; row i belongs to row i of ``image_BD``.
        logit_scale: inverse temperature, already exponentiated, one element.
        logit_bias: added to every logit, one element; SigLIP starts at -10.
        gather: compare with the pairs of all ranks when torch.distributed is initialised; every rank must
            then call.
        group: the ranks to gather over; None for all.
        tile: rows and columns of a tile; None chooses by device. It changes speed and memory, not the result.

    Returns:
        A scalar (0-d), at least 0, float32 (float64 for float64 input). NaN in gives NaN out.

    Raises:
        ValueError: if shapes do not fit together or ``tile`` is not positive, or if ranks hold different
            shapes.
    """
    _check_pairs(image_BD, text_BD, tile)
    scale = _scalar(logit_scale, "logit_scale", image_BD, text_BD)
    bias = _scalar(logit_bias, "logit_bias", image_BD, text_BD)
    text_BD, block = _whole_batch(text_BD, tile, gather, group)
    loss: Tensor = _Sigmoid.apply(image_BD, text_BD, scale, bias, block)
    return loss


class _InfoNCE(torch.autograd.Function):
    """The loss of this rank's rows of the logits; columns are completed over the ranks."""

    @staticmethod
    def forward(ctx: Any, image_bD: Tensor, text_BD: Tensor, scale: Tensor, block: Block) -> Tensor:
        rows, columns = image_bD.shape[0], text_BD.shape[0]
        # Where every logit is known to be small, exponentials need no running maximum: the maxima stay 0.
        largest = _largest_norm(image_bD, scale) * _largest_norm(text_BD, scale) * scale.abs()
        bounded = bool(largest <= SAFE_EXPONENT)
        start = 0.0 if bounded else -torch.inf
        row_max, column_max = scale.new_full((rows,), start), scale.new_full((columns,), start)
        row_sum, column_sum = scale.new_zeros(rows), scale.new_zeros(columns)
        positive = scale.new_empty(rows)
        with full_precision(image_bD):
            scratch = None if bounded else buffer(image_bD, text_BD, scale, block.size)
            for tile in walk(image_bD, text_BD, scale, block.size):
                i, j, logits = tile.i, tile.j, tile.logits
                k = block.first + i.start - j.start
                if (own := diagonal(logits, k)) is not None:
                    at = i.start + max(0, -k)
                    positive[at : at + len(own)] = own
                if scratch is None:
                    logits.exp_()
                    row_sum[i] += logits.sum(1)
                    column_sum[j] += logits.sum(0)
                else:
                    shifted = view(scratch, logits.shape)
                    add_exponentials(logits, 1, row_max[i], row_sum[i], shifted)
                    add_exponentials(logits, 0, column_max[j], column_sum[j], shifted)
        if block.gather and is_distributed(block.group):
            maxima, sums = stack_over_ranks(torch.stack((column_max, column_sum)), block.group).unbind(1)
            column_max = maxima.amax(0)
            column_sum = (sums * (maxima - column_max).exp()).sum(0)
        ctx.save_for_backward(image_bD, text_BD, scale, row_max, row_sum, column_max, column_sum)
        ctx.block, ctx.bounded = block, bounded
        own_columns = slice(block.first, block.first + rows)
        loss = (row_max - positive + row_sum.log()).sum()
        loss = loss + (column_max[own_columns] - positive + column_sum[own_columns].log()).sum()
        return (all_reduce_sum(loss, block.group) if block.gather else loss) / (2 * columns)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        image_bD, text_BD, scale, row_max, row_sum, column_max, column_sum = ctx.saved_tensors
        block, world = ctx.block, text_BD.shape[0] // image_bD.shape[0]
        grads = Gradients(ctx.needs_input_grad, image_bD, text_BD, scale)
        row_share, column_share = 1 / row_sum, 1 / column_sum
        if ctx.bounded:  # The maxima are 0 but for columns of which another rank holds a large logit.
            column_share *= (-column_max).exp()
        with full_precision(image_bD):
            scratch = buffer(image_bD, text_BD, scale, block.size)
            for tile in walk(image_bD, text_BD, scale, block.size):
                i, j, logits = tile.i, tile.j, tile.logits
                other = view(scratch, logits.shape)
                # d loss / d logits = (softmax over the row + softmax over the column - 2 [i = j]) / 2B
                if ctx.bounded:
                    torch.add(row_share[i, None], column_share[j], out=other)
                    logits.exp_().mul_(other)
                else:
                    torch.sub(logits, row_max[i, None], out=other).exp_().mul_(row_share[i, None])
                    logits.sub_(column_max[j]).exp_().mul_(column_share[j]).add_(other)
                if (own := diagonal(logits, block.first + i.start - j.start)) is not None:
                    own.sub_(2)
                grads.add(logits, tile)
        return *grads.finish(grad_loss * world / (2 * text_BD.shape[0])), None


class _SmallInfoNCE(torch.autograd.Function):
    """The loss where one tile holds all: logits are kept for backward rather than made again."""

    @staticmethod
    def forward(ctx: Any, image_BD: Tensor, text_BD: Tensor, scale: Tensor, block: Block) -> Tensor:
        with full_precision(image_BD):
            (tile,) = walk(image_BD, text_BD, scale, block.size)
            by_row, by_column = tile.logits.log_softmax(1), tile.logits.log_softmax(0)
            loss = (by_row.diagonal() + by_column.diagonal()).sum() / (-2 * len(by_row))
            if block.graph and any(ctx.needs_input_grad):
                grad = torch.exp(by_row, out=tile.logits).add_(by_column.exp_())
                grad.diagonal().sub_(2)
                ctx.save_for_backward(image_BD, text_BD, scale, grad)
        return loss

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        image_BD, text_BD, scale, grad_BB = ctx.saved_tensors
        grads = Gradients(ctx.needs_input_grad, image_BD, text_BD, scale)
        whole = slice(None)
        with full_precision(image_BD):
            grads.add(grad_BB, Tile(whole, whole, grad_BB, image_BD.to(scale.dtype), text_BD.to(scale.dtype)))
        return *grads.finish(grad_loss / (2 * len(grad_BB))), None


class _Sigmoid(torch.autograd.Function):
    """The loss of this rank's rows of the logits, and its gradient in the same pass."""

    @staticmethod
    def forward(  # noqa: PLR0917 (autograd passes arguments by position)
        ctx: Any, image_bD: Tensor, text_BD: Tensor, scale: Tensor, bias: Tensor, block: Block
    ) -> Tensor:
        rows, columns = image_bD.shape[0], text_BD.shape[0]
        needs = ctx.needs_input_grad
        grads = Gradients(needs, image_bD, text_BD, scale) if block.graph and any(needs) else None
        loss, by_bias = torch.zeros_like(scale), torch.zeros_like(scale)
        with full_precision(image_bD):
            scratch = buffer(image_bD, text_BD, scale, block.size)
            for tile in walk(image_bD, text_BD, scale, block.size):
                logits = tile.logits.add_(bias)
                own = diagonal(logits, block.first + tile.i.start - tile.j.start)
                if own is not None:
                    own.neg_()
                # -log sigmoid(-x) = max(x, 0) + log(1 + exp(-|x|)), and its derivative is sigmoid(x).
                other = view(scratch, logits.shape)
                loss += torch.clamp(logits, min=0, out=other).sum()
                loss += torch.abs(logits, out=other).neg_().exp_().log1p_().sum()
                if grads is not None:
                    logits.sigmoid_()
                    if own is not None:
                        own.neg_()
                    by_bias += logits.sum()
                    grads.add(logits, tile)
        if grads is not None:
            # Divided by b rather than by B = W b: the average over W ranks divides by W.
            found = (*grads.finish(1.0 / rows), by_bias / rows)
            ctx.save_for_backward(*found, image_bD, text_BD, scale, bias)  # inputs for differentiable_once
        return (all_reduce_sum(loss, block.group) if block.gather else loss) / columns

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        grads = [None if g is None else g * grad_loss for g in ctx.saved_tensors[:4]]
        return *grads, None


def _largest_norm(features_BD: Tensor, scale: Tensor) -> Tensor:
    return torch.linalg.vector_norm(features_BD, dim=1, dtype=scale.dtype).amax()


def _scalar(value: Tensor, name: str, image_BD: Tensor, text_BD: Tensor) -> Tensor:
    """Return ``value`` as a 0-d tensor on the features' device, in the dtype that the loss is computed in."""
    if value.numel() != 1:
        raise ValueError(f"{name} must have one element, found shape {list(value.shape)}.")
    double = torch.float64 in (image_BD.dtype, text_BD.dtype)
    return value.reshape(()).to(image_BD.device, torch.float64 if double else torch.float32)


def _whole_batch(
    text_BD: Tensor, tile: int | None, gather: bool, group: dist.ProcessGroup | None
) -> tuple[Tensor, Block]:
    """Return the texts of all ranks, and which rows of the logits are this rank's."""
    rank, rows = rank_and_world(group)[0] if gather else 0, text_BD.shape[0]
    block = Block(rank * rows, tile or default_size(text_BD), gather, group, torch.is_grad_enabled())
    return all_gather_with_grad(text_BD, group) if gather else text_BD, block


def _check_pairs(image_BD: Tensor, text_BD: Tensor, tile: int | None) -> None:
    found = f"found {list(image_BD.shape)} and {list(text_BD.shape)}"
    if image_BD.ndim != 2 or image_BD.shape != text_BD.shape or image_BD.numel() == 0:
        raise ValueError(f"Image and text features must both have one shape (B, D) with B and D at least 1, {found}.")
    for tensor in (image_BD, text_BD):
        if not tensor.is_floating_point():
            raise ValueError(f"Features must be of a floating dtype, found {tensor.dtype}.")
    if image_BD.device != text_BD.device:
        raise ValueError(f"Features must be on one device, found {image_BD.device} and {text_BD.device}.")
    if tile is not None and tile < 1:
        raise ValueError(f"tile must be at least 1, found {tile}.")
