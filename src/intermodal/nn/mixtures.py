"""Mixtures of Gaussians with diagonal covariances, one for each pdf, and their re-estimation (EM) in float64.

A log-density is linear in ``(x^2, x)``, so that all components of all pdfs are one matrix product. Expectation maximisation
(Baum et al. 1970; Rabiner 1989, equations 52-54) needs of the data only sums: :class:`Statistics`.

Shapes: T frames, D features, P pdfs, K components, U pdfs that are looked at.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from intermodal.nn.hmm import Graph, Path

STAY = (0.01, 0.99)
"""A state's probability to stay is kept within these."""
APART = 0.2
"""How far the two halves of a split component are moved, in standard deviations (as HTK does)."""


@dataclass(frozen=True, eq=False)
class Mixtures:
    """The densities of a hidden Markov model and how its states stay.

    Attributes:
        weight_PK: the components' shares, summing to 1 for each pdf; 0 for a component that is not there.
        mean_PKD, var_PKD: float64.
        stay_P: each pdf's probability to stay.
    """

    weight_PK: np.ndarray
    mean_PKD: np.ndarray
    var_PKD: np.ndarray
    stay_P: np.ndarray

    @staticmethod
    def flat(pdfs: int, mean_D: np.ndarray, var_D: np.ndarray) -> Mixtures:
        """Return a flat start: every pdf is one Gaussian with the moments of all frames, every state stays half the time."""
        return Mixtures(
            np.ones((pdfs, 1)), np.tile(mean_D, (pdfs, 1, 1)), np.tile(var_D, (pdfs, 1, 1)), np.full(pdfs, 0.5)
        )

    @property
    def stay_logit_P(self) -> np.ndarray:
        """The logits of ``stay_P``."""
        return np.log(self.stay_P) - np.log1p(-self.stay_P)

    # --8<-- [start:gaussians]
    @cached_property
    def _linear(self) -> tuple[np.ndarray, np.ndarray]:
        """The log-densities, weights included, as ``(x^2, x) @ matrix + constant``: ``(P, K, 2 D)`` and ``(P, K)``."""
        with np.errstate(divide="ignore"):
            weight_PK = np.log(self.weight_PK)
        square_PK = (self.mean_PKD**2 / self.var_PKD + np.log(self.var_PKD) + math.log(2 * math.pi)).sum(-1)
        return np.concatenate([-0.5 / self.var_PKD, self.mean_PKD / self.var_PKD], -1), weight_PK - 0.5 * square_PK

    def parts(self, feature_TD: np.ndarray, pdf_U: np.ndarray | None = None) -> np.ndarray:
        """Return ``log(weight * density)`` of each component of some pdfs (all by default), float64 ``(T, U, K)``."""
        matrix, constant = self._linear
        if pdf_U is not None:
            matrix, constant = matrix[pdf_U], constant[pdf_U]
        both_TE = np.concatenate([feature_TD**2, feature_TD], 1, dtype=np.float64)
        flat = both_TE @ matrix.reshape(-1, matrix.shape[-1]).T
        return flat.reshape(len(feature_TD), *constant.shape) + constant

    # --8<-- [end:gaussians]

    def log_likelihood(self, feature_TD: np.ndarray, pdf_U: np.ndarray | None = None) -> np.ndarray:
        """Return the log-densities of some pdfs (all by default), float64 ``(T, U)``."""
        from intermodal.nn import hmm_kernels

        return hmm_kernels.mixed(self.parts(feature_TD, pdf_U))

    def split(self, least: float, count_PK: np.ndarray) -> Mixtures:
        """Return mixtures of twice as many components: each becomes two, moved apart; those of too few frames stay one.

        Args:
            least: frames that a component must have for each half.
            count_PK: the frames that it has.
        """
        shift = APART * np.sqrt(self.var_PKD)
        halves = (count_PK >= 2 * least)[..., None]
        mean = np.concatenate([np.where(halves, self.mean_PKD + shift, self.mean_PKD), self.mean_PKD - shift], 1)
        share = np.where(halves[..., 0], 0.5, 1.0)
        weight = np.concatenate([self.weight_PK * share, self.weight_PK * (1 - share)], 1)
        return dataclasses.replace(self, weight_PK=weight, mean_PKD=mean, var_PKD=np.concatenate([self.var_PKD] * 2, 1))


