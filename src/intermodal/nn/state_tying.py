"""Tied states of triphones: decision trees over the phones beside a phone (Young, Odell & Woodland 1994).

For each phone and state there is a tree. Its root holds the frames of all contexts; a question about the left or right
neighbour parts them, and of all questions of all leaves that one is asked next that makes the frames most likely, each leaf
one Gaussian. Questions come from the data: the phones are merged two by two, the most alike first, and every set that comes
to be on the way is a question, so that no phonetic knowledge is needed and letters do as well.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from intermodal.nn.mixtures import Mixtures
from intermodal.nn.topology import LEFT, RIGHT, Topology

Key = tuple[int, int, int, int]
"""A state in its context: phone, state, left phone, right phone, by number."""


@dataclass(eq=False)
class Sums:
    """The sums of 1, x and x^2 over some frames."""

    count: float
    first_D: np.ndarray
    second_D: np.ndarray


def log_likelihood(count: np.ndarray, first: np.ndarray, second: np.ndarray, floor_D: np.ndarray) -> np.ndarray:
    """Return how likely frames are under the one Gaussian that fits them best; ``(...)``, ``(..., D)`` -> ``(...)``.

    With the variances of maximum likelihood this is ``-n/2 sum_d (1 + log(2 pi var_d))``; with a floor the true value.
    """
    safe = np.maximum(count, 1e-12)[..., None]
    var = np.maximum(second / safe - (first / safe) ** 2, 0.0)
    used = np.maximum(var, floor_D)
    return -0.5 * count * (math.log(2 * math.pi) + np.log(used) + var / used).sum(-1)


@dataclass(eq=False)
class Contexts:
    """Sums for every state in every context that was met."""

    width: int
    sums: dict[Key, np.ndarray] = field(default_factory=dict)
    """One row each: count, then the sums of x, then those of x^2."""

    def add(self, keys: list[Key], feature_TD: np.ndarray) -> None:
        """Add frames, each in its context."""
        places: dict[Key, list[int]] = defaultdict(list)
        for t, key in enumerate(keys):
            places[key].append(t)
        for key, rows in places.items():
            part = feature_TD[rows].astype(np.float64)
            row = np.concatenate([[len(rows)], part.sum(0), (part**2).sum(0)])
            self.sums[key] = self.sums[key] + row if key in self.sums else row

    def state(self) -> dict[str, np.ndarray]:
        """Return all as two arrays."""
        keys = sorted(self.sums)
        rows = [self.sums[key] for key in keys]
        return {
            "keys": np.array(keys, np.int64).reshape(-1, 4),
            "sums": np.array(rows).reshape(-1, 1 + 2 * self.width),
        }

    @staticmethod
    def restored(state: dict[str, np.ndarray], width: int) -> Contexts:
        """Return what :meth:`state` described."""
        keys = [(int(a), int(b), int(c), int(d)) for a, b, c, d in state["keys"]]
        return Contexts(width, dict(zip(keys, state["sums"], strict=True)))


def questions(contexts: Contexts, topology: Topology, floor_D: np.ndarray) -> tuple[tuple[int, ...], ...]:
    """Return sets of phones that are alike: every phone and the boundary alone, and every set of the merging."""
    width, middle = contexts.width, topology.states // 2
    total: dict[int, np.ndarray] = {}
    for (phone, state, _, _), row in sorted(contexts.sums.items()):
        if state == middle:
            total[phone] = total.get(phone, 0.0) + row
    groups: dict[tuple[int, ...], np.ndarray] = {(phone,): row for phone, row in total.items()}
    found: dict[tuple[int, ...], None] = {(phone,): None for phone in range(len(topology.phones) + 1)}

    def likely(row: np.ndarray) -> float:
        return float(log_likelihood(row[0], row[1 : 1 + width], row[1 + width :], floor_D))

    while len(groups) > 2:
        names = list(groups)
        costs = [
            (likely(groups[a]) + likely(groups[b]) - likely(groups[a] + groups[b]), a, b)
            for i, a in enumerate(names)
            for b in names[i + 1 :]
        ]
        _, a, b = min(costs)
        merged = tuple(sorted((*a, *b)))
        groups[merged] = groups.pop(a) + groups.pop(b)
        found[merged] = None
    return tuple(found)


@dataclass(eq=False)
class _Leaf:
    """A set of contexts of one phone's state: their neighbours ``(C, 2)`` and sums ``(C, 1 + 2 D)``."""

    state: int
    beside: np.ndarray
    rows: np.ndarray
    above: tuple[int, int]
    """The node above and which of its places leads here; node -1 stands for the roots."""


