"""Connectionist temporal classification (Graves et al. 2006): the loss, the occupations and the best path.

A network says of each frame how likely each symbol is, blank included. A path names a symbol for every frame; the text of
a path is what is left when repeats are merged and then blanks removed. The loss is minus the log of the sum over all paths
of the text, by the forward-backward recursion over a lattice of ``S = 2 U + 1`` states: the text's symbols with blanks
between them and at both ends.

On the CPU the sums are compiled (:mod:`intermodal.losses.ctc_kernels`), utterances in parallel; elsewhere, and where numba
is missing, the same recursion runs in torch operations over the whole batch.

    B utterances   T frames   V symbols, blank among them   U symbols of a text   S = 2 U + 1 states of the lattice
"""

from __future__ import annotations

import importlib.util
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from intermodal.core.errors import DataError, TrainingError
from intermodal.nn.time_conv import frames_up_to

Array = np.ndarray[Any, Any]
How = Literal["auto", "compiled", "torch"]


class CTCLoss(NamedTuple):
    """The losses of a batch.

    Attributes:
        loss_B: minus the log-probability of each text; 0 where ``infinite_B``.
        infinite_B: bool: no path gives the text, because it has too few frames (each symbol takes one, and a symbol that is
            said twice in a row takes a blank between), or because its symbols have probability zero.
    """

    loss_B: Tensor
    infinite_B: Tensor

    def mean(self) -> Tensor:
        """Return the mean loss of the utterances that have one; 0 (with a gradient of 0) where none has."""
        return self.loss_B.sum() / (~self.infinite_B).sum().clamp(min=1)

    def infinite(self) -> list[int]:
        """Return the places in the batch of those whose loss is infinite."""
        return [int(i) for i in self.infinite_B.nonzero().flatten()]


class CTCPath(NamedTuple):
    """The most probable path of a text.

    Attributes:
        first_U, last_U: int64, the first and the last frame of each symbol.
        states_T: int64, the lattice's state at each frame; state ``2 i + 1`` is symbol i, even states are blanks.
        score: log-probability of the path.
    """

    first_U: Array
    last_U: Array
    states_T: Array
    score: float


def frames_needed(targets_BU: Tensor, lengths_B: Tensor) -> Tensor:
    """Return the fewest frames in which each text can be said, int64 ``(B,)``: its symbols, and its repeats once more."""
    place_U = torch.arange(1, targets_BU.shape[1], device=targets_BU.device)
    repeats_BU = (targets_BU[:, 1:] == targets_BU[:, :-1]) & (place_U < lengths_B.unsqueeze(1))
    return lengths_B + repeats_BU.sum(1)


def ctc_loss(
    logits_BTV: Tensor, frames_B: Tensor, targets_BU: Tensor, lengths_B: Tensor, *, blank: int = 0, how: How = "auto"
) -> CTCLoss:
    """Return the CTC loss of each utterance (equations 6 to 8), whose gradient is softmax minus occupation (equation 16).

    Args:
        logits_BTV: any floating dtype: scores before the softmax; log-probabilities are a special case.
        frames_B: int64, how many frames of each utterance count, 0 to T; the others get no gradient.
        targets_BU: int64, the texts, padded with anything.
        lengths_B: int64, how many symbols of each text count, 0 to U.
        blank: the symbol of silence; it may not stand in a text.
        how: ``compiled`` (CPU, needs numba) or ``torch``; ``auto`` takes the first where it can.

    Returns:
        The losses, float32 (float64 for float64 logits); none of them is infinite or NaN.

    Raises:
        ValueError: if shapes do not fit, or the blank is no symbol.
        DataError: if a text holds the blank or what is no symbol, or a length is out of range.
        TrainingError: if the logits are not numbers; the utterance is named.
    """
    _check(logits_BTV, frames_B, targets_BU, lengths_B, blank)
    compiled = how == "compiled" or (how == "auto" and logits_BTV.device.type == "cpu" and _has_numba())
    loss_B, infinite_B = _CTC.apply(logits_BTV, frames_B, targets_BU, lengths_B, blank, compiled)
    return CTCLoss(loss_B, infinite_B)


