"""Miners: which triplets of a labelled batch to learn from.

Shapes: this rank's b rows of B in all, r rows at a time, M the size of the largest class among them, N triplets,
D features.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from intermodal.losses.all_pairs import Batch, Classes
from intermodal.losses.distance_tiles import Distances
from intermodal.losses.distances import Distance, check_distance, check_embeddings, check_labels, precise, unit
from intermodal.losses.tiles import full_precision


@dataclass(frozen=True)
class Anchors:
    """Some anchors, with their distances to every embedding of the batch.

    Attributes:
        i: which of this rank's rows they are.
        apart_rB: distances; to themselves and to their positives the largest finite number, so that the others,
            their negatives, stand out.
        member_rM: the rows of their class, filled up with themselves.
        positive_rM: which of these are positives.
        to_positive_rM: the distances to these (to itself: infinite).
    """

    i: slice
    apart_rB: Tensor
    member_rM: Tensor
    positive_rM: Tensor
    to_positive_rM: Tensor


def anchors(apart: Distances, classes: Classes) -> Iterator[Anchors]:
    """Yield this rank's anchors, as many at a time as a tile has room for (at least one)."""
    batch = apart.batch
    first = torch.arange(batch.first, batch.first + len(batch.own_bD), device=batch.own_bD.device)
    for i, apart_rB in apart.rows():
        member_rM, positive_rM = classes.members(first[i])
        to_positive_rM = apart_rB.gather(1, member_rM)
        apart_rB.scatter_(1, member_rM, torch.finfo(apart_rB.dtype).max)
        yield Anchors(i, apart_rB, member_rM, positive_rM, to_positive_rM)


def batch_hard(
    embeddings_BD: Tensor, labels_B: Tensor, *, distance: Distance = "euclidean", tile: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return, for each anchor, its farthest positive and its nearest negative.

    Hermans et al. 2017 (arXiv:1703.07737), equation 5. Embeddings that lack a positive or a negative are no
    anchors. Memory is O(B D + tile^2).

    Args:
        embeddings_BD: shape ``(B, D)``, any floating dtype.
        labels_B: integer classes, shape ``(B,)``.
        distance: see :mod:`intermodal.losses.distances`.
        tile: the square of it bounds the entries of the distance matrix in memory; None chooses by device.

    Returns:
        Row numbers of anchors, positives and negatives, int64, each of shape ``(N,)``, N at most B, without
        gradient.

    Raises:
        ValueError: if shapes do not fit together or the distance is unknown.
    """
    check_embeddings(embeddings_BD)
    check_labels(labels_B, embeddings_BD)
    check_distance(distance)
    with torch.no_grad(), full_precision(embeddings_BD):
        x_BD = unit(embeddings_BD) if distance == "cosine" else precise(embeddings_BD)
        batch = Batch.of(x_BD, False, None, tile)
        return hardest(Distances(batch, distance), Classes.of(labels_B, batch))


def hardest(apart: Distances, classes: Classes) -> tuple[Tensor, Tensor, Tensor]:
    """Return :func:`batch_hard` of this rank's anchors, in row numbers of the whole batch."""
    far, near = [], []
    for some in anchors(apart, classes):
        farthest_r1 = some.to_positive_rM.masked_fill_(~some.positive_rM, -torch.inf).argmax(1, keepdim=True)
        far.append(some.member_rM.gather(1, farthest_r1).squeeze(1))
        near.append(some.apart_rB.argmin(1))
    batch, positives_B = apart.batch, classes.positives_B
    valid_b = (positives_B[batch.own] > 0) & (positives_B[batch.own] + 1 < len(positives_B))
    anchor_N = valid_b.nonzero().squeeze(1)
    return anchor_N + batch.first, torch.cat(far)[anchor_N], torch.cat(near)[anchor_N]
