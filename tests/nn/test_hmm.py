"""Hidden Markov models against sums over all paths, hmmlearn, and what must hold of every step of EM."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from intermodal.core.errors import ConfigError, DataError
from intermodal.data.lexicon import SILENCE, Lexicon
from intermodal.nn import hmm_kernels
from intermodal.nn.hmm import Graph, log_likelihood, phone_spans, training_graph, viterbi, word_spans
from intermodal.nn.mixtures import Mixtures, Statistics
from intermodal.nn.state_tying import Contexts, best_question, questions, tie
from intermodal.nn.state_tying import log_likelihood as gaussian_log_likelihood
from intermodal.nn.topology import BOUNDARY, Topology

LEXICON = Lexicon(entries=(("AB", "a b"), ("AB", "b"), ("C", "c")))
TOPOLOGY = Topology(phones=("a", "b", "c"), states=2, silence_states=1)


def random_mixtures(rng: np.random.Generator, pdfs: int, size: int, width: int) -> Mixtures:
    weight = rng.uniform(0.2, 1, (pdfs, size))
    return Mixtures(
        weight / weight.sum(1, keepdims=True),
        rng.normal(size=(pdfs, size, width)),
        rng.uniform(0.3, 2, (pdfs, size, width)),
        rng.uniform(0.2, 0.8, pdfs),
    )


def all_paths(graph: Graph, loglik_TP: np.ndarray, stay_P: np.ndarray) -> list[tuple[float, tuple[int, ...]]]:
    """Score every sequence of nodes."""
    weight_A, final_S = graph.weights(stay_P)
    arcs = {(int(s), int(t)): w for s, t, w in zip(graph.source_A, graph.target_A, weight_A, strict=True)}
    found = []
    for nodes in itertools.product(range(len(graph.pdf_S)), repeat=len(loglik_TP)):
        score = graph.start_S[nodes[0]] + final_S[nodes[-1]]
        score += sum(arcs.get(pair, -np.inf) for pair in itertools.pairwise(nodes))
        score += sum(loglik_TP[t, graph.pdf_S[s]] for t, s in enumerate(nodes))
        if score > -np.inf:
            found.append((float(score), nodes))
    return found


@pytest.mark.parametrize("words", [["AB"], ["C"], []])
@pytest.mark.parametrize("silence", [0.0, 0.3, 1.0])
def test_sums_and_the_best_path_are_those_over_all_paths(words, silence):
    rng = np.random.default_rng(0)
    topology = Topology(phones=("a", "b", "c"), states=1, silence_states=1)
    graph = training_graph(words, LEXICON, topology, silence)
    loglik_TP = rng.normal(0, 2, (6, topology.pdfs))
    stay_P = rng.normal(size=topology.pdfs)
    paths = all_paths(graph, loglik_TP, stay_P)
    scores = np.array([score for score, _ in paths])
    total = np.logaddexp.reduce(scores)
    weight_A, final_S = graph.weights(stay_P)
    arrays = (loglik_TP, graph.pdf_S, graph.start_S, final_S, graph.first_S1, graph.source_A, weight_A)
    found, gamma_TP, used_A, first_S, last_S = hmm_kernels.occupations(*arrays)
    assert found == pytest.approx(total, abs=1e-12)
    share = np.exp(scores - total)
    wanted_TP, wanted_A = np.zeros_like(gamma_TP), np.zeros_like(used_A)
    arcs = {(int(s), int(t)): a for a, (s, t) in enumerate(zip(graph.source_A, graph.target_A, strict=True))}
    for part, (_, nodes) in zip(share, paths, strict=True):
        for t, s in enumerate(nodes):
            wanted_TP[t, graph.pdf_S[s]] += part
        for pair in itertools.pairwise(nodes):
            wanted_A[arcs[pair]] += part
    np.testing.assert_allclose(gamma_TP, wanted_TP, atol=1e-12)
    np.testing.assert_allclose(used_A, wanted_A, atol=1e-12)
    assert first_S.sum() == pytest.approx(1) and last_S.sum() == pytest.approx(1)
    best = max(paths)
    path = viterbi(loglik_TP, graph, stay_P)
    assert path.score == pytest.approx(best[0], abs=1e-12)
    assert tuple(path.nodes_T) == best[1]


def test_paths_share_all_probability():
    """Without sound, the graph of a text is a distribution over durations: over all lengths its mass is one."""
    graph = training_graph(["AB", "C"], LEXICON, TOPOLOGY, 0.4)
    stay_P = np.zeros(TOPOLOGY.pdfs)
    weight_A, final_S = graph.weights(stay_P)
    arrays = (graph.start_S, final_S, graph.first_S1, graph.source_A, weight_A)
    mass = sum(
        math.exp(hmm_kernels.forward(np.zeros((n, TOPOLOGY.pdfs)), graph.pdf_S, *arrays)[0])
        for n in range(graph.shortest, 80)
    )
    assert mass == pytest.approx(1, abs=1e-6)


def test_the_gradient_of_the_likelihood_is_exact():
    graph = training_graph(["AB", "C"], LEXICON, TOPOLOGY)
    generator = torch.Generator().manual_seed(0)
    loglik = torch.randn(9, len(graph.local[0]), dtype=torch.float64, generator=generator, requires_grad=True)
    stay = torch.randn(TOPOLOGY.pdfs, dtype=torch.float64, generator=generator, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: log_likelihood(a, b, graph), (loglik, stay))
    short = log_likelihood(loglik[:2], stay, graph)
    assert short.item() == -math.inf


def left_to_right(states: int) -> Graph:
    """The chain that hmmlearn knows: it begins in the first state and may end anywhere."""
    sources, targets, weights = [], [], []
    for s in range(states):
        if s:
            sources.append(s - 1), targets.append(s), weights.append(0.0)
        sources.append(s), targets.append(s), weights.append(0.0)
    start = np.full(states, -np.inf)
    start[0] = 0.0
    first = np.searchsorted(targets, np.arange(states + 1)).astype(np.int32)
    number = np.arange(states, dtype=np.int32)
    return Graph(number, start, np.zeros(states), first, np.array(sources, np.int32), np.array(weights), number, (), ())


@pytest.mark.parametrize("size", [1, 3])
def test_likelihood_and_a_step_of_em_equal_hmmlearn(size):
    hmmlearn = pytest.importorskip("hmmlearn.hmm")
    rng = np.random.default_rng(size)
    states, width = 4, 3
    mixtures = random_mixtures(rng, states, size, width)
    recordings = [rng.normal(size=(n, width)) for n in (9, 14, 25)]
    stay = mixtures.stay_P.copy()
    stay[-1] = 1.0  # hmmlearn's last state has nowhere to go
    transitions = np.diag(stay) + np.diag(1 - stay[:-1], 1)
    settings_ = {
        "n_components": states,
        "covariance_type": "diag",
        "init_params": "",
        "params": "tmc" if size == 1 else "tmcw",
    }
    settings_ |= {"n_iter": 1, "tol": -np.inf, "covars_weight": 1}
    if size == 1:
        reference = hmmlearn.GaussianHMM(**settings_, min_covar=1e-9, covars_prior=0.0, implementation="log")
        reference.means_, reference.covars_ = mixtures.mean_PKD[:, 0], mixtures.var_PKD[:, 0]
    else:
        reference = hmmlearn.GMMHMM(**{**settings_, "n_mix": size, "covars_weight": 0.0, "covars_prior": -1.5})
        reference.means_, reference.covars_, reference.weights_ = (
            mixtures.mean_PKD,
            mixtures.var_PKD,
            mixtures.weight_PK,
        )
    reference.startprob_, reference.transmat_ = np.eye(states)[0], transitions
    graph = left_to_right(states)
    with np.errstate(divide="ignore"):
        weight_A = np.where(graph.stays_A, np.log(stay)[graph.source_A], np.log(1 - stay)[graph.source_A])
    statistics = Statistics.of(mixtures)
    for feature_TD in recordings:
        parts = mixtures.parts(feature_TD)
        loglik = hmm_kernels.mixed(parts)
        total, gamma, used_A, _, _ = hmm_kernels.occupations(
            loglik, graph.pdf_S, graph.start_S, graph.final_S, graph.first_S1, graph.source_A, weight_A
        )
        assert total == pytest.approx(reference.score(feature_TD), abs=1e-8)
        best, _ = hmm_kernels.viterbi(
            loglik, graph.pdf_S, graph.start_S, graph.final_S, graph.first_S1, graph.source_A, weight_A
        )
        assert best == pytest.approx(reference.decode(feature_TD)[0], abs=1e-8)
        hmm_kernels.accumulate(
            gamma,
            parts,
            loglik,
            feature_TD,
            graph.pdf_S,
            statistics.weight_PK,
            statistics.first_PKD,
            statistics.second_PKD,
        )
        np.add.at(statistics.stays_P, graph.source_A[graph.stays_A], used_A[graph.stays_A])
        np.add.at(statistics.leaves_P, graph.source_A[~graph.stays_A], used_A[~graph.stays_A])
    after = statistics.maximise(mixtures, np.full(width, 1e-9), least=1e-6)
    reference.fit(np.concatenate(recordings), [len(r) for r in recordings])
    np.testing.assert_allclose(after.mean_PKD, reference.means_.reshape(states, size, width), atol=1e-8)
    covars = np.array([np.diag(c) for c in reference.covars_]) if size == 1 else reference.covars_
    if size > 1:  # hmmlearn's mixtures take their variances about the means of before
        covars = covars - (after.mean_PKD - mixtures.mean_PKD) ** 2
    np.testing.assert_allclose(after.var_PKD, covars.reshape(states, size, width), atol=1e-8)
    if size > 1:
        np.testing.assert_allclose(after.weight_PK, reference.weights_, atol=1e-8)
    np.testing.assert_allclose(after.stay_P[:-1], np.diag(reference.transmat_)[:-1], atol=1e-8)


def test_densities_are_those_of_scipy():
    rng = np.random.default_rng(1)
    mixtures = random_mixtures(rng, 3, 2, 4)
    feature_TD = rng.normal(size=(5, 4))
    wanted = np.logaddexp.reduce(
        np.log(mixtures.weight_PK)
        + norm.logpdf(feature_TD[:, None, None], mixtures.mean_PKD, np.sqrt(mixtures.var_PKD)).sum(-1),
        axis=-1,
    )
    np.testing.assert_allclose(mixtures.log_likelihood(feature_TD), wanted, atol=1e-12)
    np.testing.assert_allclose(mixtures.log_likelihood(feature_TD, np.array([2, 0])), wanted[:, [2, 0]], atol=1e-12)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.sampled_from([1, 2]), best_only=st.booleans())
def test_the_likelihood_never_falls(seed, size, best_only):
    rng = np.random.default_rng(seed)
    graphs = [training_graph(words, LEXICON, TOPOLOGY) for words in (["AB"], ["C", "AB"], ["C"])]
    recordings = [rng.normal(size=(rng.integers(g.shortest, g.shortest + 20), 2)) for g in graphs]
    mixtures, floor = random_mixtures(rng, TOPOLOGY.pdfs, size, 2), np.full(2, 0.05)
    totals = []
    for _ in range(6):
        statistics = Statistics.of(mixtures)
        for feature_TD, graph in zip(recordings, graphs, strict=True):
            assert statistics.expect(mixtures, feature_TD, graph, best_only=best_only)
        totals.append(statistics.total)
        mixtures = statistics.maximise(mixtures, floor, least=0.5)
        assert (mixtures.var_PKD >= floor - 1e-15).all()
    assert all(after >= before - 1e-7 * abs(before) for before, after in itertools.pairwise(totals))


def test_splitting_keeps_the_mean_and_moves_the_halves_apart():
    rng = np.random.default_rng(0)
    mixtures = random_mixtures(rng, 2, 1, 3)
    split = mixtures.split(10, np.array([[100.0], [5.0]]))
    np.testing.assert_allclose((split.weight_PK[..., None] * split.mean_PKD).sum(1), mixtures.mean_PKD[:, 0])
    assert (split.weight_PK == [[0.5, 0.5], [1, 0]]).all()  # the second has too few frames for two
    feature_TD = rng.normal(size=(4, 3))
    np.testing.assert_allclose(split.log_likelihood(feature_TD)[:, 1], mixtures.log_likelihood(feature_TD)[:, 1])


def test_a_recording_that_is_too_short_is_not_counted_and_not_aligned():
    graph = training_graph(["AB", "C"], LEXICON, TOPOLOGY)
    assert graph.shortest == 4
    mixtures = Mixtures.flat(TOPOLOGY.pdfs, np.zeros(2), np.ones(2))
    statistics = Statistics.of(mixtures)
    assert not statistics.expect(mixtures, np.zeros((3, 2)), graph)
    assert statistics.frames == 0 and statistics.total == 0
    with pytest.raises(DataError, match="needs at least 4 frames, the recording has 3"):
        viterbi(np.zeros((3, TOPOLOGY.pdfs)), graph, np.zeros(TOPOLOGY.pdfs))
    with pytest.raises(DataError, match="not a number"):
        viterbi(np.full((9, TOPOLOGY.pdfs), np.nan), graph, np.zeros(TOPOLOGY.pdfs))


def test_spans_of_phones_and_words():
    graph = training_graph(["C", "C"], LEXICON, TOPOLOGY)
    loglik_TP = np.full((9, TOPOLOGY.pdfs), -5.0)
    c = [p for p, name in enumerate(TOPOLOGY.names) if name.startswith("c")]
    for t, p in enumerate([0, c[0], c[1], c[1], 0, 0, c[0], c[1], 0]):
        loglik_TP[t, p] = 0.0
    path = viterbi(loglik_TP, graph, np.zeros(TOPOLOGY.pdfs))
    phones = [(s.name, s.first, s.last) for s in phone_spans(path, graph)]
    assert phones == [(SILENCE, 0, 0), ("c", 1, 3), (SILENCE, 4, 5), ("c", 6, 7), (SILENCE, 8, 8)]
    assert [(s.name, s.first, s.last, s.word) for s in word_spans(path, graph)] == [("C", 1, 3, 0), ("C", 6, 7, 1)]


def test_trees_answer_by_the_neighbours():
    topology = Topology(
        phones=("a", "b"),
        states=1,
        silence_states=1,
        roots=(0, -4),
        nodes=((0, 0, -2, 1), (1, 1, -3, -5)),
        questions=((2,), (1,)),  # is it the boundary; is it b
    )
    assert topology.pdfs == 5
    assert topology.unit(BOUNDARY, "a", "b") == (1,)
    assert topology.unit("b", "a", "b") == (2,)
    assert topology.unit("b", "a", BOUNDARY) == (4,)
    assert topology.units(["b"]) == [(3,)]
    assert topology.names == ("SIL.1", "a.1-1", "a.1-2", "b.1", "a.1-4")
    with pytest.raises(DataError, match="no phone 'x'"):
        topology.unit("a", "x", "a")
    with pytest.raises(ConfigError, match="Each phone stands once"):
        Topology(phones=("a", "a"))
    with pytest.raises(ConfigError, match="Expected 6 roots"):
        Topology(phones=("a", "b"), roots=(-1,))


def contexts_of(rng: np.random.Generator, width: int = 2) -> tuple[Contexts, list, np.ndarray]:
    """Frames of phone 0 whose mean depends on whether the left neighbour is phone 1."""
    keys, frames = [], []
    for _ in range(400):
        key = (0, int(rng.integers(2)), int(rng.integers(4)), int(rng.integers(4)))
        keys.append(key)
        frames.append(rng.normal(3.0 * (key[2] == 1), 1, width))
    contexts = Contexts(width)
    contexts.add(keys, np.array(frames))
    return contexts, keys, np.array(frames)


def test_the_gain_of_a_question_is_that_of_the_frames():
    rng = np.random.default_rng(0)
    contexts, keys, frames = contexts_of(rng)
    floor = np.full(2, 1e-3)

    def likelihood(rows: np.ndarray) -> float:
        return norm.logpdf(rows, rows.mean(0), rows.std(0)).sum()

    mine = [i for i, key in enumerate(keys) if key[1] == 0]
    beside = sorted({key[2:] for i, key in enumerate(keys) if key[1] == 0})
    rows = np.array([contexts.sums[(0, 0, *b)] for b in beside])
    member = np.eye(4)
    gain, side, q = best_question(np.array(beside), rows, member, floor, 10)
    assert (side, q) == (0, 1)
    yes = [i for i in mine if keys[i][2] == 1]
    no = [i for i in mine if keys[i][2] != 1]
    assert gain == pytest.approx(likelihood(frames[yes]) + likelihood(frames[no]) - likelihood(frames[mine]), abs=1e-6)
    row = rows.sum(0)
    assert gaussian_log_likelihood(row[0], row[1:3], row[3:], floor) == pytest.approx(
        likelihood(frames[mine]), abs=1e-6
    )
    assert best_question(np.array(beside), rows, member, floor, 10**6) == (0.0, 0, 0)


def test_tying_finds_what_the_data_was_made_of():
    rng = np.random.default_rng(0)
    contexts, _, frames = contexts_of(rng)
    topology = Topology(phones=("a", "b", "c"), states=2, silence_states=1)
    mixtures = Mixtures.flat(topology.pdfs, frames.mean(0), frames.var(0))
    tied, densities = tie(contexts, topology, mixtures, np.full(2, 1e-3), states=50, least=20, least_gain=50)
    assert tied.pdfs == len(densities.mean_PKD) == topology.pdfs + 2  # each state of phone a in two
    high, low = tied.unit("b", "a", "c"), tied.unit("c", "a", "b")
    np.testing.assert_allclose(densities.mean_PKD[list(high), 0], 3.0, atol=0.3)
    np.testing.assert_allclose(densities.mean_PKD[list(low), 0], 0.0, atol=0.3)
    assert tied.unit("a", "a", BOUNDARY) == low
    few, _ = tie(contexts, topology, mixtures, np.full(2, 1e-3), states=topology.pdfs + 1, least=20, least_gain=50)
    assert few.pdfs == topology.pdfs + 1
    assert Topology.from_dict(tied.to_dict()) == tied
    assert Contexts.restored(contexts.state(), 2).sums.keys() == contexts.sums.keys()
    assert (3,) in questions(contexts, topology, np.full(2, 1e-3))  # the boundary alone
