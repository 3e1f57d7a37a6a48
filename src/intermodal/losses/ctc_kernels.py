"""The compiled sums over CTC's paths: forward, backward, occupations and the best path of one utterance. Needs numba.

The lattice of one utterance has a state for each of its ``S = 2 U + 1`` symbols, blanks between the U labels and at both
ends, and a row for each of its T frames. From one frame to the next a path stays, goes one state on, or skips a blank
between two labels that differ. States that no path can reach in time, or from which none can reach the end, are not visited.

The sums of probabilities run over hundreds of orders of magnitude within one frame, which is why they are usually kept as
logarithms. Here each is a float64 *and a power* of ``BASE = 1e100``: the same range as a logarithm's, but a sum is a sum
and needs neither exponential nor logarithm. Numbers are kept between 1e-50 and 1e50, so that of two that are two powers
apart the smaller is nothing (below 1e-100 of the larger).

Numbers of equations are those of Graves et al. 2006, "Connectionist temporal classification".
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from intermodal.core.errors import MissingExtraError

try:
    from numba import njit
except ImportError as error:
    raise MissingExtraError("numba", "speech") from error

Array = np.ndarray[Any, Any]
Number = Any
"""A scalar of compiled code: an integer of fixed size, or a float."""

NEVER = -math.inf
BASE, LOG_BASE, LARGEST = 1e100, 100.0 * math.log(10.0), 1e50
LOG_LARGEST = LOG_BASE / 2
ZERO = -(1 << 30)
"""The power of zero: below all others."""


@njit(nogil=True, cache=True, inline="always")
def _power(logp: Number) -> tuple[Number, Number]:
    """Return e to the power of a number, as a float64 and a power of the base."""
    if -LOG_LARGEST < logp < LOG_LARGEST:
        return math.exp(logp), 0
    if logp == NEVER:
        return 0.0, ZERO
    if math.isnan(logp):
        return logp, 0
    power = math.floor(logp / LOG_BASE + 0.5)
    return math.exp(logp - power * LOG_BASE), int(power)


@njit(nogil=True, cache=True, inline="always")
def _plus(a: Number, p: Number, b: Number, q: Number) -> tuple[Number, Number]:
    """Return ``a BASE^p + b BASE^q``."""
    if p == q:
        return a + b, p
    if p > q:
        return (a + b / BASE if p == q + 1 else a), p
    return (b + a / BASE if q == p + 1 else b), q


@njit(nogil=True, cache=True, inline="always")
def _times(a: Number, p: Number, b: Number, q: Number) -> tuple[Number, Number]:
    """Return ``a BASE^p b BASE^q``, within the bounds again."""
    a, p = a * b, p + q
    if a > LARGEST:
        return a / BASE, p + 1
    if a < 1.0 / LARGEST:
        return (a * BASE, p - 1) if a > 0.0 else (0.0, ZERO)
    return a, p


@njit(nogil=True, cache=True)
def lattice(  # noqa: PLR0917 - compiled code takes its arrays one by one
    logp_TV: Array, frames: Number, labels_S: Array, skip_S: Array, out_TS: Array, power_TS: Array
) -> Number:
    """Leave the occupations in ``out_TS`` and return the log-probability of the labels; -inf if no path exists.

    ``labels_S`` are the symbols of the states, ``skip_S`` says which may be entered from two states before; ``power_TS`` is
    room (int32). An occupation is the probability that the path is in state s at frame t, given the labels:
    ``alpha beta / (y p(l|x))``, equation 14.
    """
    states, end = len(labels_S), frames - 1
    blank = labels_S[0]
    if states // 2 > frames:
        return NEVER
    # Equations 6 and 7: the forward variable of every state that lies on some whole path.
    for t in range(frames):
        low, high = max(0, states - 2 * (frames - t)), min(states, 2 * t + 2)
        silence, silence_power = _power(logp_TV[t, blank])
        # --8<-- [start:forward]
        for s in range(low, high):
            if t == 0:
                total, power = 1.0, 0
            else:
                total, power = out_TS[t - 1, s], power_TS[t - 1, s]
                if s > 0:
                    total, power = _plus(total, power, out_TS[t - 1, s - 1], power_TS[t - 1, s - 1])
                if skip_S[s]:
                    total, power = _plus(total, power, out_TS[t - 1, s - 2], power_TS[t - 1, s - 2])
            y, y_power = (silence, silence_power) if s % 2 == 0 else _power(logp_TV[t, labels_S[s]])
            out_TS[t, s], power_TS[t, s] = _times(total, power, y, y_power)
        # --8<-- [end:forward]
        for s in range(high, min(states, high + 2)):  # read, but not reachable yet
            out_TS[t, s], power_TS[t, s] = 0.0, ZERO
    # Equation 8.
    total, total_power = out_TS[end, states - 1], power_TS[end, states - 1]
    if states > 1:
        total, total_power = _plus(total, total_power, out_TS[end, states - 2], power_TS[end, states - 2])
    if not total > 0.0:
        return total if math.isnan(total) else NEVER
    log_p = math.log(total) + total_power * LOG_BASE
    # Equations 9 to 11, with the row of the frame after in ``later``: its backward variable, times its emission.
    later, here = np.zeros(states + 2), np.zeros(states + 2)
    later_power, here_power = np.full(states + 2, ZERO), np.full(states + 2, ZERO)
    for t in range(end, -1, -1):
        low, high = max(0, states - 2 * (frames - t)), min(states, 2 * t + 2)
        out_TS[t, :low] = 0.0
        out_TS[t, high:] = 0.0
        silence, silence_power = _power(logp_TV[t, blank])
        for s in range(low, high):
            if t == end:
                beta, power = 1.0, 0
            else:
                beta, power = _plus(later[s], later_power[s], later[s + 1], later_power[s + 1])
                if s + 2 < states and skip_S[s + 2]:
                    beta, power = _plus(beta, power, later[s + 2], later_power[s + 2])
            share = out_TS[t, s] * beta / total
            apart = power_TS[t, s] + power - total_power
            if apart != 0:
                share = share / BASE if apart == -1 else share * BASE if apart == 1 else 0.0
            out_TS[t, s] = share
            y, y_power = (silence, silence_power) if s % 2 == 0 else _power(logp_TV[t, labels_S[s]])
            here[s], here_power[s] = _times(beta, power, y, y_power)
        if low > 0:  # read by the frame before, which may be lower by two
            first = max(0, low - 2)
            here[first:low], here_power[first:low] = 0.0, ZERO
        later, here = here, later
        later_power, here_power = here_power, later_power
    return log_p


@njit(nogil=True, cache=True)
def states_of(target_U: Array, length: Number, blank: Number) -> tuple[Array, Array]:
    """Return the symbols of the lattice's states and which of them may be entered by a skip."""
    labels = np.full(2 * length + 1, blank, np.int64)
    skip = np.zeros(2 * length + 1, np.bool_)
    for i in range(length):
        labels[2 * i + 1] = target_U[i]
        skip[2 * i + 1] = i > 0 and target_U[i] != target_U[i - 1]
    return labels, skip


