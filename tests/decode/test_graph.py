"""Decoding of word graphs against all sequences of words, each aligned by Viterbi, on networks small enough for that."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from intermodal.core.errors import ConfigError, DataError
from intermodal.data.lexicon import Lexicon
from intermodal.decode.graph import GraphConfig, GraphDecoder, Network, Sentence
from intermodal.decode.ngram import END, START, UNKNOWN, Grams, NGram
from intermodal.nn.hmm import training_graph, viterbi, word_spans
from intermodal.nn.topology import Topology

LEXICON = Lexicon(entries=(("AB", "a b"), ("AB", "b"), ("A", "a"), ("AC", "a c"), ("B", "b")))
TOPOLOGY = Topology(phones=("a", "b", "c"), states=1, silence_states=1)
WIDE = {"beam": 1e9, "max_active": 10**6}


def language_model(seed: int) -> NGram:
    """A bigram with random probabilities (it need not be normalised to be walked)."""
    rng = np.random.default_rng(seed)
    words = [START, END, UNKNOWN, *LEXICON.words]
    ones = np.arange(len(words), dtype=np.int32)[:, None]
    twos = np.array([(0, 3), (3, 4), (4, 3), (4, 1), (5, 5), (3, 1)], np.int32)
    unigrams = Grams(ones, np.log(rng.uniform(0.05, 0.5, len(ones))), np.log(rng.uniform(0.2, 0.9, len(ones))))
    bigrams = Grams(twos, np.log(rng.uniform(0.05, 0.9, len(twos))), np.zeros(len(twos)))
    return NGram.build(words, [unigrams, bigrams])


def brute_force(loglik_TP: np.ndarray, stay_P: np.ndarray, config: GraphConfig, lm: NGram | None) -> list[Sentence]:
    """Score every sequence of words that fits into the frames."""
    frames = len(loglik_TP)
    lengths = [1] if config.grammar == "single" else range(frames + 1)
    found = []
    for words in itertools.chain.from_iterable(itertools.product(LEXICON.words, repeat=n) for n in lengths):
        graph = training_graph(words, LEXICON, TOPOLOGY, config.silence)
        if graph.shortest > frames:
            continue
        acoustic = viterbi(loglik_TP, graph, stay_P).score
        if not words:
            acoustic += np.log(config.silence)  # the graph of no words is silence for certain
        language = lm.score(list(words)) if lm is not None else 0.0
        bonus = config.word_bonus * len(words)
        score = acoustic + config.lm_weight * language + bonus
        spoken = tuple(words)
        found.append((score, spoken, acoustic, language))
    return sorted(found, reverse=True)


@pytest.mark.parametrize("silence", [0.0, 0.3])
@pytest.mark.parametrize("with_model", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_the_best_sequence_and_its_scores_are_those_of_brute_force(seed, with_model, silence):
    rng = np.random.default_rng(seed)
    loglik_TP = rng.normal(0, 3, (5, TOPOLOGY.pdfs)).astype(np.float32)
    stay_P = rng.normal(size=TOPOLOGY.pdfs)
    lm = language_model(seed) if with_model else None
    config = GraphConfig(lm_weight=2.5, word_bonus=0.7, silence=silence, **WIDE)
    found = GraphDecoder(Network(LEXICON, TOPOLOGY), stay_P, config, lm).decode(loglik_TP, n_best=5)
    with np.errstate(divide="ignore"):
        wanted = brute_force(loglik_TP, stay_P, config, lm)
    best = found[0]
    assert best.score == pytest.approx(wanted[0][0], abs=1e-5)
    assert tuple(h.word for h in best.words) == wanted[0][1]
    assert best.acoustic == pytest.approx(wanted[0][2], abs=1e-4)
    assert best.language == pytest.approx(wanted[0][3], abs=1e-4)
    scores = {words: score for score, words, *_ in wanted}
    for sentence in found:  # what else is returned is a real path, so no better than the best of its words
        words = tuple(h.word for h in sentence.words)
        assert sentence.score <= scores[words] + 1e-5
    assert [s.score for s in found] == sorted((s.score for s in found), reverse=True)
    assert len({s.text for s in found}) == len(found)


def test_times_are_those_of_the_alignment():
    rng = np.random.default_rng(3)
    loglik_TP = rng.normal(0, 3, (12, TOPOLOGY.pdfs)).astype(np.float32)
    stay_P = np.zeros(TOPOLOGY.pdfs)
    best = GraphDecoder(Network(LEXICON, TOPOLOGY), stay_P, GraphConfig(**WIDE)).decode(loglik_TP)[0]
    graph = training_graph([h.word for h in best.words], LEXICON, TOPOLOGY)
    path = viterbi(loglik_TP, graph, stay_P)
    assert path.score == pytest.approx(best.acoustic, abs=1e-4)
    assert [(s.name, s.first, s.last) for s in word_spans(path, graph)] == [
        (h.word, h.first, h.last) for h in best.words
    ]


@pytest.mark.parametrize("seed", range(3))
def test_a_single_word_is_the_best_of_all_words(seed):
    rng = np.random.default_rng(seed)
    loglik_TP = rng.normal(0, 3, (6, TOPOLOGY.pdfs)).astype(np.float32)
    config = GraphConfig(grammar="single", **WIDE)
    stay_P = rng.normal(size=TOPOLOGY.pdfs)
    found = GraphDecoder(Network(LEXICON, TOPOLOGY), stay_P, config).decode(loglik_TP, n_best=9)
    wanted = brute_force(loglik_TP, stay_P, config, None)
    assert [s.text for s in found] == [" ".join(words) for _, words, *_ in wanted]
    np.testing.assert_allclose([s.score for s in found], [w[0] for w in wanted], atol=1e-5)


def test_a_narrow_beam_still_finds_something_and_never_something_better():
    rng = np.random.default_rng(0)
    loglik_TP = rng.normal(0, 3, (60, TOPOLOGY.pdfs)).astype(np.float32)
    network, stay_P = Network(LEXICON, TOPOLOGY), np.zeros(TOPOLOGY.pdfs)
    lm = language_model(1)
    wide = GraphDecoder(network, stay_P, GraphConfig(**WIDE), lm).decode(loglik_TP)[0]
    for config in (GraphConfig(beam=5.0), GraphConfig(max_active=1), GraphConfig(beam=1e-3, max_active=2)):
        found = GraphDecoder(network, stay_P, config, lm).decode(loglik_TP)[0]
        assert found.score <= wide.score + 1e-4 or not found.complete


def test_threads_do_not_change_the_result():
    rng = np.random.default_rng(0)
    logliks = [rng.normal(0, 3, (n, TOPOLOGY.pdfs)).astype(np.float32) for n in (40, 7, 90, 1, 25)]
    decoder = GraphDecoder(Network(LEXICON, TOPOLOGY), np.zeros(TOPOLOGY.pdfs), GraphConfig(), language_model(0))
    assert decoder.decode_all(logliks, threads=2) == [decoder.decode(x) for x in logliks]


def test_a_recording_that_is_too_short_for_any_word_gives_no_words():
    topology = Topology(phones=("a", "b", "c"), states=3, silence_states=5)
    decoder = GraphDecoder(Network(LEXICON, topology), np.zeros(topology.pdfs))
    for frames in (0, 1, 2):
        best = decoder.decode(np.zeros((frames, topology.pdfs), np.float32))[0]
        assert best.words == () and not best.complete


def test_bad_input_is_named():
    decoder = GraphDecoder(Network(LEXICON, TOPOLOGY), np.zeros(TOPOLOGY.pdfs))
    with pytest.raises(DataError, match="not a number"):
        decoder.decode(np.full((5, TOPOLOGY.pdfs), np.nan, np.float32))
    with pytest.raises(DataError, match="Expected 4"):
        decoder.decode(np.zeros((5, 3), np.float32))
    with pytest.raises(ConfigError, match="beam above 0"):
        GraphConfig(beam=0.0)
    with pytest.raises(ConfigError, match="bonus_alone must be finite"):
        GraphConfig(bonus_alone=float("inf"))
    with pytest.raises(DataError, match="no phone"):
        Network(Lexicon(entries=(("X", "x"),)), TOPOLOGY)
