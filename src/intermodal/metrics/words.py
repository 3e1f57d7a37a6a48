"""What word vectors know: nearest words, analogies by 3CosAdd, and rank correlation with people's judgements.

Shapes: N words, D features, Q queries, k results.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

QUERIES = 256
"""Queries at a time: the similarities of these to all words are held."""


def unit_rows(vectors_ND: np.ndarray) -> np.ndarray:
    """Return vectors ``(N, D)`` scaled to length one, float32; a vector of zeros stays one."""
    vectors_ND = np.asarray(vectors_ND, np.float32)
    norms = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return vectors_ND / np.maximum(norms, np.finfo(np.float32).tiny)


def nearest(
    unit_ND: np.ndarray, query_QD: np.ndarray, k: int, exclude: Sequence[Sequence[int]] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ``k`` words with the largest cosine to each query, best first.

    Args:
        unit_ND: unit vectors ``(N, D)``.
        query_QD: queries ``(Q, D)``, of any length but zero.
        k: how many; at most N less the largest number of excluded words.
        exclude: for each query the rows that do not count.

    Returns:
        Rows, int64 ``(Q, k)``, and cosines, float32 ``(Q, k)``.
    """
    query_QD = unit_rows(query_QD)
    rows = np.empty((len(query_QD), k), np.int64)
    cosines = np.empty((len(query_QD), k), np.float32)
    for start in range(0, len(query_QD), QUERIES):
        some = slice(start, start + QUERIES)
        score_QN = query_QD[some] @ unit_ND.T
        if exclude is not None:
            for i, gone in enumerate(exclude[some]):
                score_QN[i, list(gone)] = -np.inf
        if k == 1:
            top = score_QN.argmax(axis=1, keepdims=True)
        else:
            top = np.argpartition(score_QN, len(unit_ND) - k, axis=1)[:, len(unit_ND) - k :]
        part = np.take_along_axis(score_QN, top, axis=1)
        order = np.argsort(-part, axis=1, kind="stable")
        rows[some] = np.take_along_axis(top, order, axis=1)
        cosines[some] = np.take_along_axis(part, order, axis=1)
    return rows, cosines


def analogy_queries(unit_ND: np.ndarray, question_Q3: np.ndarray) -> np.ndarray:
    """Return the query ``(Q, D)`` of "a is to b as c is to ?": b - a + c of unit vectors (3CosAdd; Mikolov et al. 2013).

    The word whose vector has the largest cosine with it, a, b and c left out, is the answer.
    """
    a, b, c = (unit_ND[question_Q3[:, i]] for i in range(3))
    return b - a + c