@njit(nogil=True, cache=True)
def loss_and_gradient(  # noqa: PLR0917 - compiled code takes its arrays one by one
    logp_BTV: Array,
    frames_B: Array,
    targets_BU: Array,
    lengths_B: Array,
    blank: Number,
    first: Number,
    last: Number,
    loss_B: Array,
    gradient_BTV: Array,
) -> None:
    """Write the losses of the utterances from ``first`` to before ``last``; inf where no path exists.

    ``gradient_BTV`` holds the softmax on entry and the gradient on return (equation 16), for these utterances.
    """
    most = 0
    for b in range(first, last):
        most = max(most, frames_B[b] * (2 * lengths_B[b] + 1))
    space, powers = np.empty(most), np.empty(most, np.int32)
    for b in range(first, last):
        frames, length = frames_B[b], lengths_B[b]
        gradient_BTV[b, frames:] = 0
        if frames == 0:
            loss_B[b] = 0.0 if length == 0 else math.inf
            continue
        labels, skip = states_of(targets_BU[b], length, blank)
        occupied = space[: frames * len(labels)].reshape(frames, len(labels))
        power = powers[: frames * len(labels)].reshape(frames, len(labels))
        log_p = lattice(logp_BTV[b], frames, labels, skip, occupied, power)
        loss_B[b] = -log_p
        if not log_p > NEVER:
            gradient_BTV[b, :frames] = 0
            continue
        for t in range(frames):
            blanks = 0.0
            for s in range(0, len(labels), 2):
                blanks += occupied[t, s]
            gradient_BTV[b, t, blank] -= blanks
            for s in range(1, len(labels), 2):
                gradient_BTV[b, t, labels[s]] -= occupied[t, s]


@njit(nogil=True, cache=True)
def best_path(logp_TV: Array, labels_S: Array, skip_S: Array, path_T: Array) -> Number:
    """Write the state of each frame on the most probable path, and return its log-probability; -inf if none exists."""
    frames, states = len(logp_TV), len(labels_S)
    back = np.zeros((frames, states), np.uint8)
    score, new = np.full(states, NEVER), np.full(states, NEVER)
    score[0] = logp_TV[0, labels_S[0]]
    if states > 1:
        score[1] = logp_TV[0, labels_S[1]]
    for t in range(1, frames):
        for s in range(states):
            best, step = score[s], 0
            if s > 0 and score[s - 1] > best:
                best, step = score[s - 1], 1
            if skip_S[s] and score[s - 2] > best:
                best, step = score[s - 2], 2
            new[s] = best + logp_TV[t, labels_S[s]]
            back[t, s] = step
        score, new = new, score
    state = states - 1
    if states > 1 and score[states - 2] > score[state]:
        state = states - 2
    total = score[state]
    for t in range(frames - 1, -1, -1):
        path_T[t] = state
        state -= back[t, state]
    return total