def ctc_occupations(log_probs_TV: Array, target_U: Array, *, blank: int = 0) -> tuple[Array, float]:
    """Return the probability of each state of the lattice at each frame, given the text, and the text's log-probability.

    Args:
        log_probs_TV: natural logarithms of one utterance, rows that sum to one.
        target_U: int64, the text.
        blank: the symbol of silence.

    Returns:
        float64 ``(T, S)``, whose rows sum to one, and the log-probability.

    Raises:
        DataError: as :func:`ctc_align`.
    """
    from intermodal.losses import ctc_kernels

    log_probs_TV, labels_S, skip_S = _one(log_probs_TV, target_U, blank)
    occupied_TS = np.zeros((len(log_probs_TV), len(labels_S)))
    powers_TS = np.zeros(occupied_TS.shape, np.int32)
    log_p = float(ctc_kernels.lattice(log_probs_TV, len(log_probs_TV), labels_S, skip_S, occupied_TS, powers_TS))
    _possible(log_p)
    return occupied_TS, log_p


def ctc_align(log_probs_TV: Array, target_U: Array, *, blank: int = 0) -> CTCPath:
    """Return the most probable path of a text, and with it the frames of its symbols: forced alignment (Viterbi).

    Args:
        log_probs_TV: natural logarithms of one utterance.
        target_U: int64, the text.
        blank: the symbol of silence.

    Raises:
        DataError: if a log-probability is not a number, the text holds the blank or what is no symbol, or no path gives it
            because there are too few frames.
    """
    from intermodal.losses import ctc_kernels

    log_probs_TV, labels_S, skip_S = _one(log_probs_TV, target_U, blank)
    states_T = np.zeros(len(log_probs_TV), np.int64)
    score = float(ctc_kernels.best_path(log_probs_TV, labels_S, skip_S, states_T))
    _possible(score)
    symbols = 2 * np.arange(len(labels_S) // 2) + 1
    return CTCPath(np.searchsorted(states_T, symbols), np.searchsorted(states_T, symbols, "right") - 1, states_T, score)


class _CTC(torch.autograd.Function):
    """Loss and analytic gradient in one pass: what backward needs is the gradient itself."""

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes them one by one
        ctx: Any,
        logits_BTV: Tensor,
        frames_B: Tensor,
        targets_BU: Tensor,
        lengths_B: Tensor,
        blank: int,
        compiled: bool,
    ) -> tuple[Tensor, Tensor]:
        precise = logits_BTV.dtype if logits_BTV.dtype == torch.float64 else torch.float32
        logp_BTV = torch.log_softmax(logits_BTV.detach(), -1, dtype=precise)
        compute = _compiled if compiled else _in_torch
        loss_B, gradient_BTV = compute(logp_BTV, frames_B, targets_BU, lengths_B, blank)
        if bool(loss_B.isnan().any()):
            bad = int(loss_B.isnan().nonzero()[0])
            raise TrainingError(f"CTC: the network's output for utterance {bad} of the batch is not a number.")
        infinite_B = loss_B.isinf()
        ctx.save_for_backward(gradient_BTV.to(logits_BTV.dtype))
        ctx.mark_non_differentiable(infinite_B)
        return loss_B.masked_fill(infinite_B, 0).to(precise), infinite_B

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient_BTV,) = ctx.saved_tensors
        return gradient_BTV * gradients[0].to(gradient_BTV.dtype)[:, None, None], None, None, None, None, None


def _compiled(
    logp_BTV: Tensor, frames_B: Tensor, targets_BU: Tensor, lengths_B: Tensor, blank: int
) -> tuple[Tensor, Tensor]:
    """Return the losses, float64, and their gradients; utterances are spread over torch's number of threads."""
    from intermodal.losses.ctc_kernels import loss_and_gradient

    logp_BTV = logp_BTV.contiguous()
    gradient_BTV, loss_B = logp_BTV.exp(), np.empty(len(logp_BTV))
    logp, frames, targets, lengths = (x.contiguous().numpy() for x in (logp_BTV, frames_B, targets_BU, lengths_B))

    def work(first: int, last: int) -> None:
        loss_and_gradient(logp, frames, targets, lengths, blank, first, last, loss_B, gradient_BTV.numpy())

    workers = min(torch.get_num_threads(), len(loss_B))
    if workers <= 1:
        work(0, len(loss_B))
    else:  # utterance by utterance, because their sizes differ
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(work, range(len(loss_B)), range(1, len(loss_B) + 1)))
    return torch.from_numpy(loss_B), gradient_BTV


