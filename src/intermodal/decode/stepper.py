"""What can be decoded: a model that reads some tokens, says what may come next, and remembers.

Pictures of codes, captions, transcripts and answers are all made this way. A search (greedy, sampling, beams) is a
function over the protocol and knows no model; a language model beside an acoustic one, guidance or a constraint is a
wrapper that is a :class:`Stepper` again.

A prompt is tokens, or where the model takes them, vectors in their place.

    B sequences   L tokens that are read in one step   D width   V tokens that may come next   N sequences after a
    choice
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from intermodal.nn.cache import KVCache
from intermodal.nn.causal import CausalTransformer
from intermodal.nn.cross import Written

State = TypeVar("State")
Rule = Callable[[Tensor, Tensor], Tensor]
"""From logits (or log-probabilities) ``(B, V)`` and the tokens written so far ``(B, N)`` to what chooses the next."""


class Stepper(Protocol[State]):
    """Goes on with sequences; the state is whatever it remembers of them."""

    @property
    def context_length(self) -> int | None:
        """The most tokens that can be read of a sequence; None for any number."""
        ...

    def start(self, length: int) -> State:
        """Return the state in which nothing was read, for sequences of at most ``length`` tokens."""
        ...

    def step(self, state: State, tokens_BL: Tensor) -> tuple[Tensor, State]:
        """Read tokens, int64 ``(B, L)``: the whole prompt first, then one token at a time.

        The prompt may be vectors ``(B, L, D)``, for a model that takes them.

        Returns:
            logits ``(B, V)`` of the token after the last one read, and the state; the one given is used up.
        """
        ...

    def reorder(self, state: State, rows_N: Tensor) -> State:
        """Return the state of the sequences of these numbers, int64 ``(N,)``: some are left out, others split in two."""
        ...


class TransformerStepper:
    """A causal transformer that keeps the keys and values of what it has read: a step costs one position.

    Args:
        network: reads at most ``context_length`` tokens.
        logits: from the last vectors ``(B, D)`` to the logits ``(B, V)`` of what may come next, where that is less than
            all that the network knows; :meth:`CausalTransformer.logits` by default.
        padding_B: int64, how many of each prompt's first positions are nothing, where prompts of different lengths
            stand side by side (:func:`intermodal.decode.prompts.side_by_side`); None for none.
        begun: what was read before of these sequences; prompts go on behind it, and it is changed. Without ``padding_B``.
    """

    def __init__(
        self,
        network: CausalTransformer,
        logits: Callable[[Tensor], Tensor] | None = None,
        *,
        padding_B: Tensor | None = None,
        begun: KVCache | None = None,
    ) -> None:
        self.network, self.logits, self.padding_B = network, logits or network.logits, padding_B
        self.begun = begun
        self._before = 0 if begun is None else begun.length

    @property
    def context_length(self) -> int:
        """The most tokens that the network reads, behind what was read before."""
        return self.network.config.context_length - self._before

    def start(self, length: int) -> KVCache:
        """Return an empty cache, or the one that was begun, with room for so many more."""
        if self.begun is not None:
            self.begun.grow(self._before + min(length, self.context_length))
            return self.begun
        return self.network.new_cache(min(length, self.context_length), self.padding_B)

    def step(self, state: KVCache, tokens_BL: Tensor) -> tuple[Tensor, KVCache]:
        """Read tokens; see :meth:`Stepper.step`."""
        last_BD = self.network.hidden(tokens_BL, state)[:, -1]
        return self.logits(last_BD), state

    def reorder(self, state: KVCache, rows_N: Tensor) -> KVCache:
        """Choose among the sequences, in place; see :meth:`Stepper.reorder`."""
        state.reorder(rows_N)
        return state


class CrossDecoder(Protocol):
    """A network that writes a text about a context, and remembers both."""

    def start(self, context_BSC: Tensor, length: int, seen_BS: Tensor | None = None) -> Written:
        """Return the memory of a text that has not begun, of at most ``length`` tokens."""
        ...

    def hidden(self, tokens_BL: Tensor, read: Written) -> Tensor:
        """Return a vector for each token, (B, L, D)."""
        ...

    def logits(self, x_BLD: Tensor) -> Tensor:
        """Return logits (..., V) of vectors (..., D)."""
        ...


class CrossStepper:
    """A decoder over a context (what an encoder has seen), whose keys and values are computed once.

    Args:
        decoder: the network.
        context_BSC: what it reads.
        context_length: the most tokens of a text.
        seen_BS: which tokens of the context may be read, bool; None for all.
    """

    def __init__(
        self, decoder: CrossDecoder, context_BSC: Tensor, context_length: int, seen_BS: Tensor | None = None
    ) -> None:
        self.decoder, self.context_BSC, self.context_length, self.seen_BS = (
            decoder,
            context_BSC,
            context_length,
            seen_BS,
        )

    def start(self, length: int) -> Written:
        """Return the memory of texts that have not begun."""
        return self.decoder.start(self.context_BSC, length, self.seen_BS)

    def step(self, state: Written, tokens_BL: Tensor) -> tuple[Tensor, Written]:
        """Read tokens; see :meth:`Stepper.step`."""
        return self.decoder.logits(self.decoder.hidden(tokens_BL, state)[:, -1]), state

    def reorder(self, state: Written, rows_N: Tensor) -> Written:
        """Choose among the sequences; see :meth:`Stepper.reorder`."""
        state.reorder(rows_N)
        return state


class RereadingStepper:
    """A model that remembers nothing but the tokens, and reads all of them anew in every step.

    Args:
        next_logits: from tokens ``(B, L)`` to the logits ``(B, V)`` of the token after the last.
        context_length: the most tokens that it reads; None for any number.
    """

    def __init__(self, next_logits: Callable[[Tensor], Tensor], context_length: int | None = None) -> None:
        self.next_logits, self.context_length = next_logits, context_length

    def start(self, length: int) -> Tensor | None:
        """Return None: nothing was read."""
        del length
        return None

    def step(self, state: Tensor | None, tokens_BL: Tensor) -> tuple[Tensor, Tensor | None]:
        """Read tokens; see :meth:`Stepper.step`."""
        state = tokens_BL if state is None else torch.cat([state, tokens_BL], 1)
        return self.next_logits(state), state

    def reorder(self, state: Tensor | None, rows_N: Tensor) -> Tensor | None:
        """Choose among the sequences; see :meth:`Stepper.reorder`."""
        return None if state is None else state[rows_N]


class GuidedStepper(Generic[State]):
    """Exaggerates what a condition changes: ``without + scale (with - without)`` of the logits.

    Classifier-free guidance (Ho & Salimans 2021) of sequences, as Crowson proposed for such models in 2021. Both are
    evaluated in one batch, the sequences with their condition in its first half. A scale of 1 changes nothing, 0 leaves
    the condition out.

    Args:
        stepper: of a model that was trained with and without the condition.
        without_BP: the prompts ``(B, P)`` without the condition, as long as those with it.
        scale: of the difference.
    """

    def __init__(self, stepper: Stepper[State], without_BP: Tensor, scale: float) -> None:
        self.stepper, self.without_BP, self.scale = stepper, without_BP, scale

    @property
    def context_length(self) -> int | None:
        """That of the model."""
        return self.stepper.context_length

    def start(self, length: int) -> tuple[State, int]:
        """Return the state of both halves, and of how many sequences something was read: none yet."""
        return self.stepper.start(length), 0

    def step(self, state: tuple[State, int], tokens_BL: Tensor) -> tuple[Tensor, tuple[State, int]]:
        """Read tokens; see :meth:`Stepper.step`."""
        inner, begun = state
        both_2BL = torch.cat([tokens_BL, tokens_BL if begun else self.without_BP])
        logits_2BV, inner = self.stepper.step(inner, both_2BL)
        with_BV, without_BV = logits_2BV.chunk(2)
        return without_BV + self.scale * (with_BV - without_BV), (inner, len(tokens_BL))

    def reorder(self, state: tuple[State, int], rows_N: Tensor) -> tuple[State, int]:
        """Choose among the sequences, once their prompts are read; see :meth:`Stepper.reorder`."""
        inner, begun = state
        return self.stepper.reorder(inner, torch.cat([rows_N, rows_N + begun])), len(rows_N)


class RuledStepper(Generic[State]):
    """Lets only those tokens come next that some rule allows, by what was written before.

    Args:
        stepper: of the model.
        rule: from logits ``(B, V)`` and the tokens that were read after the prompt, ``(B, N)``, to the logits with
            ``-inf`` for those that may not come (:mod:`intermodal.decode.rules` has some).
    """

    def __init__(self, stepper: Stepper[State], rule: Rule) -> None:
        self.stepper, self.rule = stepper, rule

    @property
    def context_length(self) -> int | None:
        """That of the model."""
        return self.stepper.context_length

    def start(self, length: int) -> tuple[State, Tensor | None]:
        """Return the model's own state and what was written: nothing, not even a prompt."""
        return self.stepper.start(length), None

    def step(self, state: tuple[State, Tensor | None], tokens_BL: Tensor) -> tuple[Tensor, tuple[State, Tensor | None]]:
        """Read tokens; see :meth:`Stepper.step`."""
        inner, made_BN = state
        logits_BV, inner = self.stepper.step(inner, tokens_BL)
        nothing = torch.empty(len(tokens_BL), 0, dtype=torch.int64, device=tokens_BL.device)
        made_BN = nothing if made_BN is None else torch.cat([made_BN, tokens_BL], 1)
        return self.rule(logits_BV, made_BN), (inner, made_BN)

    def reorder(self, state: tuple[State, Tensor | None], rows_N: Tensor) -> tuple[State, Tensor | None]:
        """Choose among the sequences; see :meth:`Stepper.reorder`."""
        inner, made_BN = state
        return self.stepper.reorder(inner, rows_N), None if made_BN is None else made_BN[rows_N]
