"""What may come next: rules over logits and over what was written, for generate, stream, beam_search and RuledStepper.

A rule is a function from logits or log-probabilities ``(B, V)`` and the tokens that were written after the prompt,
``(B, N)``, to what the next token is chosen by. What may not come has minus infinity.

    B sequences   N tokens written   V tokens that there are   P tokens of a prompt
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import torch
from torch import Tensor

from intermodal.core.errors import ConfigError
from intermodal.decode.sampling import NEVER
from intermodal.decode.stepper import Rule


def every(*rules: Rule) -> Rule:
    """Return the rule that applies several, one after the other."""

    def apply(logits_BV: Tensor, made_BN: Tensor) -> Tensor:
        for rule in rules:
            logits_BV = rule(logits_BV, made_BN)
        return logits_BV

    return apply


def banned(tokens: Collection[int]) -> Rule:
    """Return the rule that some tokens never come."""
    never = sorted(tokens)

    def apply(logits_BV: Tensor, made_BN: Tensor) -> Tensor:
        del made_BN
        return logits_BV.index_fill(1, torch.tensor(never, device=logits_BV.device, dtype=torch.int64), NEVER)

    return apply


def at_least(tokens: int, ends: int | Collection[int]) -> Rule:
    """Return the rule that so many tokens are written before an end may come."""
    forbid = banned(end_tokens(ends))
    return lambda logits_BV, made_BN: forbid(logits_BV, made_BN) if made_BN.shape[1] < tokens else logits_BV


def among(sequences: Iterable[Sequence[int]], ends: int | Collection[int]) -> Rule:
    """Return the rule that only given sequences are written, each followed by one of the ends.

    Args:
        sequences: tokens, at least one sequence; they are kept as a tree of their common beginnings.
        ends: the tokens that end a sequence; what follows an end is free.

    Raises:
        ConfigError: if there is no sequence.
    """
    root: dict[int, dict[int, object]] = {}
    stop = end_tokens(ends)
    for sequence in sequences:
        node = root
        for token in sequence:
            node = node.setdefault(int(token), {})  # type: ignore[assignment]
        for end in stop:
            node.setdefault(end, {})
    if not root:
        raise ConfigError("There must be at least one sequence to choose among.")

    def apply(logits_BV: Tensor, made_BN: Tensor) -> Tensor:
        allowed_BV = torch.zeros_like(logits_BV, dtype=torch.bool)
        for row, made in enumerate(made_BN.tolist()):
            node: dict[int, object] = root  # type: ignore[assignment]
            for token in made:
                if token in stop:
                    node = {}
                    break
                node = node.get(token, {})  # type: ignore[assignment]
            if node:
                allowed_BV[row, list(node)] = True
            else:  # after an end, or where a beam that was never likely has left the tree
                allowed_BV[row, stop] = True
        return logits_BV.masked_fill(~allowed_BV, NEVER)

    return apply


def penalised(penalty: float, prompt_BP: Tensor | None = None) -> Rule:
    """Return the rule that makes tokens less likely that were there before (Keskar et al. 2019, section 4.1).

    Positive scores are divided by the penalty, negative ones multiplied with it; log-probabilities, as a beam search
    has them, are all negative.

    Args:
        penalty: above 0; 1 changes nothing.
        prompt_BP: tokens of the prompt that count as well; with K beams of each prompt, the same B prompts.

    Raises:
        ConfigError: if the penalty is not above 0.
    """
    if penalty <= 0:
        raise ConfigError(f"A repetition penalty must be above 0, found {penalty}.")

    def apply(logits_BV: Tensor, made_BN: Tensor) -> Tensor:
        if prompt_BP is not None:
            beams = len(made_BN) // len(prompt_BP)
            made_BN = torch.cat([prompt_BP.repeat_interleave(beams, 0), made_BN], 1)
        found_BN = logits_BV.gather(1, made_BN)
        return logits_BV.scatter(1, made_BN, torch.where(found_BN < 0, found_BN * penalty, found_BN / penalty))

    return apply


def without_repeated(size: int, prompt_BP: Tensor | None = None) -> Rule:
    """Return the rule that no run of ``size`` tokens comes twice (Paulus et al. 2018, section 2.5).

    Args:
        size: at least 1.
        prompt_BP: tokens of the prompt that count as well, as in :func:`penalised`.
    """

    def apply(logits_BV: Tensor, made_BN: Tensor) -> Tensor:
        if prompt_BP is not None:
            made_BN = torch.cat([prompt_BP.repeat_interleave(len(made_BN) // len(prompt_BP), 0), made_BN], 1)
        if made_BN.shape[1] < size:
            return logits_BV
        runs_BRS = made_BN.unfold(1, size, 1)
        last_BS = made_BN[:, made_BN.shape[1] - size + 1 :]
        again_BR = (runs_BRS[:, :, :-1] == last_BS.unsqueeze(1)).all(-1)
        count_BV = torch.zeros_like(logits_BV, dtype=torch.int32)
        count_BV.scatter_add_(1, runs_BRS[:, :, -1], again_BR.int())
        return logits_BV.masked_fill(count_BV > 0, NEVER)

    return apply


def end_tokens(ends: int | Collection[int] | None) -> list[int]:
    """Return the tokens that end a sequence, the one that fills up behind an end first."""
    return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