def _in_torch(
    logp_BTV: Tensor, frames_B: Tensor, targets_BU: Tensor, lengths_B: Tensor, blank: int
) -> tuple[Tensor, Tensor]:
    """Return the same as :func:`_compiled`, by torch operations over the whole batch, on any device."""
    precise = torch.float32 if logp_BTV.device.type == "mps" else torch.float64
    batch, most_frames, _ = logp_BTV.shape
    states_B = 2 * lengths_B + 1
    labels_BS = targets_BU.new_full((batch, 2 * targets_BU.shape[1] + 1), blank)
    labels_BS[:, 1::2] = targets_BU
    place_S = torch.arange(labels_BS.shape[1], device=labels_BS.device)
    counts_BS = place_S < states_B[:, None]
    labels_BS = labels_BS.masked_fill(~counts_BS, blank)
    skip_BS = torch.zeros_like(counts_BS)
    skip_BS[:, 2:] = (labels_BS[:, 2:] != blank) & (labels_BS[:, 2:] != labels_BS[:, :-2])
    emission_TBS = logp_BTV.to(precise).gather(2, labels_BS[:, None].expand(-1, most_frames, -1)).transpose(0, 1)
    never_B1 = emission_TBS.new_full((batch, 1), -math.inf)

    def step(now_BS: Tensor, one_BS: Tensor, two_BS: Tensor) -> Tensor:
        return torch.logsumexp(torch.stack([now_BS, one_BS, two_BS]), 0)

    # Equations 6 and 7. Before the first frame all paths are in a state before the first blank.
    alpha = []
    begins_BS = (place_S < 2).expand_as(counts_BS)
    here_BS = torch.full_like(emission_TBS[0], -math.inf) if most_frames else never_B1
    for t in range(most_frames):
        if t == 0:
            here_BS = torch.where(begins_BS, 0.0, here_BS)
        else:
            one_BS = torch.cat([never_B1, here_BS], 1)[:, :-1]
            two_BS = torch.cat([never_B1, never_B1, here_BS], 1)[:, :-2].masked_fill(~skip_BS, -math.inf)
            here_BS = step(here_BS, one_BS, two_BS)
        here_BS = (here_BS + emission_TBS[t]).masked_fill(~counts_BS, -math.inf)
        alpha.append(here_BS)
    ends_BS = counts_BS & (place_S >= states_B[:, None] - 2)
    gradient_BTV = logp_BTV.exp()
    if most_frames == 0:
        return torch.where(lengths_B == 0, 0.0, math.inf).to(precise), gradient_BTV
    alpha_TBS = torch.stack(alpha)
    last_BS = alpha_TBS[(frames_B - 1).clamp(min=0), torch.arange(batch, device=frames_B.device)]
    log_p_B = torch.logsumexp(last_BS.masked_fill(~ends_BS, -math.inf), 1)  # equation 8
    log_p_B = torch.where(frames_B > 0, log_p_B, torch.where(lengths_B == 0, 0.0, -math.inf).to(precise))
    possible_B = log_p_B > -math.inf
    # Equations 9 to 11; ``later`` is the backward variable of the frame after, times its emission.
    skip_out_BS = torch.cat([skip_BS, torch.zeros_like(skip_BS[:, :2])], 1)[:, 2:]
    later_BS = torch.full_like(emission_TBS[0], -math.inf)
    for t in range(most_frames - 1, -1, -1):
        one_BS = torch.cat([later_BS, never_B1], 1)[:, 1:]
        two_BS = torch.cat([later_BS, never_B1, never_B1], 1)[:, 2:].masked_fill(~skip_out_BS, -math.inf)
        beta_BS = step(later_BS, one_BS, two_BS)
        at_end_B1 = (frames_B == t + 1)[:, None]
        beta_BS = torch.where(at_end_B1, torch.where(ends_BS, 0.0, -math.inf).to(precise), beta_BS)
        later_BS = beta_BS + emission_TBS[t]
        counts_B = (t < frames_B) & possible_B
        occupied_BS = (alpha_TBS[t] + beta_BS - log_p_B[:, None]).exp()  # equation 14
        occupied_BS = torch.where(counts_B[:, None] & counts_BS, occupied_BS, 0.0)
        taken_BV = torch.zeros_like(gradient_BTV[:, t], dtype=precise).scatter_add_(1, labels_BS, occupied_BS)
        gradient_BTV[:, t] -= taken_BV.to(gradient_BTV)
        gradient_BTV[:, t].masked_fill_(~counts_B[:, None], 0)
    return -log_p_B, gradient_BTV