def spearman(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> float:
    """Return Spearman's rank correlation of two lists, -1 to 1; equal values share their mean rank.

    NaN where one of them is constant or there are fewer than two values.
    """
    x_ranks, y_ranks = _ranks(np.asarray(x, np.float64)), _ranks(np.asarray(y, np.float64))
    if len(x_ranks) < 2 or not x_ranks.std() * y_ranks.std():
        return float("nan")
    return float(np.corrcoef(x_ranks, y_ranks)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def clusters(unit_ND: np.ndarray, count: int, seed: int = 0, steps: int = 25) -> np.ndarray:
    """Return the cluster of each unit vector, int64 ``(N,)``: spherical k-means (Dhillon & Modha 2001).

    The first centres are chosen far apart, each with a probability proportional to its distance from those before
    (k-means++).
    """
    rng = np.random.default_rng(seed)
    centres = [unit_ND[rng.integers(len(unit_ND))]]
    while len(centres) < count:
        far = np.clip(1 - np.max(unit_ND @ np.stack(centres).T, axis=1), 1e-9, None)
        centres.append(unit_ND[rng.choice(len(unit_ND), p=far / far.sum())])
    centre_KD = np.stack(centres)
    for _ in range(steps):
        group = np.argmax(unit_ND @ centre_KD.T, axis=1)
        sums = np.stack([unit_ND[group == i].sum(0) if (group == i).any() else centre_KD[i] for i in range(count)])
        centre_KD = unit_rows(sums)
    return np.argmax(unit_ND @ centre_KD.T, axis=1)


def tsne(vectors_ND: np.ndarray, perplexity: float = 15.0, steps: int = 500, seed: int = 0) -> np.ndarray:
    """Return a map of vectors, float64 ``(N, 2)``: exact t-SNE (van der Maaten & Hinton 2008), for some hundred points.

    Gradient descent with momentum and early exaggeration, from the two principal components. The axes have no meaning;
    neighbours do.

    Args:
        vectors_ND: at least four vectors.
        perplexity: about how many neighbours count; lowered where there are too few points.
        steps: of the descent.
        seed: of a small disturbance of the start, so that equal vectors part.
    """
    vectors_ND = np.asarray(vectors_ND, np.float64)
    count = len(vectors_ND)
    joint_NN = _affinities(_distances(vectors_ND), min(perplexity, (count - 1) / 3))
    centred = vectors_ND - vectors_ND.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    place_N2 = centred @ axes[:2].T if axes.shape[0] > 1 else np.column_stack([centred[:, 0], np.zeros(count)])
    place_N2 *= 1e-2 / max(place_N2[:, 0].std(), 1e-12)
    place_N2 += 1e-4 * np.random.default_rng(seed).standard_normal(place_N2.shape)
    moved, gain = np.zeros_like(place_N2), np.ones_like(place_N2)
    rate = max(count / 12.0, 10.0)
    for step in range(steps):
        exaggerated = 12.0 if step < steps // 4 else 1.0
        gradient = kl_gradient(place_N2, joint_NN * exaggerated)
        gain = np.where(np.sign(gradient) == np.sign(moved), gain * 0.8, gain + 0.2).clip(0.01)
        moved = (0.5 if step < steps // 4 else 0.8) * moved - rate * gain * gradient
        place_N2 = place_N2 + moved
        place_N2 -= place_N2.mean(0)
    return place_N2


def kl_gradient(place_N2: np.ndarray, joint_NN: np.ndarray) -> np.ndarray:
    """Return the gradient of t-SNE's divergence KL(P || Q) by the places (van der Maaten & Hinton 2008, equation 5)."""
    near_NN = 1 / (1 + _distances(place_N2))
    np.fill_diagonal(near_NN, 0)
    force_NN = (joint_NN - near_NN / near_NN.sum()) * near_NN
    return 4 * (force_NN.sum(1, keepdims=True) * place_N2 - force_NN @ place_N2)


def _distances(points: np.ndarray) -> np.ndarray:
    """Return squared Euclidean distances ``(N, N)``."""
    square = (points**2).sum(1)
    return np.maximum(square[:, None] + square - 2 * points @ points.T, 0)


def _affinities(distance_NN: np.ndarray, perplexity: float) -> np.ndarray:
    """Return the joint probabilities: each row's width is found by bisection so that its entropy is log(perplexity)."""
    count, wanted = len(distance_NN), np.log(perplexity)
    low, high, beta = np.zeros(count), np.full(count, np.inf), np.full(count, 1 / max(distance_NN.mean(), 1e-12))
    own = np.eye(count, dtype=bool)
    shifted = distance_NN - np.where(own, np.inf, distance_NN).min(1, keepdims=True)
    for _ in range(64):
        weight = np.where(own, 0, np.exp(-beta[:, None] * shifted))
        share = weight / weight.sum(1, keepdims=True)
        entropy = -(share * np.log(np.maximum(share, 1e-300))).sum(1)
        wide = entropy > wanted
        low, high = np.where(wide, beta, low), np.where(wide, high, beta)
        beta = np.where(np.isinf(high), beta * 2, (low + high) / 2)
    return (share + share.T) / (2 * count)
