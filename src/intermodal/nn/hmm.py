"""Hidden Markov models of speech: which states a text runs through, and sums and maxima over the ways through them.

Each phone is a left-to-right chain of states; a state stays or goes on to the next. A state's *pdf* is the number of the
density that speaks in it: the same for all states that are tied. Between words there may be silence. A :class:`Graph` holds
all state sequences of a text (pronunciation variants, optional silences); what comes from an acoustic model is always
``loglik_TP``, log-likelihoods (of any offset per frame) of all P pdfs in T frames, so that Gaussian mixtures and networks
use the same graphs.

Rabiner 1989, sections III and VI; Young, Odell & Woodland 1994 for tied states.

Shapes: T frames, P pdfs, S nodes of a graph, A arcs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from intermodal.core.errors import DataError
from intermodal.data.lexicon import SILENCE, Lexicon
from intermodal.nn.topology import Topology


@dataclass(frozen=True)
class Unit:
    """One phone (or silence) in a graph.

    Attributes:
        phone: its name.
        word: which word of the text it belongs to; -1 for silence.
    """

    phone: str
    word: int


@dataclass(frozen=True, eq=False)
class Graph:
    """All state sequences of a text; arrays as :mod:`intermodal.nn.hmm_kernels` takes them.

    Attributes:
        pdf_S: int32, the pdf of each node.
        start_S, final_S: float64, logarithms; -inf where no path begins or ends.
        first_S1: int32 ``(S + 1,)``: the arcs into node s are ``first_S1[s] .. first_S1[s + 1]``.
        source_A: int32, where each arc comes from.
        weight_A: float64, logarithms: of pronunciations and silences, without the states' own transitions.
        unit_S: int32, to which of ``units`` each node belongs.
        units: the phones.
        words: of the text.
    """

    pdf_S: np.ndarray
    start_S: np.ndarray
    final_S: np.ndarray
    first_S1: np.ndarray
    source_A: np.ndarray
    weight_A: np.ndarray
    unit_S: np.ndarray
    units: tuple[Unit, ...]
    words: tuple[str, ...]

    @cached_property
    def target_A(self) -> np.ndarray:
        """Where each arc leads."""
        return np.repeat(np.arange(len(self.pdf_S), dtype=np.int32), np.diff(self.first_S1))

    @cached_property
    def stays_A(self) -> np.ndarray:
        """Which arcs stay in their node."""
        return self.source_A == self.target_A

    @cached_property
    def local(self) -> tuple[np.ndarray, np.ndarray]:
        """The pdfs that occur, sorted, and for each node the place of its own among them (both for narrow loglik)."""
        used, place = np.unique(self.pdf_S, return_inverse=True)
        return used, place.astype(np.int32)

    @cached_property
    def shortest(self) -> int:
        """How many frames the shortest path takes."""
        cost = np.where(np.isfinite(self.start_S), 1, np.iinfo(np.int32).max // 2).astype(np.int64)
        for s in range(len(cost)):  # arcs other than loops lead to later nodes
            sources = self.source_A[self.first_S1[s] : self.first_S1[s + 1]]
            sources = sources[sources < s]
            if len(sources):
                cost[s] = min(cost[s], cost[sources].min() + 1)
        return int(cost[np.isfinite(self.final_S)].min())

    def weights(self, stay_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the arcs' whole log weights and the nodes' at the end, the states' transitions included.

        Args:
            stay_P: each pdf's stay logit: its probability to stay is the logistic function of it.
        """
        stay, leave = -np.logaddexp(0, -stay_P.astype(np.float64)), -np.logaddexp(0, stay_P.astype(np.float64))
        pdf_A = self.pdf_S[self.source_A]
        return self.weight_A + np.where(self.stays_A, stay[pdf_A], leave[pdf_A]), self.final_S + leave[self.pdf_S]