def _has_numba() -> bool:
    return importlib.util.find_spec("numba") is not None


def _check(logits_BTV: Tensor, frames_B: Tensor, targets_BU: Tensor, lengths_B: Tensor, blank: int) -> None:
    batch = logits_BTV.shape[0]
    if (
        logits_BTV.dim() != 3
        or targets_BU.dim() != 2
        or not (len(targets_BU) == len(frames_B) == len(lengths_B) == batch)
    ):
        found = ", ".join(str(tuple(x.shape)) for x in (logits_BTV, frames_B, targets_BU, lengths_B))
        raise ValueError(f"CTC needs (B, T, V) logits, (B,) frames, (B, U) texts and (B,) lengths, found {found}.")
    _, most_frames, symbols = logits_BTV.shape
    if not 0 <= blank < symbols:
        raise ValueError(f"The blank is symbol {blank}, but the network has {symbols} symbols.")
    for name, length_B, most in (("frames", frames_B, most_frames), ("symbols", lengths_B, targets_BU.shape[1])):
        outside_B = (length_B < 0) | (length_B > most)
        if bool(outside_B.any()):
            bad = int(outside_B.nonzero()[0])
            raise DataError(f"CTC: utterance {bad} has {int(length_B[bad])} {name}, but the batch holds 0 to {most}.")
    counts_BU = frames_up_to(lengths_B, targets_BU.shape[1])
    wrong_BU = counts_BU & ((targets_BU < 0) | (targets_BU >= symbols) | (targets_BU == blank))
    if bool(wrong_BU.any()):
        bad, place = (int(i) for i in wrong_BU.nonzero()[0])
        raise DataError(
            f"CTC: the text of utterance {bad} holds {int(targets_BU[bad, place])} at place {place}; symbols go from 0 to "
            f"{symbols - 1}, and {blank} is the blank, which no text holds."
        )


def _one(log_probs_TV: Array, target_U: Array, blank: int) -> tuple[Array, Array, Array]:
    """Check one utterance and return its log-probabilities and its lattice's states."""
    from intermodal.losses.ctc_kernels import states_of

    log_probs_TV, target_U = np.ascontiguousarray(log_probs_TV), np.asarray(target_U, np.int64)
    if log_probs_TV.ndim != 2 or target_U.ndim != 1 or not 0 <= blank < log_probs_TV.shape[1]:
        raise ValueError(
            f"CTC needs (T, V) log-probabilities, (U,) symbols and a blank below V, found {log_probs_TV.shape}, "
            f"{target_U.shape} and {blank}."
        )
    symbols = log_probs_TV.shape[1]
    wrong = np.flatnonzero((target_U < 0) | (target_U >= symbols) | (target_U == blank))
    if len(wrong):
        raise DataError(
            f"CTC: the text holds {target_U[wrong[0]]} at place {wrong[0]}; symbols go from 0 to {symbols - 1}, and "
            f"{blank} is the blank, which no text holds."
        )
    if np.isnan(log_probs_TV).any():
        frame = int(np.isnan(log_probs_TV).any(1).argmax())
        raise DataError(f"CTC: the log-probabilities are not numbers, first at frame {frame}.")
    needed = len(target_U) + int((target_U[1:] == target_U[:-1]).sum())
    if len(log_probs_TV) < max(needed, 1):
        raise DataError(
            f"The text needs {needed} frames (each symbol one, and a repeated symbol a blank before it), but there are "
            f"{len(log_probs_TV)}."
        )
    labels_S, skip_S = states_of(target_U, len(target_U), blank)
    return log_probs_TV, labels_S, skip_S


def _possible(log_p: float) -> None:
    if not log_p > -math.inf:
        raise DataError("The text cannot be aligned: some of its symbols have probability zero wherever they could be.")
