"""Compiled sums and maxima over the paths of a hidden Markov model, in log space, in float64. Needs numba.

A graph comes as arrays: the emission number of each of S nodes, and A arcs in the order of their targets, those into node s
at ``first_S1[s] .. first_S1[s + 1]``. An arc takes one frame: its target speaks the next one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from intermodal.core.errors import MissingExtraError

try:
    from numba import njit
except ImportError as error:
    raise MissingExtraError("numba", "speech") from error

Array = np.ndarray[Any, Any]
FAR = 40.0
"""exp(-40) is below the last digit of a float64: what is so far below the largest adds nothing."""


@njit(nogil=True, cache=True)
def forward(  # noqa: PLR0917 - compiled code takes its arrays one by one
    loglik_TP: Array, pdf_S: Array, start_S: Array, final_S: Array, first_S1: Array, source_A: Array, weight_A: Array
) -> tuple[float, Array]:
    """Return the logarithm of the sum over all paths, and alpha ``(T, S)``: the sum over the paths up to each place."""
    frames, nodes = loglik_TP.shape[0], pdf_S.shape[0]
    alpha_TS = np.full((frames, nodes), -np.inf)
    for s in range(nodes):
        alpha_TS[0, s] = start_S[s] + loglik_TP[0, pdf_S[s]]
    for t in range(1, frames):
        for s in range(nodes):
            best = -np.inf
            for a in range(first_S1[s], first_S1[s + 1]):
                best = max(best, alpha_TS[t - 1, source_A[a]] + weight_A[a])
            if best == -np.inf:
                continue
            total = 0.0
            for a in range(first_S1[s], first_S1[s + 1]):
                below = alpha_TS[t - 1, source_A[a]] + weight_A[a] - best
                if below == 0.0:
                    total += 1.0
                elif below > -FAR:
                    total += np.exp(below)
            alpha_TS[t, s] = best + (np.log(total) if total != 1.0 else 0.0) + loglik_TP[t, pdf_S[s]]
    return _log_sum(alpha_TS[frames - 1] + final_S), alpha_TS


@njit(nogil=True, cache=True)
def _log_sum(values: Array) -> float:
    best = values.max()
    return best if best == -np.inf else best + np.log(np.exp(values - best).sum())


@njit(nogil=True, cache=True)
def occupations(  # noqa: PLR0917 - compiled code takes its arrays one by one
    loglik_TP: Array, pdf_S: Array, start_S: Array, final_S: Array, first_S1: Array, source_A: Array, weight_A: Array
) -> tuple[float, Array, Array, Array, Array]:
    """Return the logarithm of the sum over all paths, and how often each thing is used on average over the paths.

    Returns:
        The log-likelihood; ``gamma_TP``, each emission in each frame; ``xi_A``, each arc; ``first_S`` and ``last_S``, each
        node in the first and in the last frame. All 0 where no path fits (the log-likelihood is then -inf).
    """
    frames, nodes = loglik_TP.shape[0], pdf_S.shape[0]
    total, alpha_TS = forward(loglik_TP, pdf_S, start_S, final_S, first_S1, source_A, weight_A)
    gamma_TP = np.zeros(loglik_TP.shape)
    xi_A = np.zeros(weight_A.shape[0])
    first_S, last_S = np.zeros(nodes), np.zeros(nodes)
    if total == -np.inf:
        return total, gamma_TP, xi_A, first_S, last_S
    beta_S = final_S.copy()  # of the frame that is looked at: the sum over the paths behind it
    for s in range(nodes):
        last_S[s] = np.exp(alpha_TS[frames - 1, s] + beta_S[s] - total)
    ahead_S = np.empty(nodes)
    share_S = last_S
    for t in range(frames - 1, -1, -1):
        for s in range(nodes):
            gamma_TP[t, pdf_S[s]] += share_S[s]
        if t == 0:
            break
        for s in range(nodes):
            ahead_S[s] = beta_S[s] + loglik_TP[t, pdf_S[s]]
        high_S = np.full(nodes, -np.inf)
        for s in range(nodes):
            if ahead_S[s] == -np.inf:
                continue
            for a in range(first_S1[s], first_S1[s + 1]):
                high_S[source_A[a]] = max(high_S[source_A[a]], ahead_S[s] + weight_A[a])
        sum_S = np.zeros(nodes)
        for s in range(nodes):
            if ahead_S[s] == -np.inf:
                continue
            for a in range(first_S1[s], first_S1[s + 1]):
                value = ahead_S[s] + weight_A[a]
                if value == -np.inf:
                    continue
                below = value - high_S[source_A[a]]
                if below == 0.0:
                    sum_S[source_A[a]] += 1.0
                elif below > -FAR:
                    sum_S[source_A[a]] += np.exp(below)
                used = alpha_TS[t - 1, source_A[a]] + value - total
                if used > -FAR:
                    xi_A[a] += np.exp(used)
        share_S = np.zeros(nodes)
        for s in range(nodes):
            beta_S[s] = high_S[s] + np.log(sum_S[s]) if sum_S[s] > 0.0 else -np.inf
            used = alpha_TS[t - 1, s] + beta_S[s] - total
            if used > -FAR:
                share_S[s] = np.exp(used)
    first_S[:] = share_S
    return total, gamma_TP, xi_A, first_S, last_S


@njit(nogil=True, cache=True)
def viterbi(  # noqa: PLR0917 - compiled code takes its arrays one by one
    loglik_TP: Array, pdf_S: Array, start_S: Array, final_S: Array, first_S1: Array, source_A: Array, weight_A: Array
) -> tuple[float, Array]:
    """Return the logarithm of the best path's probability and its node in each frame, int32 ``(T,)``; -inf if none fits."""
    frames, nodes = loglik_TP.shape[0], pdf_S.shape[0]
    back_TS = np.full((frames, nodes), -1, np.int32)
    score_S = np.empty(nodes)
    for s in range(nodes):
        score_S[s] = start_S[s] + loglik_TP[0, pdf_S[s]]
    next_S = np.empty(nodes)
    for t in range(1, frames):
        for s in range(nodes):
            best, source = -np.inf, -1
            for a in range(first_S1[s], first_S1[s + 1]):
                value = score_S[source_A[a]] + weight_A[a]
                if value > best:
                    best, source = value, source_A[a]
            back_TS[t, s] = source
            next_S[s] = best + loglik_TP[t, pdf_S[s]] if source >= 0 else -np.inf
        score_S, next_S = next_S, score_S
    path_T = np.full(frames, -1, np.int32)
    last = int(np.argmax(score_S + final_S))
    total = score_S[last] + final_S[last]
    if total > -np.inf:
        path_T[frames - 1] = last
        for t in range(frames - 1, 0, -1):
            path_T[t - 1] = back_TS[t, path_T[t]]
    return total, path_T


