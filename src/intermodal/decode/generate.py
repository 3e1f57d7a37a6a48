"""Going on with sequences by sampling, or greedily.

B sequences   P tokens of a prompt   N new tokens
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from intermodal.decode.sampling import Sampling, choose
from intermodal.decode.stepper import Stepper

State = TypeVar("State")


@torch.no_grad()
def generate(
    stepper: Stepper[State],
    prompt_BP: Tensor,
    most: int,
    *,
    sampling: Sampling,
    generator: torch.Generator | Sequence[torch.Generator],
    end: int | None = None,
    watch: Callable[[int], None] | None = None,
) -> Tensor:
    """Return what comes after prompts, a token at a time.

    Args:
        stepper: the model.
        prompt_BP: int64 tokens ``(B, P)``, P at least 1, on the model's device.
        most: so many new tokens at most, at least 1.
        sampling: how each is chosen.
        generator: of the random numbers, on the CPU: ``(B, most)`` of them, whatever the temperature and however early
            the sequences end. Of several, each sequence has one of its own, and so depends on no other sequence.
        end: the token that ends a sequence; what would come after it is filled up with it, and when all have ended,
            nothing more is made. None for sequences of full length.
        watch: told after each step how many tokens are made.

    Returns:
        int64 ``(B, N)``, N from 1 to ``most``, without the prompts.

    Raises:
        ValueError: if there is no prompt, ``most`` is below 1, or there are not as many generators as sequences.
    """
    return _generate(stepper, prompt_BP, most, sampling, generator, end, watch, None)


@torch.no_grad()
def generate_scored(
    stepper: Stepper[State],
    prompt_BP: Tensor,
    most: int,
    *,
    sampling: Sampling,
    generator: torch.Generator | Sequence[torch.Generator],
    end: int | None = None,
    watch: Callable[[int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return what :func:`generate` does, and the log-probability of each new token.

    Returns:
        the tokens, int64 ``(B, N)``, and float32 ``(B, N)``: ``log softmax(logits)`` of each at temperature 1, natural; 0
        for what fills up behind the end.
    """
    scores: list[Tensor] = []
    tokens_BN = _generate(stepper, prompt_BP, most, sampling, generator, end, watch, scores)
    return tokens_BN, torch.stack(scores, 1)


def _generate(  # noqa: PLR0917 - two calls, from above
    stepper: Stepper[State],
    prompt_BP: Tensor,
    most: int,
    sampling: Sampling,
    generator: torch.Generator | Sequence[torch.Generator],
    end: int | None,
    watch: Callable[[int], None] | None,
    scores: list[Tensor] | None,
) -> Tensor:
    if prompt_BP.dim() != 2 or prompt_BP.shape[1] < 1 or most < 1:
        raise ValueError(f"A prompt of at least one token and a step are needed, found {prompt_BP.shape} and {most}.")
    uniform_BN = uniform(len(prompt_BP), most, generator).to(prompt_BP.device)
    ended_B = torch.zeros(len(prompt_BP), dtype=torch.bool, device=prompt_BP.device)
    made: list[Tensor] = []
    state, tokens_BL = stepper.start(prompt_BP.shape[1] + most), prompt_BP
    for number in range(most):
        logits_BV, state = stepper.step(state, tokens_BL)
        token_B = choose(logits_BV, sampling, uniform_BN[:, number])
        if scores is not None:
            chosen_B = logits_BV.float().log_softmax(-1).gather(1, token_B.unsqueeze(1)).squeeze(1)
            scores.append(chosen_B.masked_fill(ended_B, 0.0))
        if end is not None:
            token_B = torch.where(ended_B, end, token_B)
            ended_B = token_B == end
        made.append(token_B)
        if watch is not None:
            watch(number + 1)
        if end is not None and bool(ended_B.all()):
            break
        tokens_BL = token_B.unsqueeze(1)
    return torch.stack(made, 1)


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
