"""Beam search over whatever can be decoded a token at a time (:class:`~intermodal.decode.stepper.Stepper`).

B sequences   P tokens of a prompt   D width   K beams   N tokens written   C candidates   V tokens that may come next
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from intermodal.decode.prompts import room
from intermodal.decode.rules import end_tokens
from intermodal.decode.stepper import Rule, Stepper

State = TypeVar("State")


@dataclass(frozen=True)
class Beam:
    """One way to go on.

    Attributes:
        tokens: int64 ``(N,)`` without the prompt; with the end where it was reached.
        log_prob: natural log-probability of all of them, by the model alone.
        score: what beams are ranked by.
    """

    tokens: Tensor
    log_prob: float
    score: float


@torch.no_grad()
def beam_search(
    stepper: Stepper[State],
    prompt: Tensor,
    most: int,
    *,
    beams: int,
    end: int | Collection[int],
    length_penalty: float = 1.0,
    early: bool = False,
    rule: Rule | None = None,
    beside: Stepper[Any] | None = None,
    weight: float = 0.0,
) -> list[list[Beam]]:
    """Return for each prompt its likeliest continuations that were found, best first.

    In each step the K likeliest of all continuations of the K beams go on; those that end are set aside, ranked by
    ``log_prob / length ** length_penalty`` (Wu et al. 2016, equation 14, in its simplest form). The search ends when
    K have ended and no beam that goes on, were it to end now, would be better than the worst of them.

    Args:
        stepper: the model.
        prompt: int64 ``(B, P)``, or vectors ``(B, P, D)`` for a model that takes them, P at least 1.
        most: so many new tokens at most, fewer where the model's context ends before; beams that have not ended by then
            are taken as they are.
        beams: K, at least 1.
        end: the token that ends a sequence, or several that do.
        length_penalty: 0 ranks by log-probability, 1 by its mean over the tokens.
        early: end as soon as K have ended.
        rule: what may come next (:mod:`intermodal.decode.rules`), over the log-probabilities, which are not normalised
            again; a :class:`~intermodal.decode.stepper.RuledStepper` acts before they are.
        beside: a second opinion over the same tokens, such as :class:`~intermodal.decode.ctc_prefix.PrefixStepper` (Watanabe
            et al. 2017) or a language model that gives log-probabilities. Where the text says ``log_prob``, it is then
            ``(1 - weight) log_prob + weight value``, with the value as it is, never normalised; it reads the same prompt.
        weight: of the second opinion, from 0 to 1.

    Raises:
        ValueError: if there is no prompt, a number is below 1, or the weight is not from 0 to 1.
        DataError: if the prompt is longer than the model's context.
    """
    if beams < 1:
        raise ValueError(f"A beam is needed, found {beams}.")
    if not 0 <= weight <= 1:
        raise ValueError(f"The weight of a second opinion is from 0 to 1, found {weight}.")
    most = room(prompt, most, stepper.context_length)
    ends = end_tokens(end)
    batch, device = len(prompt), prompt.device
    stops = torch.tensor(ends, device=device, dtype=torch.int64)
    first_B1 = torch.arange(batch, device=device).unsqueeze(1) * beams
    each_N = torch.arange(batch, device=device).repeat_interleave(beams)
    logits_BV, state = stepper.step(stepper.start(prompt.shape[1] + most), prompt)
    state = stepper.reorder(state, each_N)
    logits_NV = logits_BV.repeat_interleave(beams, 0)
    value_NV, opinion = torch.zeros(1, device=device), None
    if beside is not None:
        value_BV, opinion = beside.step(beside.start(prompt.shape[1] + most), prompt)
        value_NV, opinion = value_BV[each_N], beside.reorder(opinion, each_N)
    total_BK = torch.full((batch, beams), float("-inf"), device=device)
    total_BK[:, 0] = 0.0
    own_BK = total_BK
    made_BKN = torch.empty(batch, beams, 0, dtype=torch.int64, device=device)
    ended: list[list[Beam]] = [[] for _ in range(batch)]
    going = list(range(batch))
    for number in range(1, most + 1):
        log_prob_NV = logits_NV.float().log_softmax(-1)
        if rule is not None:
            log_prob_NV = rule(log_prob_NV, made_BKN.flatten(0, 1))
        both_NV = log_prob_NV if beside is None else (1 - weight) * log_prob_NV + weight * value_NV.float()
        all_BX = (total_BK.unsqueeze(-1) + both_NV.view(batch, beams, -1)).flatten(1)
        best_BC, place_BC = all_BX.topk(min((1 + max(len(ends), 1)) * beams, all_BX.shape[1]))
        from_BC, token_BC = place_BC // logits_NV.shape[-1], place_BC % logits_NV.shape[-1]
        ends_BC = torch.isin(token_BC, stops) if number < most else torch.ones_like(token_BC, dtype=torch.bool)
        own_BC = best_BC
        if beside is not None:
            own_BC = (own_BK.unsqueeze(-1) + log_prob_NV.view(batch, beams, -1)).flatten(1).gather(1, place_BC)
        best, own, ends_now = (x_BC[:, :beams].tolist() for x_BC in (best_BC, own_BC, ends_BC))
        for row in going:
            for rank in range(len(best[row])):
                if ends_now[row][rank] and best[row][rank] > float("-inf"):
                    tokens = torch.cat([made_BKN[row, from_BC[row, rank]], token_BC[row, rank : rank + 1]])
                    ended[row].append(_beam(tokens, own[row][rank], best[row][rank], length_penalty))
            ended[row] = sorted(ended[row], key=lambda b: -b.score)[:beams]
        open_BC = torch.where(ends_BC, float("-inf"), best_BC)
        total_BK, order_BK = (
            open_BC.topk(beams, dim=1) if open_BC.shape[1] >= beams else open_BC.sort(1, descending=True)
        )
        leaders = (total_BK[:, 0] / number**length_penalty).tolist()
        going = [
            row
            for row in going
            if leaders[row] > float("-inf")
            and (len(ended[row]) < beams or (not early and leaders[row] > ended[row][-1].score))
        ]
        if not going:
            break
        rows_BK, token_BK = from_BC.gather(1, order_BK), token_BC.gather(1, order_BK)
        before_BKN = made_BKN.gather(1, rows_BK.unsqueeze(-1).expand(-1, -1, number - 1))
        made_BKN, own_BK = torch.cat([before_BKN, token_BK.unsqueeze(-1)], 2), own_BC.gather(1, order_BK)
        rows_N, token_N1 = (rows_BK + first_B1).flatten(), token_BK.reshape(-1, 1)
        logits_NV, state = stepper.step(stepper.reorder(state, rows_N), token_N1)
        if beside is not None:
            value_NV, opinion = beside.step(beside.reorder(opinion, rows_N), token_N1)
    return ended


def _beam(tokens: Tensor, log_prob: float, total: float, length_penalty: float) -> Beam:
    return Beam(tokens, log_prob, total / len(tokens) ** length_penalty)
