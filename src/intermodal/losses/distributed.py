"""Features of all ranks in one tensor, with the gradient of each rank's share going home.

Shapes: W ranks, b rows on each, B = W b rows in all, D features.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from intermodal.nn.distributed import all_reduce_sum, is_distributed, rank_and_world

__all__ = [
    "all_gather_with_grad",
    "all_reduce_sum",
    "check_same_shape",
    "is_distributed",
    "rank_and_world",
    "stack_over_ranks",
    "total_over_ranks",
]


def all_gather_with_grad(tensor_bD: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """Concatenate every rank's rows, in rank order, so that gradients reach the rank that each row came from.

    The forward pass is an all-gather. The backward pass sums over the ranks the gradients with respect to the
    gathered tensor and hands each rank its own rows of the sum: the gradient of the *sum* over ranks of
    whatever each rank computed from the gathered tensor. Every rank must call this, and run backward through
    it, the same number of times.

    Args:
        tensor_bD: this rank's rows, shape ``(b, ...)``, the same on each rank.
        group: the ranks that take part; None for all.

    Returns:
        Shape ``(W b, ...)``; ``tensor_bD`` itself when torch.distributed is not initialised or has one rank.

    Raises:
        ValueError: if the ranks hold tensors of different shapes (found before any data moves).
    """
    if not is_distributed(group):
        return tensor_bD
    check_same_shape(tensor_bD, group)
    gathered: Tensor = _AllGather.apply(tensor_bD, group)
    return gathered


def total_over_ranks(part: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """Return the sum over ranks, of which every rank goes on to compute the same loss.

    Backward hands each rank W times the gradient: what DistributedDataParallel averages is then exact. Nothing
    travels in backward. ``part`` itself without torch.distributed.
    """
    if not is_distributed(group):
        return part
    total: Tensor = _Total.apply(part, group)
    return total


def stack_over_ranks(tensor: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """Return every rank's ``tensor`` stacked, shape ``(W, ...)``, without gradient."""
    tensor = tensor.detach().contiguous()
    if not is_distributed(group):
        return tensor[None]
    _, world = rank_and_world(group)
    stacked = tensor.new_empty((world, *tensor.shape))
    dist.all_gather(list(stacked.unbind()), tensor, group=group)
    return stacked


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.world = dist.get_world_size(group)
        return all_reduce_sum(part, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.world, None


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group, ctx.rows = group, tensor.shape[0]
        return stack_over_ranks(tensor, group).flatten(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        rank, _ = rank_and_world(ctx.group)
        grad = grad.contiguous()
        if dist.get_backend(ctx.group) == "nccl":
            own = grad.new_empty((ctx.rows, *grad.shape[1:]))
            dist.reduce_scatter_tensor(own, grad, group=ctx.group)
            return own, None
        # Not every backend (gloo in older releases) can reduce and scatter at once.
        total = all_reduce_sum(grad, ctx.group)
        return total[rank * ctx.rows : (rank + 1) * ctx.rows], None


def check_same_shape(tensor: Tensor, group: dist.ProcessGroup | None = None) -> None:
    """Raise ValueError on every rank if ranks hold tensors of different shapes; every rank must call."""
    # Ranks may differ in the number of axes, so the shape travels in a fixed number of slots.
    slots = torch.full((8,), -1, dtype=torch.int64, device=tensor.device)
    slots[: tensor.ndim] = torch.tensor(tensor.shape, device=tensor.device)
    shapes = [tuple(s for s in row if s >= 0) for row in stack_over_ranks(slots, group).tolist()]
    if len(set(shapes)) > 1:
        found = ", ".join(f"rank {rank} {list(shape)}" for rank, shape in enumerate(shapes))
        raise ValueError(
            f"Every rank must hold a tensor of the same shape, found {found}. Drop the last, smaller batch of an epoch."
        )
