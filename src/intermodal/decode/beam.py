"""Beam search over whatever can be decoded a token at a time (:class:`~intermodal.decode.stepper.Stepper`).

B sequences   P tokens of a prompt   K beams   V tokens that may come next
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from intermodal.decode.stepper import Stepper

State = TypeVar("State")


@dataclass(frozen=True)
class Beam:
    """One way to go on.

    Attributes:
        tokens: int64 ``(N,)`` without the prompt; with the end where it was reached.
        log_prob: natural log-probability of all of them.
        score: what beams are ranked by.
    """

    tokens: Tensor
    log_prob: float
    score: float


@torch.no_grad()
def beam_search(
    stepper: Stepper[State],
    prompt_BP: Tensor,
    most: int,
    *,
    beams: int,
    end: int,
    length_penalty: float = 1.0,
) -> list[list[Beam]]:
    """Return for each prompt its likeliest continuations that were found, best first.

    In each step the K likeliest of all continuations of the K beams go on; those that end are set aside, ranked by
    ``log_prob / length ** length_penalty`` (Wu et al. 2016, equation 14, in its simplest form). The search ends when K have
    ended and no beam that goes on, were it to end now, would be better than the worst of them.

    Args:
        stepper: the model.
        prompt_BP: int64 ``(B, P)``, P at least 1.
        most: so many new tokens at most; beams that have not ended by then are taken as they are.
        beams: K, at least 1.
        end: the token that ends a sequence.
        length_penalty: 0 ranks by log-probability, 1 by its mean over the tokens.

    Raises:
        ValueError: if there is no prompt, or a number is below 1.
    """
    if prompt_BP.dim() != 2 or prompt_BP.shape[1] < 1 or most < 1 or beams < 1:
        raise ValueError(f"A prompt, a step and a beam are needed, found {prompt_BP.shape}, {most} and {beams}.")
    batch, device = len(prompt_BP), prompt_BP.device
    logits_BV, state = stepper.step(stepper.start(prompt_BP.shape[1] + most), prompt_BP)
    state = stepper.reorder(state, torch.arange(batch, device=device).repeat_interleave(beams))
    log_prob = logits_BV.float().log_softmax(-1).repeat_interleave(beams, 0).view(batch, beams, -1)
    total_BK = torch.full((batch, beams), float("-inf"), device=device)
    total_BK[:, 0] = 0.0
    made = torch.empty(batch, beams, 0, dtype=torch.int64, device=device)
    ended: list[list[Beam]] = [[] for _ in range(batch)]
    open_B = torch.ones(batch, dtype=torch.bool)
    for number in range(1, most + 1):
        size = log_prob.shape[-1]
        all_B = (total_BK.unsqueeze(-1) + log_prob).flatten(1)
        best_B, place_B = all_B.topk(min(2 * beams, all_B.shape[1]))
        from_B, token_B = place_B // size, place_B % size
        is_end_B = token_B == end
        for row in open_B.nonzero().flatten().tolist():
            for rank in is_end_B[row, :beams].nonzero().flatten().tolist():
                tokens = torch.cat([made[row, from_B[row, rank]], token_B[row, rank : rank + 1]])
                ended[row].append(_beam(tokens, float(best_B[row, rank]), length_penalty))
            ended[row] = sorted(ended[row], key=lambda b: -b.score)[:beams]
        order_B = torch.where(is_end_B, float("-inf"), best_B).argsort(dim=1, descending=True, stable=True)[:, :beams]
        total_BK = torch.where(is_end_B, float("-inf"), best_B).gather(1, order_B)
        rows_BK, token_BK = from_B.gather(1, order_B), token_B.gather(1, order_B)
        made = torch.cat([made.gather(1, rows_BK.unsqueeze(-1).expand(-1, -1, number - 1)), token_BK.unsqueeze(-1)], 2)
        for row in open_B.nonzero().flatten().tolist():
            best = float(total_BK[row, 0]) / number**length_penalty
            open_B[row] = not (len(ended[row]) == beams and best <= ended[row][-1].score)
        if number == most or not open_B.any():
            break
        rows_N = (rows_BK + torch.arange(batch, device=device).unsqueeze(1) * beams).flatten()
        logits_NV, state = stepper.step(stepper.reorder(state, rows_N), token_BK.reshape(-1, 1))
        log_prob = logits_NV.float().log_softmax(-1).view(batch, beams, -1)
    for row in open_B.nonzero().flatten().tolist():
        going = [
            _beam(tokens, float(total), length_penalty)
            for tokens, total in zip(made[row], total_BK[row], strict=True)
            if total > float("-inf")
        ]
        ended[row] = sorted([*ended[row], *going], key=lambda b: -b.score)[:beams]
    return ended


def _beam(tokens: Tensor, log_prob: float, length_penalty: float) -> Beam:
    return Beam(tokens, log_prob, log_prob / len(tokens) ** length_penalty)
