"""Every pair of a batch, tile by tile: what the losses that compare a batch with itself share.

The B x B matrix is never held. It is symmetric, so that one process visits only its upper triangle, and so that
the whole gradient of a rank's own rows follows from its own rows of the matrix: nothing travels in backward.

Shapes: this rank's b rows of B in all, D features, r x c one tile, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from intermodal.losses.distributed import (
    all_reduce_sum,
    check_same_shape,
    is_distributed,
    rank_and_world,
    stack_over_ranks,
)
from intermodal.losses.tiles import buffer, default_size, diagonal, slices, view


@dataclass(frozen=True)
class Batch:
    """A batch over all ranks, and which rows of it are this rank's.

    Attributes:
        own_bD: this rank's rows, without gradient.
        all_BD: the rows of all ranks, in rank order.
        first: the row of the whole at which this rank's begin.
        world: the number of ranks.
        size: a square of it is what a tile may hold.
        step: rows and columns of a tile of :class:`Products`.
        group: the ranks; None for all.
        gather: whether there may be rows on other ranks.
    """

    own_bD: Tensor
    all_BD: Tensor
    first: int
    world: int
    size: int
    step: int
    group: dist.ProcessGroup | None
    gather: bool

    @classmethod
    def of(cls, x_bD: Tensor, gather: bool, group: dist.ProcessGroup | None, tile: int | None) -> Batch:
        """Gather a batch.

        Raises:
            ValueError: if ranks hold different shapes, or ``tile`` is not positive.
        """
        if tile is not None and tile < 1:
            raise ValueError(f"tile must be at least 1, found {tile}.")
        own, size = x_bD.detach(), tile or default_size(x_bD)
        if not (gather and is_distributed(group)):
            # A triangle of smaller tiles has less of the diagonal's squares, half of which is work done twice.
            small = tile is None and own.device.type == "cpu" and len(own) > size
            return cls(own, own, 0, 1, size, size // 2 if small else size, group, False)
        check_same_shape(own, group)
        rank, world = rank_and_world(group)
        return cls(own, stack_over_ranks(own, group).flatten(0, 1), rank * len(own), world, size, size, group, True)

    @property
    def own(self) -> slice:
        """Where this rank's rows are in the whole."""
        return slice(self.first, self.first + len(self.own_bD))

    def total(self, part: Tensor) -> Tensor:
        """Return the sum over ranks, without gradient."""
        return all_reduce_sum(part, self.group) if self.gather else part

    def over_ranks(self, values_b: Tensor) -> Tensor:
        """Return a value for each row of all ranks, from those of this rank's rows."""
        return stack_over_ranks(values_b, self.group).flatten(0, 1) if self.gather else values_b


@dataclass(frozen=True)
class Classes:
    """Labels of the rows of all ranks, counted from 0, and the rows of each.

    Attributes:
        index_B: the class of each row, int64, from 0 to K - 1.
        count_K: how many rows each class has.
        order_B: the rows, class after class.
        start_K: where in ``order_B`` each class begins.
    """

    index_B: Tensor
    count_K: Tensor
    order_B: Tensor
    start_K: Tensor

    @classmethod
    def of(cls, labels_b: Tensor, batch: Batch) -> Classes:
        """Gather the labels of a batch."""
        _, index, count = torch.unique(batch.over_ranks(labels_b), return_inverse=True, return_counts=True)
        return cls(index, count, index.argsort(stable=True), count.cumsum(0) - count)

    @property
    def positives_B(self) -> Tensor:
        """The number of other rows of each row's class."""
        return self.count_K[self.index_B] - 1

    def alike(self, batch: Batch, i: slice, j: slice) -> Tensor:
        """Return which of this rank's rows i and of all rows j are of one class, shape ``(r, c)``."""
        return self.index_B[batch.own][i, None] == self.index_B[j]

    def members(self, rows_r: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows of the classes of ``rows_r``, and which of them are positives.

        Returns:
            Row numbers of shape ``(r, M)``, with M the size of the largest of these classes, filled up with the
            row itself; and bool of the same shape, False for the row itself.
        """
        mine_r = self.index_B[rows_r]
        count_r, most = self.count_K[mine_r], int(self.count_K[mine_r].max())
        place = torch.arange(most, device=rows_r.device)
        inside = place < count_r[:, None]
        found = self.order_B[(self.start_K[mine_r][:, None] + place).clamp_(max=len(self.order_B) - 1)]
        found = torch.where(inside, found, rows_r[:, None])
        return found, found != rows_r[:, None]


class Products:
    """The products of a batch's rows with one another, ``x @ x.T``, walked tile by tile."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.mirrored = batch.world == 1
        self._tile, self._computed = self.scratch(), False

    def walk(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """Yield rows i (of this rank's), columns j (of all) and their tile, in memory that the next overwrites.

        With one process each unordered pair of tiles comes once, j at or after i: where j is after i, the tile's
        transpose stands for rows j and columns i. Where one tile holds all it is computed once, however often it
        is walked, so that it must be left as it is.
        """
        for i in slices(len(self.batch.own_bD), self.batch.step):
            for j in slices(len(self.batch.all_BD), self.batch.step):
                if not self.mirrored or j.start >= i.start:
                    yield i, j, self._compute(i, j)

    def twice(self, i: slice, j: slice) -> bool:
        """Say whether the tile stands for its transpose too."""
        return self.mirrored and i.start != j.start

    def itself(self, tile_rc: Tensor, i: slice, j: slice) -> Tensor | None:
        """Return the entries of a tile at which a row meets itself, as a view, or None."""
        return diagonal(tile_rc, self.batch.first + i.start - j.start)

    def scratch(self) -> Tensor:
        """Return memory for one more tile."""
        return buffer(self.batch.own_bD, self.batch.all_BD, self.batch.own_bD, self.batch.step)

    def add(self, grad_bD: Tensor, weight_rc: Tensor, i: slice, j: slice) -> None:
        """Add ``weight @ x`` to the rows that a tile of symmetric weights stands for."""
        grad_bD[i].addmm_(weight_rc, self.batch.all_BD[j])
        if self.twice(i, j):
            grad_bD[j].addmm_(weight_rc.t(), self.batch.all_BD[i])

    def _compute(self, i: slice, j: slice) -> Tensor:
        x_rD, y_cD = self.batch.own_bD[i], self.batch.all_BD[j]
        tile_rc = view(self._tile, torch.Size((len(x_rD), len(y_cD))))
        if not self._computed:
            torch.mm(x_rD, y_cD.t(), out=tile_rc)
            self._computed = len(self.batch.all_BD) <= self.batch.step
        return tile_rc