# --8<-- [start:question]
def best_question(
    beside_C2: np.ndarray, rows_CE: np.ndarray, member_QN: np.ndarray, floor_D: np.ndarray, least: float
) -> tuple[float, int, int]:
    """Return the question that makes the frames most likely: the gain in log-likelihood, the side, and its number.

    Args:
        beside_C2: the left and right neighbours of each context.
        rows_CE: the sums of each.
        member_QN: whether phone n is in question q.
        floor_D: of variances.
        least: frames that must be on either side of a question.

    Returns:
        The gain is 0 where no question leaves enough frames on both sides.
    """
    width = len(floor_D)
    whole = rows_CE.sum(0)
    before = float(log_likelihood(whole[0], whole[1 : 1 + width], whole[1 + width :], floor_D))
    best = (0.0, 0, 0)
    for side in (LEFT, RIGHT):
        yes_QE = member_QN[:, beside_C2[:, side]] @ rows_CE
        no_QE = whole - yes_QE
        after_Q = sum(log_likelihood(r[:, 0], r[:, 1 : 1 + width], r[:, 1 + width :], floor_D) for r in (yes_QE, no_QE))
        gain_Q = np.where((yes_QE[:, 0] >= least) & (no_QE[:, 0] >= least), after_Q - before, 0.0)
        q = int(np.argmax(gain_Q))
        if gain_Q[q] > best[0]:
            best = (float(gain_Q[q]), side, q)
    return best


# --8<-- [end:question]


def tie(
    contexts: Contexts,
    topology: Topology,
    mixtures: Mixtures,
    floor_D: np.ndarray,
    *,
    states: int,
    least: float = 60.0,
    least_gain: float = 60.0,
) -> tuple[Topology, Mixtures]:
    """Return triphones with tied states, each one Gaussian, from monophones and the sums of their contexts.

    Args:
        contexts: sums of all states in their contexts.
        topology: of the monophones.
        mixtures: of the monophones, one component each: silence, phones that were never met, and how long states stay are
            taken from it.
        floor_D: of variances.
        states: how many pdfs there are to be at most, silence's included.
        least: frames that a tied state needs.
        least_gain: in log-likelihood, that a question must bring.
    """
    asked = questions(contexts, topology, floor_D)
    member_QN = np.zeros((len(asked), len(topology.phones) + 1))
    for q, phones in enumerate(asked):
        member_QN[q, list(phones)] = 1.0
    roots = [0] * (len(topology.phones) * topology.states)
    nodes: list[list[int]] = []
    leaves: dict[int, _Leaf] = {}
    queue: list[tuple[float, int, int, int]] = []
    grown = 0

    def grow(leaf: _Leaf) -> None:
        nonlocal grown
        leaves[grown] = leaf
        if len(leaf.rows):
            gain, side, q = best_question(leaf.beside, leaf.rows, member_QN, floor_D, least)
            if gain >= max(least_gain, 1e-9):
                heapq.heappush(queue, (-gain, grown, side, q))
        grown += 1

    def lead(leaf: _Leaf, to: int) -> None:
        node, place = leaf.above
        (roots if node < 0 else nodes[node])[place] = to

    by_state: dict[int, list[Key]] = defaultdict(list)
    for key in sorted(contexts.sums):
        by_state[key[0] * topology.states + key[1]].append(key)
    for i in range(len(roots)):
        keys = by_state[i]
        rows = np.array([contexts.sums[key] for key in keys]).reshape(len(keys), 1 + 2 * len(floor_D))
        grow(_Leaf(i, np.array([key[2:] for key in keys], np.int64).reshape(-1, 2), rows, (-1, i)))
    while queue and topology.silence_states + len(leaves) < states:
        _, chosen, side, q = heapq.heappop(queue)
        leaf = leaves.pop(chosen)
        node = len(nodes)
        nodes.append([side, q, 0, 0])
        lead(leaf, node)
        yes = member_QN[q, leaf.beside[:, side]] > 0
        for place, mask in ((2, yes), (3, ~yes)):
            grow(_Leaf(leaf.state, leaf.beside[mask], leaf.rows[mask], (node, place)))
    silent = topology.silence_states
    order = [leaves[n] for n in sorted(leaves)]
    old = np.array([*range(silent), *(silent + leaf.state for leaf in order)])
    mean, var = mixtures.mean_PKD[old, :1], mixtures.var_PKD[old, :1]
    for pdf, leaf in enumerate(order, silent):
        lead(leaf, -1 - pdf)
        if len(leaf.rows):
            row = leaf.rows.sum(0)
            mean[pdf, 0] = row[1 : 1 + len(floor_D)] / row[0]
            var[pdf, 0] = np.maximum(row[1 + len(floor_D) :] / row[0] - mean[pdf, 0] ** 2, floor_D)
    used = sorted({q for _, q, _, _ in nodes})
    tied = topology.replace(
        roots=tuple(roots),
        nodes=tuple((side, used.index(q), yes, no) for side, q, yes, no in nodes),
        questions=tuple(asked[q] for q in used),
    )
    return tied, Mixtures(np.ones((len(old), 1)), mean, var, mixtures.stay_P[old])