@dataclass
class _Builder:
    """Collects nodes and arcs."""

    pdfs: list[int] = field(default_factory=list)
    unit: list[int] = field(default_factory=list)
    units: list[Unit] = field(default_factory=list)
    starts: dict[int, float] = field(default_factory=dict)
    arcs: list[tuple[int, int, float]] = field(default_factory=list)

    def chain(self, phones: Sequence[tuple[str, tuple[int, ...]]], word: int, ends: Sequence[tuple[int, float]]) -> int:
        """Add the states of some phones behind the ends that are given (node -1: the beginning); return the last node."""
        first = True
        for phone, pdfs in phones:
            self.units.append(Unit(phone, word))
            for pdf in pdfs:
                node = len(self.pdfs)
                self.pdfs.append(pdf)
                self.unit.append(len(self.units) - 1)
                self.arcs.append((node, node, 0.0))
                for end, weight in ends if first else [(node - 1, 0.0)]:
                    if end < 0:
                        self.starts[node] = weight
                    else:
                        self.arcs.append((end, node, weight))
                first = False
        return len(self.pdfs) - 1

    def graph(self, ends: Sequence[tuple[int, float]], words: Sequence[str]) -> Graph:
        size = len(self.pdfs)
        start, final = np.full(size, -np.inf), np.full(size, -np.inf)
        for node, weight in self.starts.items():
            start[node] = weight
        for node, weight in ends:
            final[node] = weight
        arcs = sorted(self.arcs, key=lambda arc: (arc[1], arc[0]))
        first = np.zeros(size + 1, np.int32)
        first[1:] = np.cumsum(np.bincount([arc[1] for arc in arcs], minlength=size))
        return Graph(
            pdf_S=np.array(self.pdfs, np.int32),
            start_S=start,
            final_S=final,
            first_S1=first,
            source_A=np.array([arc[0] for arc in arcs], np.int32),
            weight_A=np.array([arc[2] for arc in arcs]),
            unit_S=np.array(self.unit, np.int32),
            units=tuple(self.units),
            words=tuple(words),
        )


def training_graph(words: Sequence[str], lexicon: Lexicon, topology: Topology, silence: float = 0.5) -> Graph:
    """Return all state sequences of a text: every pronunciation of every word, silence or none before, between and behind.

    Args:
        words: of the text, in the lexicon's case; none at all means silence alone.
        lexicon: how they are said; the ways to say one word share its probability equally.
        topology: the phones' states.
        silence: the probability of silence at each place where it may be, 0 (never) to 1 (always).

    Raises:
        DataError: if a word is not in the lexicon (all that are missing are named), or a phone is not in the topology.
    """
    lexicon.check(words)
    builder = _Builder()
    pause = [(SILENCE, topology.silence)]
    if not words:
        return builder.graph([(builder.chain(pause, -1, [(-1, 0.0)]), 0.0)], words)

    def rest(ends: list[tuple[int, float]]) -> list[tuple[int, float]]:
        """Return the ends behind an optional silence."""
        if silence <= 0:
            return ends
        node = builder.chain(pause, -1, [(end, weight + math.log(silence)) for end, weight in ends])
        passed = [(end, weight + math.log1p(-silence)) for end, weight in ends] if silence < 1 else []
        return [*passed, (node, 0.0)]

    ends = rest([(-1, 0.0)])
    for i, word in enumerate(words):
        ways = lexicon.pronunciations(word)
        said = [(end, weight - math.log(len(ways))) for end, weight in ends]
        ends = rest([(builder.chain(list(zip(way, topology.units(way), strict=True)), i, said), 0.0) for way in ways])
    return builder.graph(ends, words)


@dataclass(frozen=True, eq=False)
class Path:
    """The best way through a graph.

    Attributes:
        nodes_T: int32, the node of each frame.
        score: its log-probability together with the sound.
    """

    nodes_T: np.ndarray
    score: float


def viterbi(loglik_TP: np.ndarray, graph: Graph, stay_P: np.ndarray) -> Path:
    """Return the best path (Viterbi): the node of each frame; ``graph.pdf_S[path.nodes_T]`` are the frames' pdfs.

    Args:
        loglik_TP: float ``(T, P)``, log-likelihoods of all pdfs in all frames.
        graph: of the text.
        stay_P: each pdf's stay logit (0 where transitions shall not count: then all cost the same).

    Raises:
        DataError: if the recording has fewer frames than the shortest path, or a value is NaN.
    """
    from intermodal.nn import hmm_kernels

    _check(loglik_TP, graph)
    weight_A, final_S = graph.weights(stay_P)
    used, place = graph.local
    narrow = np.ascontiguousarray(loglik_TP[:, used], np.float64)
    score, nodes = hmm_kernels.viterbi(narrow, place, graph.start_S, final_S, graph.first_S1, graph.source_A, weight_A)
    if score == -np.inf:
        raise DataError("No way through the text has any probability: a log-likelihood is minus infinity.")
    return Path(nodes, float(score))


