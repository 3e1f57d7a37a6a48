"""What the modality experts' tasks are made of: hard negatives, holes, and writing by filling holes. It is no method.

B pairs or pictures   L tokens of a text or of what is new   N tokens that are kept   D width   V words
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from intermodal.nn.expert_blocks import Kept
from intermodal.nn.experts import ExpertTransformer

Written = tuple[list[Kept], int]
"""What is kept of each block, and how many tokens of the text are read."""


def hard(similar_BB: Tensor, hardness: float, generator: torch.Generator) -> Tensor:
    """Return for each row a wrong column, int64 ``(B,)``: with the probability ``hardness`` by the softmax, else any.

    The softmax over the wrong ones draws most often what is most easily taken for the right one (Bao et al. 2022, section
    3.2, after ALBEF). Of such alone, a fusion that knows no more than the dual encoder can tell nothing.
    """
    size = len(similar_BB)
    if size < 2:
        return torch.zeros(size, dtype=torch.int64, device=similar_BB.device)
    wrong_BB = similar_BB.cpu().fill_diagonal_(float("-inf")).softmax(1)
    wrong_BB = hardness * wrong_BB + (1 - hardness) / (size - 1) * (1 - torch.eye(size))
    return torch.multinomial(wrong_BB, 1, generator=generator).squeeze(1).to(similar_BB.device)


def some(among_BL: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Return some of the places that are True, bool ``(B, L)``: of each row the share, rounded, but one at least."""
    drawn_BL = torch.rand(among_BL.shape, generator=generator).to(among_BL.device).masked_fill(~among_BL, 2.0)
    count_B = (among_BL.sum(1) * share).round().clamp(min=1)
    return among_BL & (drawn_BL.argsort(1).argsort(1) < count_B.unsqueeze(1))


def mean_nats(logits_MV: Tensor, target_M: Tensor) -> Tensor:
    """Return the mean cross entropy; 0, with a graph, where there is nothing."""
    return F.cross_entropy(logits_MV, target_M) if len(target_M) else logits_MV.sum()


@torch.no_grad()
def told_right(logits_N2: Tensor, right_N: Tensor) -> Tensor:
    """Return how often right pairs and wrong pairs are told as such, half of the weight each; 0.5 is chance."""
    told_N = (logits_N2.argmax(1) == right_N).float()
    return (told_N[right_N == 1].mean() + told_N[right_N == 0].mean()) / 2 if len(told_N) > 1 else told_N.mean()


class Holed(NamedTuple):
    """Prepared pairs, and what is hidden of them.

    Attributes:
        text_BL: token ids, whole.
        real_BL: bool, which of them are no padding.
        word_BL: bool, the words that are hidden.
        patch_BPD: the patches' vectors, whole.
        code_BP: their codes.
        hole_BP: bool, the patches that are hidden.
    """

    text_BL: Tensor
    real_BL: Tensor
    word_BL: Tensor
    patch_BPD: Tensor
    code_BP: Tensor
    hole_BP: Tensor

    @property
    def half(self) -> int:
        """How many are the first half, rounded up."""
        return (len(self.text_BL) + 1) // 2

    def part(self, rows: slice) -> Holed:
        """Return some of the pairs."""
        return Holed(*(tensor[rows] for tensor in self))

    def with_holes(self, mask_id: int) -> Tensor:
        """Return token ids with ``mask_id`` in the place of the hidden words."""
        return self.text_BL.masked_fill(self.word_BL, mask_id)


class HoleStepper:
    """Writes a text about a picture by filling one hole after the other, as BEiT-3 does.

    Each step reads what was chosen and one mask token behind it, whose vector tells the next word; the mask token is then
    forgotten. The keys and values of the picture and of the words are kept.

    Args:
        network: the blocks.
        head: from vectors ``(B, D)`` to logits ``(B, V)``.
        image_BID: the pictures, as :meth:`ExpertTransformer.placed` returns them.
    """

    def __init__(self, network: ExpertTransformer, head: Callable[[Tensor], Tensor], image_BID: Tensor) -> None:
        self.network, self.head, self.image_BID = network, head, image_BID

    @property
    def context_length(self) -> int:
        """The most tokens of a text."""
        return self.network.config.context_length

    def start(self, length: int) -> Written:
        """Read the pictures; see :meth:`~intermodal.decode.stepper.Stepper.start`."""
        del length
        return self.network.begun(self.image_BID), 0

    def step(self, state: Written, tokens_BL: Tensor) -> tuple[Tensor, Written]:
        """Read tokens; see :meth:`~intermodal.decode.stepper.Stepper.step`."""
        kept, before = state
        count, mask_id = tokens_BL.shape[1], self.network.mask_id
        x_BLD = self.network.read(F.pad(tokens_BL, (0, 1), value=mask_id), before)
        x_BLD, kept = self.network.onward(x_BLD, kept)
        return self.head(x_BLD[:, -1]), ([(k[:, :, :-1], v[:, :, :-1]) for k, v in kept], before + count)

    def reorder(self, state: Written, rows_N: Tensor) -> Written:
        """Choose among the sequences; see :meth:`~intermodal.decode.stepper.Stepper.reorder`."""
        kept, before = state
        return [(k[rows_N], v[rows_N]) for k, v in kept], before