@njit(nogil=True, cache=True)
def mixed(parts_TUK: Array) -> Array:
    """Return the logarithm of the sum over the last axis, ``(T, U)``."""
    frames, pdfs, size = parts_TUK.shape
    out_TU = np.empty((frames, pdfs))
    for t in range(frames):
        for u in range(pdfs):
            best = -np.inf
            for k in range(size):
                best = max(best, parts_TUK[t, u, k])
            total = 0.0
            if best > -np.inf:
                for k in range(size):
                    below = parts_TUK[t, u, k] - best
                    if below == 0.0:
                        total += 1.0
                    elif below > -FAR:
                        total += np.exp(below)
            out_TU[t, u] = best + (np.log(total) if total > 1.0 else 0.0)
    return out_TU


@njit(nogil=True, cache=True)
def accumulate(  # noqa: PLR0917 - compiled code takes its arrays one by one
    gamma_TU: Array,
    parts_TUK: Array,
    mixed_TU: Array,
    feature_TD: Array,
    pdf_U: Array,
    weight_PK: Array,
    first_PKD: Array,
    second_PKD: Array,
) -> None:
    """Add each frame, its square and its count to the components that it belongs to, by its occupations."""
    frames, pdfs, size = parts_TUK.shape
    width = feature_TD.shape[1]
    for t in range(frames):
        for u in range(pdfs):
            if gamma_TU[t, u] <= 0.0:
                continue
            p = pdf_U[u]
            for k in range(size):
                below = parts_TUK[t, u, k] - mixed_TU[t, u]
                if below < -FAR:
                    continue
                share = gamma_TU[t, u] * np.exp(below)
                weight_PK[p, k] += share
                for d in range(width):
                    scaled = share * feature_TD[t, d]
                    first_PKD[p, k, d] += scaled
                    second_PKD[p, k, d] += scaled * feature_TD[t, d]