def _check(loglik_TP: np.ndarray, graph: Graph) -> None:
    if len(loglik_TP) < graph.shortest:
        raise DataError(
            f"The text needs at least {graph.shortest} frames, the recording has {len(loglik_TP)}: it is too short for it."
        )
    if np.isnan(loglik_TP).any():
        raise DataError("A log-likelihood is not a number: the recording or the model is damaged.")


@dataclass(frozen=True)
class Span:
    """A unit or a word with its frames.

    Attributes:
        name: of the phone (``SIL`` for silence) or the word.
        first, last: frames, both included.
        word: which word of the text; -1 for silence.
    """

    name: str
    first: int
    last: int
    word: int


def phone_spans(path: Path, graph: Graph) -> list[Span]:
    """Return the phones and silences of a path, in order."""
    unit_T = graph.unit_S[path.nodes_T]
    cuts = [0, *(np.flatnonzero(np.diff(unit_T)) + 1).tolist(), len(unit_T)]
    spans = []
    for first, end in itertools.pairwise(cuts):
        unit = graph.units[unit_T[first]]
        spans.append(Span(unit.phone, first, end - 1, unit.word))
    return spans


def word_spans(path: Path, graph: Graph) -> list[Span]:
    """Return the words of a path, in order, without silences."""
    spans: list[Span] = []
    for span in phone_spans(path, graph):
        if span.word < 0:
            continue
        if spans and spans[-1].word == span.word:
            spans[-1] = Span(spans[-1].name, spans[-1].first, span.last, span.word)
        else:
            spans.append(Span(graph.words[span.word], span.first, span.last, span.word))
    return spans


class _Forward(torch.autograd.Function):
    """The forward algorithm; its gradient is what the backward algorithm brings: how often each thing is used."""

    @staticmethod
    def forward(  # noqa: PLR0917 - what torch's interface hands over
        ctx: Any, loglik_TP: Tensor, weight_A: Tensor, final_S: Tensor, graph: Graph, place_S: np.ndarray
    ) -> Tensor:
        from intermodal.nn import hmm_kernels

        total, gamma_TP, xi_A, _, last_S = hmm_kernels.occupations(
            np.ascontiguousarray(loglik_TP.detach().cpu().numpy(), np.float64),
            place_S,
            graph.start_S,
            final_S.detach().double().cpu().numpy(),
            graph.first_S1,
            graph.source_A,
            weight_A.detach().double().cpu().numpy(),
        )
        ctx.save_for_backward(
            torch.from_numpy(gamma_TP).to(loglik_TP),
            torch.from_numpy(xi_A).to(weight_A),
            torch.from_numpy(last_S).to(final_S),
        )
        return loglik_TP.new_tensor(total)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gamma_TP, xi_A, last_S = ctx.saved_tensors
        return grads[0] * gamma_TP, grads[0] * xi_A, grads[0] * last_S, None, None


# --8<-- [start:forward]
def log_likelihood(loglik_TU: Tensor, stay_P: Tensor, graph: Graph) -> Tensor:
    """Return the log-likelihood of a recording given its text: the sum over all paths, with its gradient.

    Args:
        loglik_TU: float ``(T, U)``, log-likelihoods of the pdfs ``graph.local[0]`` only, in that order.
        stay_P: float ``(P,)``, each pdf's stay logit.
        graph: of the text.

    Returns:
        A scalar; -inf, with a gradient of 0, where the recording is too short for the text.
    """
    _, place_S = graph.local
    device = loglik_TU.device
    stay_S = stay_P[torch.from_numpy(graph.pdf_S).long().to(device)]
    source_A = torch.from_numpy(graph.source_A).long().to(device)
    stays_A = torch.from_numpy(graph.stays_A).to(device)
    sign_A = torch.where(stays_A, 1.0, -1.0).to(stay_S)  # log(1 - sigmoid(x)) = logsigmoid(-x)
    weight_A = F.logsigmoid(sign_A * stay_S[source_A]) + torch.from_numpy(graph.weight_A).to(stay_S)
    final_S = F.logsigmoid(-stay_S) + torch.from_numpy(graph.final_S).to(stay_S)
    total: Tensor = _Forward.apply(loglik_TU, weight_A, final_S, graph, place_S)
    return total


# --8<-- [end:forward]
