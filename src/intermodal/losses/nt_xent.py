"""NT-Xent, the loss of SimCLR: two views of a picture, told from all other views of a batch.

Shapes: B pairs over all ranks, b of them on this rank, D features.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from intermodal.losses.distances import check_embeddings
from intermodal.losses.supcon import supcon


def nt_xent(
    view1_BD: Tensor,
    view2_BD: Tensor,
    temperature: float | Tensor = 0.1,
    *,
    gather: bool = True,
    group: dist.ProcessGroup | None = None,
    tile: int | None = None,
) -> Tensor:
    """Return the normalised temperature-scaled cross entropy of a batch of pairs of views.

    Of the 2B embeddings, with z their unit vectors, the mean over all i of
    ``-log(exp(z_i.z_j / temperature) / sum over all a except i of exp(z_i.z_a / temperature))`` where j is the
    other view of i. Chen et al. 2020 (arXiv:2002.05709), equation 1 and algorithm 1. It is
    :func:`~intermodal.losses.supcon.supcon` where each picture is a class of its own; with :func:`info_nce
    <intermodal.losses.contrastive.info_nce>` two views are compared across, not within.

    *Memory* is O(B D + tile^2). *Many processes*: every rank returns the loss of the whole batch, and
    gradients (that of a learnt temperature included) are exact after the averaging of
    DistributedDataParallel. It can be differentiated once.

    Args:
        view1_BD: embeddings of one view, shape ``(B, D)`` (with ``gather``: this rank's ``(b, D)``), any
            floating dtype, any length: made unit vectors here.
        view2_BD: embeddings of the other view, the same shape; row i belongs to row i.
        temperature: above 0; a tensor of one element may be learnt.
        gather: compare with the embeddings of all ranks when torch.distributed is initialised; every rank must
            then call.
        group: the ranks to gather over; None for all.
        tile: rows and columns of a tile; None chooses by device. It changes speed and memory, not the result.

    Returns:
        A scalar, at least 0, float32 (float64 for float64 input), also under autocast; 0 with a zero gradient
        for one pair, which has nothing to be told from. NaN in gives NaN out.

    Raises:
        ValueError: if the shapes differ, the temperature is not above 0, or ranks hold different shapes.
    """
    check_embeddings(view1_BD)
    if view1_BD.shape != view2_BD.shape:
        raise ValueError(
            f"Both views must have one shape (B, D), found {list(view1_BD.shape)} and {list(view2_BD.shape)}."
        )
    from intermodal.losses.distributed import rank_and_world

    pairs = torch.arange(len(view1_BD), device=view1_BD.device)
    pairs += rank_and_world(group)[0] * len(pairs) if gather else 0
    both = torch.cat((view1_BD, view2_BD))
    return supcon(both, pairs.repeat(2), temperature, gather=gather, group=group, tile=tile)
