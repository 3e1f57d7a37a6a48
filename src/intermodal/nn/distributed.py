"""What networks and losses need of torch.distributed: how many ranks there are, and sums over them without gradient.

:mod:`intermodal.losses.distributed` has what carries gradients.
"""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def is_distributed(group: dist.ProcessGroup | None = None) -> bool:
    """Say whether torch.distributed runs and ``group`` (None: all processes) has more than one rank."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size(group) > 1


def rank_and_world(group: dist.ProcessGroup | None = None) -> tuple[int, int]:
    """Return this process's rank in ``group`` and its size; ``(0, 1)`` without torch.distributed."""
    if not is_distributed(group):
        return 0, 1
    return dist.get_rank(group), dist.get_world_size(group)


def all_reduce_sum(tensor: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """Return the sum over ranks, without gradient; ``tensor`` itself without torch.distributed."""
    if not is_distributed(group):
        return tensor
    total = tensor.detach().clone()
    dist.all_reduce(total, group=group)
    return total
