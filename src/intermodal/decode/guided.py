"""Writing under the eye of a judge: a language model proposes, something else says how well each proposal fits.

A sequence's score is ``judge(sequence) + fluency * log p(sequence) / its length``, the end counted. Nothing is
differentiated: the judge may be anything (a CLIP's likeness of the text to a picture; Tewel et al. 2022 and Zeng et al.
2023 use one).

    B prompts   K beams   N = B K sequences   C candidates   T tokens written   V tokens that may come next
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from intermodal.decode.prompts import room
from intermodal.decode.sampling import NEVER
from intermodal.decode.stepper import Stepper

State = TypeVar("State")
Rows = list[list[int]]
Judge = Callable[[Rows, list[int]], Tensor]
"""From sequences without their end, and the number of the prompt that each belongs to, to how well each fits, ``(N,)``."""


@dataclass
class Guided:
    """What was written after one prompt.

    Attributes:
        tokens: without the end.
        score: of them.
        trace: score and tokens after each accepted step of :func:`ascend`, what it began with first.
    """

    tokens: list[int]
    score: float
    trace: list[tuple[float, list[int]]] = field(default_factory=list)


@torch.no_grad()
def guided_beam(
    stepper: Stepper[State],
    prompt: Tensor,
    judge: Judge,
    *,
    most: int,
    beams: int,
    candidates: int,
    end: int,
    fluency: float,
) -> list[Guided]:
    """Return for each prompt the best sequence that was found, of 1 to ``most - 1`` tokens and an end.

    In each step every beam goes on with its likeliest tokens; each of the longer sequences is judged, and the K best go
    on. Each beam is also scored as if it ended here, and the best of all these is returned. With as many beams as there
    are sequences and as many candidates as tokens, the search is exhaustive.

    Args:
        stepper: the language model.
        prompt: ``(B, P)`` tokens or ``(B, P, D)`` vectors.
        judge: says how well a sequence fits.
        most: tokens at most, the end included, at least 2.
        beams: K.
        candidates: C.
        end: the token that ends a sequence.
        fluency: weight of the mean log-probability of a token.

    Raises:
        ValueError: if a number is out of range.
    """
    if min(beams, candidates) < 1 or most < 2:
        raise ValueError(
            f"A beam, a candidate and two tokens are needed, found {beams}, {candidates} and at most {most} tokens."
        )
    most = room(prompt, most, stepper.context_length)
    batch, device = len(prompt), prompt.device
    logits_BV, state = stepper.step(stepper.start(prompt.shape[1] + most), prompt)
    state = stepper.reorder(state, torch.arange(batch, device=device).repeat_interleave(beams))
    log_prob_NV = logits_BV.float().log_softmax(-1).repeat_interleave(beams, 0)
    total_N = torch.full((batch, beams), NEVER, device=device)
    total_N[:, 0] = 0.0
    total_N = total_N.flatten()
    made: Rows = [[] for _ in range(batch * beams)]
    best = [Guided([], NEVER) for _ in range(batch)]
    count = min(candidates, log_prob_NV.shape[-1] - 1)
    for number in range(1, most):
        log_prob_NV[:, end] = NEVER
        next_NC, token_NC = log_prob_NV.topk(count)
        total_NC = total_N.unsqueeze(1) + next_NC
        live = [
            (n, c)
            for n, row in enumerate(total_NC.tolist())
            for c, value in enumerate(row)
            if value > NEVER  # beams that stand for nothing yet
        ]
        tokens = token_NC.tolist()
        longer = [[*made[n], tokens[n][c]] for n, c in live]
        fits_NC = torch.full_like(total_NC, NEVER)
        judged = judge(longer, [n // beams for n, _ in live]).to(total_NC)
        at_N, at_C = torch.tensor(live, device=device).T
        fits_NC[at_N, at_C] = judged
        score_BX = (fits_NC + fluency * total_NC / number).view(batch, -1)
        kept = min(beams, score_BX.shape[1])
        _, place_BK = score_BX.topk(kept)
        from_N = (place_BK // count + torch.arange(batch, device=device).unsqueeze(1) * beams).flatten()
        slot_N = (place_BK % count).flatten()
        if kept < beams:  # fewer ways on than beams: the last of them fills up, as one that stands for nothing
            fill = torch.arange(beams, device=device).clamp(max=kept - 1).repeat(batch, 1)
            fill = (fill + torch.arange(batch, device=device).unsqueeze(1) * kept).flatten()
            from_N, slot_N = from_N[fill], slot_N[fill]
        total_N, fits_N = total_NC[from_N, slot_N], fits_NC[from_N, slot_N]
        if kept < beams:
            total_N.view(batch, beams)[:, kept:] = NEVER
        made = [[*made[n], tokens[n][c]] for n, c in zip(from_N.tolist(), slot_N.tolist(), strict=True)]
        state = stepper.reorder(state, from_N)
        read_N1 = token_NC[from_N, slot_N].unsqueeze(1)
        logits_NV, state = stepper.step(state, read_N1)
        log_prob_NV = logits_NV.float().log_softmax(-1)
        ended_N = fits_N + fluency * (total_N + log_prob_NV[:, end]) / (number + 1)
        for n, score in enumerate(ended_N.tolist()):
            if score > best[n // beams].score:
                best[n // beams] = Guided(list(made[n]), score)
    return best


# --8<-- [start:ascend]
def ascend(
    found: Sequence[Guided],
    propose: Callable[[Rows], list[Rows]],
    score: Judge,
    *,
    sweeps: int,
) -> None:
    """Exchange one token after the other for a better one, in place; each step's score is above the one before.

    At each place the proposals for its token are tried, the sequence being otherwise as it is; the best is accepted if
    it scores higher. A sweep visits all places once; sweeps end early where one has changed nothing.

    Args:
        found: what to begin with; its score is taken anew.
        propose: from sequences to the tokens to try at each place of each, ``[sequence][place]``.
        score: of whole sequences, judge and fluency together.
        sweeps: at most so many.
    """
    scores = score([one.tokens for one in found], list(range(len(found)))).tolist()
    for one, value in zip(found, scores, strict=True):
        one.score, one.trace = value, [(value, list(one.tokens))]
    going = list(range(len(found)))
    for _ in range(sweeps):
        changed: set[int] = set()
        for place in range(max((len(found[i].tokens) for i in going), default=0)):
            here = [i for i in going if place < len(found[i].tokens)]
            proposals = propose([found[i].tokens for i in here])
            tries = [
                (i, [*found[i].tokens[:place], token, *found[i].tokens[place + 1 :]])
                for i, tokens in zip(here, proposals, strict=True)
                for token in tokens[place]
                if token != found[i].tokens[place]
            ]
            if not tries:
                continue
            judged = score([row for _, row in tries], [i for i, _ in tries]).tolist()
            for (i, row), value in zip(tries, judged, strict=True):
                if value > found[i].score:
                    found[i].tokens, found[i].score = row, value
                    changed.add(i)
            for i in changed & set(here):
                if found[i].score > found[i].trace[-1][0]:
                    found[i].trace.append((found[i].score, list(found[i].tokens)))
        going = [i for i in going if i in changed]
        if not going:
            return


# --8<-- [end:ascend]
