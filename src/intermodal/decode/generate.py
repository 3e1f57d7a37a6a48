"""Going on with sequences by sampling, or greedily; all at once, or token by token as they come.

B sequences   P tokens of a prompt   D width   N new tokens
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from intermodal.decode.prompts import room
from intermodal.decode.rules import end_tokens
from intermodal.decode.sampling import Sampling, choose
from intermodal.decode.stepper import Rule, RuledStepper, Stepper

State = TypeVar("State")
GREEDY = Sampling(temperature=0)


class Token(NamedTuple):
    """One step of all sequences.

    Attributes:
        token_B: int64, what was chosen; the (first) end for sequences that ended before.
        log_prob_B: float32, ``log softmax(logits)`` of it at temperature 1, natural; 0 for those. None where it is
            not asked for.
        ended_B: bool, which sequences have ended, this token included.
    """

    token_B: Tensor
    log_prob_B: Tensor | None
    ended_B: Tensor


def generate(
    stepper: Stepper[State],
    prompt: Tensor,
    most: int,
    *,
    sampling: Sampling = GREEDY,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    end: int | Collection[int] | None = None,
    rule: Rule | None = None,
    watch: Callable[[int], None] | None = None,
) -> Tensor:
    """Return what comes after prompts, a token at a time.

    Args:
        stepper: the model.
        prompt: int64 tokens ``(B, P)``, or vectors ``(B, P, D)`` for a model that takes them, P at least 1, on the
            model's device. Prompts of different lengths stand side by side as
            :func:`~intermodal.decode.prompts.side_by_side` puts them.
        most: so many new tokens at most, at least 1; fewer where the model's context ends before.
        sampling: how each is chosen; the most probable by default.
        generator: of the random numbers, on the CPU: ``(B, most)`` of them, whatever the temperature and however early
            the sequences end. Of several, each sequence has one of its own, and so depends on no other sequence. None
            for the seed 0.
        end: the token that ends a sequence, or several that do; what would come after it is filled up with it (the
            first of several), and when all have ended, nothing more is made. None for sequences of full length.
        rule: what may come next (:mod:`intermodal.decode.rules`).
        watch: told after each step how many tokens are made.

    Returns:
        int64 ``(B, N)``, N from 1 to ``most``, without the prompts.

    Raises:
        ValueError: if there is no prompt, ``most`` is below 1, or there are not as many generators as sequences.
        DataError: if the prompt is longer than the model's context.
    """
    steps = stream(stepper, prompt, most, sampling=sampling, generator=generator, end=end, rule=rule)
    return torch.stack([step.token_B for step in _watched(steps, watch)], 1)


def generate_scored(
    stepper: Stepper[State],
    prompt: Tensor,
    most: int,
    *,
    sampling: Sampling = GREEDY,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    end: int | Collection[int] | None = None,
    rule: Rule | None = None,
    watch: Callable[[int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return what :func:`generate` does, and the log-probability of each new token.

    Returns:
        the tokens, int64 ``(B, N)``, and float32 ``(B, N)``: :attr:`Token.log_prob_B` of each.
    """
    steps = stream(stepper, prompt, most, sampling=sampling, generator=generator, end=end, rule=rule, scored=True)
    made = list(_watched(steps, watch))
    scores = [step.log_prob_B for step in made if step.log_prob_B is not None]
    return torch.stack([step.token_B for step in made], 1), torch.stack(scores, 1)


def stream(
    stepper: Stepper[State],
    prompt: Tensor,
    most: int,
    *,
    sampling: Sampling = GREEDY,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    end: int | Collection[int] | None = None,
    rule: Rule | None = None,
    scored: bool = False,
) -> Iterator[Token]:
    """Return what comes after prompts as it comes, one :class:`Token` a step; the arguments are those of :func:`generate`.

    Wrong arguments raise at once. Whoever stops asking stops the work.
    """
    most = room(prompt, most, stepper.context_length)
    drawn = torch.Generator().manual_seed(0) if generator is None else generator
    uniform_BN = uniform(len(prompt), most, drawn).to(prompt.device)
    if rule is not None:
        return _steps(RuledStepper(stepper, rule), prompt, sampling, uniform_BN, end_tokens(end), scored)
    return _steps(stepper, prompt, sampling, uniform_BN, end_tokens(end), scored)


@torch.no_grad()
def _steps(  # noqa: PLR0917 - two calls, from above
    stepper: Stepper[State], prompt: Tensor, sampling: Sampling, uniform_BN: Tensor, ends: list[int], scored: bool
) -> Iterator[Token]:
    ended_B = torch.zeros(len(prompt), dtype=torch.bool, device=prompt.device)
    stops = torch.tensor(ends, device=prompt.device, dtype=torch.int64)
    state, read = stepper.start(prompt.shape[1] + uniform_BN.shape[1]), prompt
    for uniform_B in uniform_BN.unbind(1):
        logits_BV, state = stepper.step(state, read)
        token_B = choose(logits_BV, sampling, uniform_B)
        log_prob_B = None
        if scored:
            log_prob_B = logits_BV.float().log_softmax(-1).gather(1, token_B.unsqueeze(1)).squeeze(1)
            log_prob_B = log_prob_B.masked_fill(ended_B, 0.0)
        if ends:
            token_B = torch.where(ended_B, ends[0], token_B)
            ended_B = torch.isin(token_B, stops)
        yield Token(token_B, log_prob_B, ended_B)
        if ends and bool(ended_B.all()):
            return
        read = token_B.unsqueeze(1)


def _watched(steps: Iterator[Token], watch: Callable[[int], None] | None) -> Iterator[Token]:
    for number, step in enumerate(steps, 1):
        if watch is not None:
            watch(number)
        yield step


def uniform(rows: int, columns: int, generator: torch.Generator | Sequence[torch.Generator]) -> Tensor:
    """Return numbers from 0 to below 1, ``(rows, columns)``: of one generator, or each row of its own.

    Raises:
        ValueError: if there are several generators, but not one for each row.
    """
    if isinstance(generator, torch.Generator):
        return torch.rand(rows, columns, generator=generator)
    if len(generator) != rows:
        raise ValueError(f"{rows} sequences need one generator or as many, found {len(generator)}.")
    return torch.stack([torch.rand(columns, generator=own) for own in generator])
