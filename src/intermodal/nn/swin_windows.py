"""The windows of a Swin: which place of a map lies in which, who may see whom, and how they are scored.

Shapes as in :mod:`intermodal.nn.swin`, which is built of these parts:

    B batch   D width   h, w rows and columns of a map   N windows   S places of a window   L = h w places   A heads
    K width of one head
"""

from __future__ import annotations

import dataclasses
import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

POSITION_WIDTH = 512
"""Hidden width of the network that gives v2's position bias (Liu et al. 2022, section 3.3)."""
MOST_SCALE = math.log(100)
"""Of the logarithm of v2's scale of cosines (Liu et al. 2022, equation 2: a temperature of at least 0.01)."""


# --8<-- [start:windows]
@dataclasses.dataclass(frozen=True)
class Windows:
    """How a map is cut into windows: which place of the map each place of each window holds.

    Attributes:
        rows, columns: h, w of the map.
        side: of a window.
        shift: how many places further down and right the windows lie; cyclically.
        place_NS: of the map filled up to ``rows + below`` by ``columns + right``, int64; row after row.
        below, right: rows and columns of zeros that fill it up.
        region_NS: which of the (up to nine) parts that lie side by side a place belongs to, int64.
    """

    rows: int
    columns: int
    side: int
    shift: int
    place_NS: Tensor
    below: int
    right: int
    region_NS: Tensor

    @property
    def apart_NSS(self) -> Tensor:
        """Which places of a window lie in different parts and must not see each other, bool ``(N, S, S)``."""
        return self.region_NS[:, :, None] != self.region_NS[:, None, :]


def windows(rows: int, columns: int, side: int, shift: int) -> Windows:
    """Cut a map into windows (Liu et al. 2021, section 3.2 and figure 4).

    Args:
        rows: h of the map.
        columns: w of the map.
        side: of a window.
        shift: 0 to below ``side``.
    """
    below, right = -rows % side, -columns % side
    high, wide = rows + below, columns + right
    down = (torch.arange(high) + shift) % high  # rolled up and left: what a shifted row holds
    across = (torch.arange(wide) + shift) % wide
    place = down[:, None] * wide + across
    part_h, part_w = (
        (torch.arange(n) >= n - side).long() + (torch.arange(n) >= n - shift).long() for n in (high, wide)
    )
    region = 3 * part_h[:, None] + part_w if shift else torch.zeros(high, wide, dtype=torch.int64)

    def cut(map_hw: Tensor) -> Tensor:
        parts = map_hw.unflatten(1, (-1, side)).unflatten(0, (-1, side))
        return parts.transpose(1, 2).flatten(2).flatten(0, 1)

    return Windows(rows, columns, side, shift, cut(place), below, right, cut(region))


# --8<-- [end:windows]


@dataclasses.dataclass(frozen=True, eq=False)
class Gathers:
    """A cut as indices on one device: there, back, and who must not see whom."""

    there_L: Tensor
    back_L: Tensor
    apart_NSS: Tensor | None
    below: int
    right: int


@lru_cache(maxsize=128)
def gathers(rows: int, columns: int, side: int, shift: int, device: torch.device) -> Gathers:
    """Return the gathers of a cut, made once for each size of map."""
    with torch.inference_mode(mode=False), torch.device("cpu"):
        cut = windows(rows, columns, side, shift)
        place_L = cut.place_NS.flatten()
        apart = cut.apart_NSS.to(device) if shift else None
        return Gathers(place_L.to(device), place_L.argsort().to(device), apart, cut.below, cut.right)


