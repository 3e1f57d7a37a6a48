"""The distances of a batch's rows to one another, tile by tile, and the gradient of what is made of them.

Shapes: this rank's b rows of B in all, D features, r x c one tile.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from intermodal.losses.all_pairs import Batch, Products
from intermodal.losses.distances import Distance
from intermodal.losses.tiles import slices, view

NEAR = 1e-4
"""Squared distances below this share of the squared norms are computed anew, from differences: there
``|x|^2 + |y|^2 - 2 x.y`` has lost its digits."""
HELD = 1 << 22
"""Numbers in the differences that are held at a time."""


class Distances:
    """The distances of this rank's rows (for ``cosine``, unit vectors) to all rows; to themselves infinite.

    Rows are centred first, which changes no distance and saves digits where all embeddings lie close together.
    """

    def __init__(self, batch: Batch, distance: Distance) -> None:
        if distance != "cosine":
            mean_D = batch.all_BD.mean(0)
            all_BD = batch.all_BD - mean_D
            batch = replace(batch, all_BD=all_BD, own_bD=all_BD[batch.own])
        self.batch, self.distance, self.products = batch, distance, Products(batch)
        self.square_B = batch.all_BD.square().sum(1)
        self._tile = batch.own_bD.new_empty(0)

    def rows(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield rows i (of this rank's) and their distances to all rows, in memory that the next overwrites.

        There are as many rows as leave the whole as large as a tile, at least one.
        """
        every = slice(0, len(self.batch.all_BD))
        for i in slices(len(self.batch.own_bD), max(1, self.batch.size**2 // every.stop)):
            x_rD = self.batch.own_bD[i]
            yield i, self._distances(x_rD @ self.batch.all_BD.T, i, every)

    def walk(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """Yield rows i (of this rank's), columns j (of all) and distances, as :meth:`Products.walk` does."""
        for i, j, product_rc in self.products.walk():
            yield i, j, self._distances(product_rc, i, j)

    def weigh(self, slope_rc: Tensor, apart_rc: Tensor) -> Tensor:
        """Make of the derivatives by the distances, in place, the weights that :meth:`add` takes.

        The gradient of distance d(x, y) with respect to x is a weight times ``x - y`` (``cosine``: times ``-y``).
        """
        if self.distance == "euclidean":
            # At distance 0 there is no derivative: take 0.
            return slope_rc.div_(apart_rc.masked_fill_(apart_rc == 0, torch.inf))
        return slope_rc.mul_(2) if self.distance == "squared_euclidean" else slope_rc

    def add(self, grad_bD: Tensor, weight_rc: Tensor, i: slice, j: slice) -> None:
        """Add the gradient of this rank's rows, for a tile of symmetric weights."""
        self.products.add(grad_bD, weight_rc.neg_(), i, j)
        if self.distance != "cosine":
            grad_bD[i].addcmul_(self.batch.own_bD[i], weight_rc.sum(1, keepdim=True), value=-1)
            if self.products.twice(i, j):
                grad_bD[j].addcmul_(self.batch.own_bD[j], weight_rc.sum(0)[:, None], value=-1)

    def add_rows(self, grad_bD: Tensor, grad_BD: Tensor, weight_rB: Tensor, i: slice) -> None:
        """Add the gradients of some rows and of all columns, for weights of these rows as :meth:`rows` yields them."""
        x_rD, x_BD = self.batch.own_bD[i], self.batch.all_BD
        grad_bD[i].addmm_(weight_rB, x_BD, alpha=-1)
        grad_BD.addmm_(weight_rB.t(), x_rD, alpha=-1)
        if self.distance != "cosine":
            grad_bD[i].addcmul_(x_rD, weight_rB.sum(1, keepdim=True))
            grad_BD.addcmul_(x_BD, weight_rB.sum(0)[:, None])

    def _distances(self, product_rc: Tensor, i: slice, j: slice) -> Tensor:
        if self._tile.numel() < product_rc.numel():
            self._tile = product_rc.new_empty(product_rc.numel())
        apart_rc = view(self._tile, product_rc.shape)
        if self.distance == "cosine":
            torch.sub(1, product_rc, out=apart_rc)
        else:
            own_r, all_c = self.square_B[self.batch.own][i], self.square_B[j]
            torch.add(own_r[:, None], all_c, out=apart_rc).sub_(product_rc, alpha=2).clamp_(min=0)
        if (me := self.products.itself(apart_rc, i, j)) is not None:
            me.fill_(torch.inf)
        if self.distance != "cosine":
            if apart_rc.amin() < NEAR * (own_r.amax() + all_c.amax()):
                self._refine(apart_rc, i, j)
            if self.distance == "euclidean":
                apart_rc.sqrt_()
        return apart_rc

    def _refine(self, apart_rc: Tensor, i: slice, j: slice) -> None:
        squares = self.square_B[self.batch.own][i, None] + self.square_B[j]
        near_n2 = (apart_rc < squares.mul_(NEAR)).nonzero()
        x_rD, y_cD = self.batch.own_bD[i], self.batch.all_BD[j]
        for r, c in (part.unbind(1) for part in near_n2.split(max(1, HELD // x_rD.shape[1]))):
            apart_rc[r, c] = (x_rD[r] - y_cD[c]).square_().sum(1)