@dataclass(eq=False)
class Statistics:
    """Sums over frames, by how much each belongs to each component, and how often states stay and leave.

    Attributes:
        weight_PK, first_PKD, second_PKD: the sums of 1, x and x^2.
        stays_P, leaves_P: expected counts.
        total: log-likelihood of the recordings.
        frames: how many frames there are.
    """

    weight_PK: np.ndarray
    first_PKD: np.ndarray
    second_PKD: np.ndarray
    stays_P: np.ndarray
    leaves_P: np.ndarray
    total: float = 0.0
    frames: int = 0

    @staticmethod
    def of(mixtures: Mixtures) -> Statistics:
        """Return empty sums for some mixtures."""
        zero = np.zeros_like
        return Statistics(
            zero(mixtures.weight_PK),
            zero(mixtures.mean_PKD),
            zero(mixtures.mean_PKD),
            zero(mixtures.stay_P),
            zero(mixtures.stay_P),
        )

    # --8<-- [start:expectation]
    def expect(self, mixtures: Mixtures, feature_TD: np.ndarray, graph: Graph, *, best_only: bool = False) -> bool:
        """Add a recording: each frame belongs to each state by its probability over all paths of the text (Baum-Welch).

        Args:
            mixtures: the present model.
            feature_TD: of the recording.
            graph: of its text.
            best_only: look at the best path alone (Viterbi training).

        Returns:
            Whether the text fits into the recording; if not, nothing is added.
        """
        from intermodal.nn import hmm_kernels

        feature_TD = np.ascontiguousarray(feature_TD, np.float64)
        if len(feature_TD) < graph.shortest:
            return False
        used_U, place_S = graph.local
        parts_TUK = mixtures.parts(feature_TD, used_U)
        loglik_TU = hmm_kernels.mixed(parts_TUK)
        weight_A, final_S = graph.weights(mixtures.stay_logit_P)
        arrays = (loglik_TU, place_S, graph.start_S, final_S, graph.first_S1, graph.source_A, weight_A)
        pdf_A = graph.pdf_S[graph.source_A]
        if best_only:
            total, nodes_T = hmm_kernels.viterbi(*arrays)
            if total == -np.inf:
                return False
            gamma_TU = np.zeros_like(loglik_TU)
            gamma_TU[np.arange(len(nodes_T)), place_S[nodes_T]] = 1.0
            stay_T = nodes_T[1:] == nodes_T[:-1]
            np.add.at(self.stays_P, graph.pdf_S[nodes_T[:-1][stay_T]], 1.0)
            np.add.at(self.leaves_P, graph.pdf_S[nodes_T[:-1][~stay_T]], 1.0)
            self.leaves_P[graph.pdf_S[nodes_T[-1]]] += 1.0
        else:
            total, gamma_TU, used_A, _, last_S = hmm_kernels.occupations(*arrays)
            if total == -np.inf:
                return False
            np.add.at(self.stays_P, pdf_A[graph.stays_A], used_A[graph.stays_A])
            np.add.at(self.leaves_P, pdf_A[~graph.stays_A], used_A[~graph.stays_A])
            np.add.at(self.leaves_P, graph.pdf_S, last_S)
        hmm_kernels.accumulate(
            gamma_TU, parts_TUK, loglik_TU, feature_TD, used_U, self.weight_PK, self.first_PKD, self.second_PKD
        )
        self.total += float(total)
        self.frames += len(feature_TD)
        return True

    # --8<-- [end:expectation]

    # --8<-- [start:maximisation]
    def maximise(self, mixtures: Mixtures, floor_D: np.ndarray, least: float = 3.0) -> Mixtures:
        """Return the mixtures under which what was expected is most likely.

        Args:
            mixtures: the present model: what has too few frames keeps its Gaussian.
            floor_D: no variance falls below it.
            least: frames that a component needs to be re-estimated; one with none at all is dropped.
        """
        seen_PK = self.weight_PK >= least
        count_PK1 = np.where(seen_PK, self.weight_PK, 1.0)[..., None]
        mean = np.where(seen_PK[..., None], self.first_PKD / count_PK1, mixtures.mean_PKD)
        var = np.where(seen_PK[..., None], self.second_PKD / count_PK1 - mean**2, mixtures.var_PKD)
        count_P1 = self.weight_PK.sum(1, keepdims=True)
        weight = np.where(count_P1 >= least, self.weight_PK / np.where(count_P1 > 0, count_P1, 1.0), mixtures.weight_PK)
        moves_P = self.stays_P + self.leaves_P
        stay = np.where(moves_P > 0, self.stays_P / np.where(moves_P > 0, moves_P, 1.0), mixtures.stay_P)
        return Mixtures(weight, mean, np.maximum(var, floor_D), stay.clip(*STAY))

    # --8<-- [end:maximisation]

    def state(self) -> dict[str, Any]:
        """Return all in plain data and arrays."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


def context_counts(path: Path, graph: Graph) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return for each frame of a path the numbers of its unit among ``graph.units``, of the unit before and of that behind.

    Only units of the same word count as neighbours; -1 stands for none.
    """
    unit_T = graph.unit_S[path.nodes_T]
    starts = np.flatnonzero(np.diff(unit_T, prepend=-1))
    order = unit_T[starts]
    word = np.array([graph.units[u].word for u in order])
    same = (word[1:] == word[:-1]) & (word[1:] >= 0)
    left = np.where(np.concatenate([[False], same]), np.concatenate([[-1], order[:-1]]), -1)
    right = np.where(np.concatenate([same, [False]]), np.concatenate([order[1:], [-1]]), -1)
    place_T = np.repeat(np.arange(len(order)), np.diff(np.append(starts, len(unit_T))))
    return unit_T, left[place_T], right[place_T]