class Permute(torch.autograd.Function):
    """Tokens ``(B, L, D)`` in another order; the way back is a gather too, where autograd's own would add up."""

    @staticmethod
    def forward(ctx: Any, x_BLD: Tensor, there_L: Tensor, back_L: Tensor) -> Tensor:
        """Return the tokens that ``there_L`` names, in its order."""
        ctx.save_for_backward(there_L, back_L)
        return x_BLD.index_select(1, there_L)

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient in the order of before."""
        there_L, back_L = ctx.saved_tensors
        return Permute.apply(gradient[0], back_L, there_L), None, None


def relative_places(side: int) -> Tensor:
    """Return, for each pair of places of a window, the row of the table of ``(2 side - 1)^2`` offsets: int64 ``(S, S)``."""
    place_S2 = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"), -1).flatten(0, 1)
    offset_SS2 = place_S2[:, None] - place_S2[None] + side - 1
    return offset_SS2[..., 0] * (2 * side - 1) + offset_SS2[..., 1]


class TableBias(nn.Module):
    """Version 1's position bias: a learnt number for each offset and head (Liu et al. 2021, equation 4).

    Args:
        side: of a window.
        heads: A.
    """

    def __init__(self, side: int, heads: int) -> None:
        super().__init__()
        self.side = side
        self.table = nn.Parameter(nn.init.trunc_normal_(torch.empty((2 * side - 1) ** 2, heads), std=0.02))

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.table.device

    def forward(self) -> Tensor:
        """Return the bias ``(A, S, S)``."""
        place_SS = _places_on(self.side, self.device)
        return F.embedding(place_SS.flatten(), self.table).T.unflatten(1, (self.side**2, -1))


class ContinuousBias(nn.Module):
    """Version 2's position bias: ``16 sigmoid(g(offset))`` of log-spaced offsets (Liu et al. 2022, section 3.3).

    Args:
        side: of a window.
        heads: A.
        pretrained: the side that offsets are scaled to; 0 for ``side``.
    """

    def __init__(self, side: int, heads: int, pretrained: int = 0) -> None:
        super().__init__()
        self.side, self.scaled_to = side, pretrained or side
        self.fc1 = nn.Linear(2, POSITION_WIDTH)
        self.fc2 = nn.Linear(POSITION_WIDTH, heads, bias=False)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.fc1.weight.device

    def offsets(self) -> Tensor:
        """Return the log-spaced offsets of the table's rows, ``sign(x) log2(1 + |x|) / log2(8)`` with x in -8..8.

        Float32, since the published models compute them so; ``((2 side - 1)^2, 2)``.
        """
        step = torch.arange(1 - self.side, self.side, device=self.device).float()
        step = 8 * step / max(self.scaled_to - 1, 1)
        step = step.sign() * torch.log2(step.abs() + 1.0) / math.log2(8)
        return torch.stack(torch.meshgrid(step, step, indexing="ij"), -1).flatten(0, 1)

    def forward(self) -> Tensor:
        """Return the bias ``(A, S, S)``."""
        table = self.fc2(F.relu(self.fc1(self.offsets().to(self.fc1.weight.dtype))))
        place_SS = _places_on(self.side, self.device)
        return 16 * F.embedding(place_SS.flatten(), table).sigmoid().T.unflatten(1, (self.side**2, -1))


class Unit(torch.autograd.Function):
    """Vectors over their lengths, as ``F.normalize`` has them; backward one formula where autograd's own has ten steps.

    The gradient g of a unit vector u = x / n becomes ``(g - u (u . g)) / n``.
    """

    @staticmethod
    def forward(ctx: Any, x_K: Tensor) -> Tensor:
        """Map (..., K) to the same shape, contiguous."""
        length_1 = _length(x_K)
        unit_K = torch.div(x_K, length_1, out=torch.empty(x_K.shape, dtype=x_K.dtype, device=x_K.device))
        ctx.save_for_backward(x_K, unit_K, length_1)
        return unit_K

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> Tensor:
        """Return the gradient of the vectors."""
        x_K, unit_K, length_1 = ctx.saved_tensors
        if torch.is_grad_enabled():  # a gradient of this gradient is wanted, which needs the length's own
            length_1 = _length(x_K)
        along_1 = (gradient[0] * unit_K).sum(-1, keepdim=True)
        return torch.addcmul(gradient[0], unit_K, along_1, value=-1) / length_1


def _length(x_K: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x_K, dim=-1, keepdim=True).clamp_min(1e-12)


class Cosines(nn.Module):
    """Version 2's scores: cosines times a learnt scale for each head (Liu et al. 2022, equation 2).

    Args:
        heads: A.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.full((heads, 1, 1), math.log(10.0)))

    def forward(self, q_BAQK: Tensor, k_BASK: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return queries and keys whose dot products, over the root of K, are the scores; there is no bias here."""
        scale = self.log_scale.clamp(max=MOST_SCALE).exp() * q_BAQK.shape[-1] ** 0.5
        return Unit.apply(q_BAQK) * scale.to(q_BAQK.dtype), Unit.apply(k_BASK), None


@lru_cache(maxsize=64)
def _places_on(side: int, device: torch.device) -> Tensor:
    with torch.inference_mode(mode=False), torch.device("cpu"):
        return relative_places(side).to(device)
