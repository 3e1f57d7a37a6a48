"""What a Swin's windows look at, put back to the map and to the picture.

B batch   A heads   N windows   S places of a window   h, w rows and columns of a map   D width
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from intermodal.nn.swin import ResPostNormBlock, SwinTransformer, WindowAttention
from intermodal.nn.swin_windows import Windows, windows
from intermodal.nn.transformer import Block


@dataclass(frozen=True)
class WindowWeights:
    """How one block weighs the places of each window.

    Attributes:
        stage: of the block, from 0.
        cut: the windows on the block's map.
        weight_BNASS: weights ``(B, N, A, S, S)``, a row for each place that looks; each sums to one.
    """

    stage: int
    cut: Windows
    weight_BNASS: Tensor

    def of_place(self, row: int, column: int) -> Tensor:
        """Return what the place of a row and column looks at, ``(B, A, h, w)``: zero outside of its window.

        It sums to one, less what filled-up places beside the map get.

        Raises:
            IndexError: if the map has no such place.
        """
        cut = self.cut
        if not (0 <= row < cut.rows and 0 <= column < cut.columns):
            raise IndexError(f"A map of {cut.rows} x {cut.columns} places has no place {row}, {column}.")
        high, wide = cut.rows + cut.below, cut.columns + cut.right
        number, place = (cut.place_NS == row * wide + column).nonzero()[0].tolist()
        seen_BAS = self.weight_BNASS[:, number, :, place]
        whole = seen_BAS.new_zeros(*seen_BAS.shape[:2], high * wide)
        whole[..., cut.place_NS[number].to(whole.device)] = seen_BAS
        return whole.unflatten(2, (high, wide))[..., : cut.rows, : cut.columns]

    def passed_on(self, share_Bhw: Tensor) -> Tensor:
        """Return of what places of the block's input its output is made, ``(B, h, w)``, if of the output each has a share.

        Half by the residual path, half by the mean of the heads (Abnar & Zuidema 2020, equation 1).
        """
        cut = self.cut
        places = cut.place_NS.flatten().to(share_Bhw.device)
        share_BL = F.pad(share_Bhw, (0, cut.right, 0, cut.below)).flatten(1)
        share_BNS = share_BL[:, places].unflatten(1, cut.place_NS.shape)
        seen_BNS = torch.einsum("bns,bnst->bnt", share_BNS, self.weight_BNASS.mean(2))
        back_BL = torch.zeros_like(share_BL).index_copy(1, places, seen_BNS.flatten(1))
        whole = (0.5 * share_BL + 0.5 * back_BL).unflatten(1, (cut.rows + cut.below, cut.columns + cut.right))
        return whole[:, : cut.rows, : cut.columns]


@torch.no_grad()
def attention_maps(tower: SwinTransformer, image_BCHW: Tensor) -> list[WindowWeights]:
    """Return how each block's heads weigh the places of its windows, first block to last.

    Args:
        tower: a Swin of either version.
        image_BCHW: prepared pictures of any size.
    """
    found: list[WindowWeights] = []

    def watch(stage: int, block: nn.Module, x_BhwD: Tensor) -> None:
        assert isinstance(block, Block)
        attention = block.attention
        assert isinstance(attention, WindowAttention)
        weight_MASS, shift = attention.weights(x_BhwD if isinstance(block, ResPostNormBlock) else block.norm1(x_BhwD))
        cut = windows(x_BhwD.shape[1], x_BhwD.shape[2], attention.side, shift)
        found.append(WindowWeights(stage, cut, weight_MASS.unflatten(0, (len(x_BhwD), -1))))

    tower.maps(image_BCHW, watch)
    return found


# --8<-- [start:rollout]
def rollout(weights: Sequence[WindowWeights]) -> Tensor:
    """Return how much of each place of the first map reaches the pooled answer, ``(B, h, w)``.

    Attention rollout (Abnar & Zuidema 2020) for windows: the answer is the mean of the last map's places, so that each has
    an equal share of it; block by block backwards, a share stays by half and is spread inside its window by half; and a
    merged place hands equal parts to its four. What filled-up places get is lost, so that a map sums to one at most.

    Args:
        weights: of all blocks, as :func:`attention_maps` returns them, at least one.
    """
    last = weights[-1]
    batch, cut = len(last.weight_BNASS), last.cut
    share_Bhw = last.weight_BNASS.new_full((batch, cut.rows, cut.columns), 1 / (cut.rows * cut.columns))
    stage = last.stage
    for one in reversed(weights):
        for _ in range(stage - one.stage):
            share_Bhw = share_Bhw.repeat_interleave(2, 1).repeat_interleave(2, 2) / 4
        stage = one.stage
        share_Bhw = one.passed_on(share_Bhw[:, : one.cut.rows, : one.cut.columns])
    return share_Bhw


# --8<-- [end:rollout]
