"""A network of pictures run on overlapping tiles, so that memory does not grow with the picture.

Neighbouring results are blended linearly where they overlap. The numbers are those of diffusers' tiled autoencoder: a tile
is blended with what lies above it first and then with what lies to its left, both as they are after their own blending.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from intermodal.core.errors import ConfigError

OVERLAP = 4
"""Neighbouring tiles share the fourth part of a tile."""


def check_tile(tile: int, stride: int) -> None:
    """Check that tiles of so many pixels are whole numbers of places, and their overlap too.

    Raises:
        ConfigError: if they are not.
    """
    if tile < OVERLAP * stride or tile % (OVERLAP * stride):
        raise ConfigError(
            f"A tile must be a multiple of {OVERLAP * stride} pixels, so that the quarter in which tiles overlap is a whole "
            f"number of the network's {stride} pixels, found {tile}."
        )


def tiled(run: Callable[[Tensor], Tensor], x_BCHW: Tensor, *, tile: int, made: int) -> Tensor:
    """Return what ``run`` makes of a map, tile by tile.

    Args:
        run: the network; it makes squares of ``made`` from squares of ``tile``, and smaller ones at the edges in proportion.
        x_BCHW: the map, a picture or a latent.
        tile: height and width of a tile of ``x_BCHW``, a multiple of 4.
        made: height and width of what it makes of one, a multiple of 4.
    """
    step, blended = tile - tile // OVERLAP, made // OVERLAP
    height, width = x_BCHW.shape[2:]
    rows: list[Tensor] = []
    above: list[Tensor] = []
    for top in range(0, height, step):
        row: list[Tensor] = []
        for i, left in enumerate(range(0, width, step)):
            part = run(x_BCHW[:, :, top : top + tile, left : left + tile])
            if above:
                part = blend(above[i], part, blended, axis=2)
            if row:
                part = blend(row[-1], part, blended, axis=3)
            row.append(part)
        kept = made - blended
        rows.append(torch.cat([part[:, :, :kept, :kept] for part in row], dim=3))
        above = row
    return torch.cat(rows, dim=2)


def blend(before: Tensor, after: Tensor, extent: int, axis: int) -> Tensor:
    """Return ``after`` with its first places along ``axis`` faded in from the last ones of ``before``.

    Args:
        before: the neighbour above or to the left.
        after: of the same size across ``axis``.
        extent: how many places fade, at most; the first is the neighbour's alone.
        axis: 2 for the neighbour above, 3 for the one to the left.
    """
    extent = min(before.shape[axis], after.shape[axis], extent)
    if not extent:
        return after
    share = torch.arange(extent, dtype=after.dtype, device=after.device) / extent
    share = share.view(-1, 1) if axis == 2 else share
    last = before.narrow(axis, before.shape[axis] - extent, extent)
    faded = last * (1 - share) + after.narrow(axis, 0, extent) * share
    return torch.cat([faded, after.narrow(axis, extent, after.shape[axis] - extent)], dim=axis)
