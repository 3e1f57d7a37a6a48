"""What CTC thinks of a text that is being written: beside an attention decoder, it keeps a beam to what was seen.

Hybrid CTC/attention decoding (Watanabe et al. 2017, "Hybrid CTC/Attention Architecture for End-to-End Speech Recognition",
section III and algorithm 2): an attention decoder may skip or repeat, since nothing makes it go through its context from
front to back; CTC's alignments can do neither. :func:`intermodal.decode.beam.beam_search` takes both.

    B sequences   N hypotheses   T frames   V symbols, blank among them
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

NEVER = -1e5
"""The logarithm that stands for zero: finite, so that differences of it are no NaN; its exponential is 0 in float64."""


@dataclass
class Prefixes:
    """What is known of each hypothesis.

    Attributes:
        of_N: int64, whose text it is.
        log_prob_NTV, prob_NTV: what the frames say, float64; behind a sequence's last frame the blank is certain.
        symbol_NT: log-probability of all paths over the first t frames, t from 0 to T, that write the hypothesis and end in
            its last symbol.
        blank_NT: of those that end in a blank.
        begun_N: log-probability that the whole text begins with the hypothesis.
        last_N: its last symbol, -1 where it is empty; None before the prompt was read.
    """

    of_N: Tensor
    log_prob_NTV: Tensor
    prob_NTV: Tensor
    symbol_NT: Tensor
    blank_NT: Tensor
    begun_N: Tensor
    last_N: Tensor | None = None


class PrefixStepper:
    """By how much each next symbol changes the log-probability that CTC's text begins so; a ``Stepper``.

    With ``p(h ...)`` the probability of all texts that begin with ``h``: for a symbol ``c`` the value is
    ``log p(h c ...) - log p(h ...)``, for the end ``log p(h) - log p(h ...)``. They are probabilities: over symbols and end
    they sum to one. What is below about 1e-300 counts as zero. Of the prompt, the first tokens that are read, CTC says
    nothing.

    The recursions over frames are linear, ``a(t) = p(t) (a(t-1) + b(t))``. They are solved by cumulative sums in float64, so
    no step loops over frames; one costs ``T V`` for each hypothesis.

    Args:
        log_prob_BTV: log-probabilities of each frame's symbols.
        blank: the symbol of nothing.
        end: the symbol that ends a text, which no frame says.
        frames_B: how many frames are the sequence's own, int64; None for all.
    """

    context_length: int | None = None

    def __init__(self, log_prob_BTV: Tensor, blank: int, end: int, frames_B: Tensor | None = None) -> None:
        log_prob_BTV = log_prob_BTV.double().clamp(min=NEVER)
        if frames_B is not None:
            frame_T = torch.arange(log_prob_BTV.shape[1], device=log_prob_BTV.device)
            nothing_V = torch.full_like(log_prob_BTV[0, 0], NEVER)
            nothing_V[blank] = 0.0
            behind_BT1 = (frame_T >= frames_B.unsqueeze(1)).unsqueeze(-1)
            log_prob_BTV = torch.where(behind_BT1, nothing_V, log_prob_BTV)
        self.log_prob_BTV, self.blank, self.end = log_prob_BTV, blank, end

    def start(self, length: int) -> Prefixes:
        """Return the state of empty texts."""
        del length
        log_prob_BTV = self.log_prob_BTV
        begun_B = torch.zeros_like(log_prob_BTV[:, 0, 0])
        blank_BT = torch.cat([begun_B.unsqueeze(1), log_prob_BTV[:, :, self.blank].cumsum(1)], 1)
        of_B = torch.arange(len(log_prob_BTV), device=log_prob_BTV.device)
        return Prefixes(of_B, log_prob_BTV, log_prob_BTV.exp(), torch.full_like(blank_BT, NEVER), blank_BT, begun_B)

    def step(self, state: Prefixes, tokens_BL: Tensor) -> tuple[Tensor, Prefixes]:
        """Read the prompt, then one symbol at a time; return what each next one is worth, float64 ``(N, V)``."""
        if state.last_N is None:
            state = dataclasses.replace(state, last_N=torch.full_like(state.of_N, -1))
        else:
            state = self._goes_on(state, state.last_N, tokens_BL[:, -1])
        assert state.last_N is not None
        before_NT = torch.logaddexp(state.symbol_NT, state.blank_NT)
        value_NV = _summed(before_NT[:, :-1], state.prob_NTV)
        same_N1 = state.last_N.clamp(min=0).unsqueeze(1)
        again_N1T = state.prob_NTV.gather(2, same_N1.unsqueeze(1).expand(-1, state.prob_NTV.shape[1], -1))
        again_N1 = _summed(state.blank_NT[:, :-1], again_N1T)
        value_NV = value_NV.scatter(
            1, same_N1, torch.where(state.last_N.unsqueeze(1) < 0, value_NV.gather(1, same_N1), again_N1)
        )
        value_NV[:, self.blank] = NEVER
        value_NV[:, self.end] = before_NT[:, -1]
        return value_NV - state.begun_N.unsqueeze(1), state

    def reorder(self, state: Prefixes, rows_N: Tensor) -> Prefixes:
        """Choose among the hypotheses; see :meth:`~intermodal.decode.stepper.Stepper.reorder`."""
        of_N = state.of_N[rows_N]
        kept = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
        large = ("log_prob_NTV", "prob_NTV")
        if torch.equal(of_N, state.of_N):  # what the frames say need not be copied
            kept = {k: v if k in large or v is None else v[rows_N] for k, v in kept.items()}
        else:
            kept = {k: None if v is None else v[rows_N] for k, v in kept.items()}
        return Prefixes(**kept)

    def _goes_on(self, state: Prefixes, last_N: Tensor, token_N: Tensor) -> Prefixes:
        """Return the state of the hypotheses with one more symbol each (algorithm 2, all frames at once)."""
        said_NT = state.log_prob_NTV.gather(
            2, token_N.view(-1, 1, 1).expand(-1, state.log_prob_NTV.shape[1], 1)
        ).squeeze(2)
        both_NT = torch.logaddexp(state.symbol_NT, state.blank_NT)
        comes_NT = torch.where((token_N == last_N).unsqueeze(1), state.blank_NT, both_NT)[:, :-1]
        symbol_NT = _recursion(said_NT, comes_NT)
        blank_NT = _recursion(state.log_prob_NTV[:, :, self.blank], symbol_NT[:, :-1])
        begun_N = (comes_NT + said_NT).logsumexp(1)
        return dataclasses.replace(state, symbol_NT=symbol_NT, blank_NT=blank_NT, begun_N=begun_N, last_N=token_N)


def _summed(weight_NT: Tensor, prob_NTV: Tensor) -> Tensor:
    """Return ``log sum_t exp(weight_t) prob_tv``, (N, V)."""
    most_N1 = weight_NT.max(1, keepdim=True).values
    sum_NV = ((weight_NT - most_N1).exp().unsqueeze(1) @ prob_NTV).squeeze(1)
    return (sum_NV.log() + most_N1).clamp(min=NEVER)


def _recursion(log_p_NT: Tensor, comes_NT: Tensor) -> Tensor:
    """Return the logarithms of ``a(t) = p(t) (a(t-1) + comes(t))`` with ``a(0) = 0``, for t from 0 to T, (N, T + 1)."""
    up_to_NT = log_p_NT.cumsum(1)
    a_NT = up_to_NT + (comes_NT - (up_to_NT - log_p_NT)).logcumsumexp(1)
    return torch.cat([torch.full_like(a_NT[:, :1], NEVER), a_NT.clamp(min=NEVER)], 1)
