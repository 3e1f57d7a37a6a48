"""Prompts of different lengths side by side, and how much can be written after them.

B sequences   P places of the longest prompt   D width
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from intermodal.core.errors import DataError


def side_by_side(prompts: Sequence[Tensor | Sequence[int]]) -> tuple[Tensor, Tensor | None]:
    """Return prompts as one batch that ends with the last token of each, and what stands before the shorter ones.

    Args:
        prompts: tokens, or vectors ``(L, D)``; each at least one.

    Returns:
        ``(B, P)`` tokens or ``(B, P, D)`` vectors, zeros where there is nothing; and int64 ``(B,)``, how many places
        of each are nothing, as a :class:`~intermodal.decode.stepper.TransformerStepper` takes it: None where all are
        equally long.

    Raises:
        DataError: if there is no prompt, or one is empty.
    """
    rows = [p if isinstance(p, Tensor) else torch.tensor(p, dtype=torch.int64) for p in prompts]
    lengths = [len(row) for row in rows]
    if not rows or min(lengths) < 1:
        raise DataError("To go on, a model needs a prompt of at least one token for each sequence.")
    prompt = pad_sequence(rows, batch_first=True, padding_side="left")
    if min(lengths) == max(lengths):
        return prompt, None
    return prompt, max(lengths) - torch.tensor(lengths, device=prompt.device)


def refuse_longer(length: int, context_length: int) -> None:
    """Raise a DataError if a prompt of this length is longer than the context."""
    if length > context_length:
        raise DataError(
            f"The prompt has {length} tokens, and the model reads at most {context_length}: shorten the prompt."
        )


def room(prompt: Tensor, most: int, context_length: int | None) -> int:
    """Return how many tokens can be written after a prompt, at most ``most``: the last one need not be read any more.

    Raises:
        ValueError: if there is no prompt, or ``most`` is below 1.
        DataError: if the prompt is longer than the context.
    """
    if prompt.dim() not in (2, 3) or prompt.shape[1] < 1 or most < 1:
        raise ValueError(
            f"A prompt of at least one token and a step are needed, found {tuple(prompt.shape)} and {most}."
        )
    if context_length is None:
        return most
    refuse_longer(prompt.shape[1], context_length)
    return min(most, context_length - prompt.shape[1] + 1)
