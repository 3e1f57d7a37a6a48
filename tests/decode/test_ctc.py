import itertools
import logging
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intermodal.core.errors import ConfigError, DataError
from intermodal.decode.ctc import BeamConfig, BeamDecoder, greedy
from intermodal.decode.ngram import NGram
from intermodal.losses.ctc import ctc_align

OPEN = {"token_prune": -math.inf, "beam_prune": -math.inf}
LETTERS = "abcde"
SYMBOLS = ["_", *LETTERS, " "]


def emissions(frames, symbols, seed, scale=2.0):
    x = np.random.default_rng(seed).normal(size=(frames, symbols)) * scale
    return x - np.log(np.exp(x).sum(1, keepdims=True))


def collapse(path):
    return tuple(s for s, _ in itertools.groupby(path) if s)


def sums_over_paths(logp, text_of, merge):
    """The log-probability of each text, by naming all paths."""
    found: dict = {}
    for path in itertools.product(range(logp.shape[1]), repeat=len(logp)):
        score = sum(logp[t, s] for t, s in enumerate(path))
        text = text_of(collapse(path))
        old = found.get(text, -math.inf)
        found[text] = np.logaddexp(old, score) if merge == "sum" else max(old, score)
    return found


@pytest.fixture(scope="module")
def arpa(tmp_path_factory):
    """A 3-gram with holes in every order, over random words, and its words."""
    rng = np.random.default_rng(0)
    words = sorted({"".join(rng.choice(list(LETTERS), size=rng.integers(1, 5))) for _ in range(40)})
    pairs = [(a, b) for a in ["<s>", *words] for b in [*words, "</s>"] if rng.random() < 0.15]
    inner = set(pairs)
    triples = [
        (a, b, c) for a, b in pairs for c in [*words, "</s>"] if (b, c) in inner and rng.random() < 0.3 and b != "</s>"
    ]
    lines = ["\\data\\", f"ngram 1={len(words) + 3}", f"ngram 2={len(pairs)}", f"ngram 3={len(triples)}", ""]
    lines += ["\\1-grams:", f"-99\t<s>\t{-rng.random():.5f}", f"{-rng.random() * 3:.5f}\t</s>", "-2.5\t<unk>\t0"]
    lines += [f"{-3 * rng.random():.5f}\t{w}\t{-rng.random():.5f}" for w in words]
    lines += ["", "\\2-grams:"]
    lines += [f"{-2 * rng.random():.5f}\t{a} {b}" + (f"\t{-rng.random():.5f}" * (b != "</s>")) for a, b in pairs]
    lines += ["", "\\3-grams:", *(f"{-rng.random():.5f}\t{a} {b} {c}" for a, b, c in triples), "", "\\end\\", ""]
    path = tmp_path_factory.mktemp("lm") / "random.arpa"
    path.write_text("\n".join(lines))
    return path, words


@pytest.mark.parametrize("places", ["prefixes", "states"])
@pytest.mark.parametrize("merge", ["sum", "max"])
@pytest.mark.parametrize(("frames", "symbols", "seed"), [(1, 2, 0), (5, 4, 1), (6, 3, 2), (7, 3, 3)])
def test_a_wide_beam_finds_every_text_with_its_whole_probability(places, merge, frames, symbols, seed):
    logp = emissions(frames, symbols, seed)
    expected = sums_over_paths(logp, lambda labels: labels, merge)
    decoder = BeamDecoder("_abc"[:symbols], 0, None, BeamConfig(beam=3000, places=places, merge=merge, **OPEN))
    (found,) = decoder.decode([logp], n_best=3000)
    assert len(found) == len(expected)
    for beam in found:
        assert beam.score == pytest.approx(expected[beam.tokens], abs=1e-12)
        assert beam.score == beam.acoustic
    assert [b.score for b in found] == sorted((b.score for b in found), reverse=True)


@settings(max_examples=15, deadline=None)
@given(frames=st.integers(1, 6), seed=st.integers(0, 2**20), merge=st.sampled_from(["sum", "max"]))
def test_spaces_that_change_no_text_are_summed_over(frames, seed, merge):
    logp = emissions(frames, 4, seed)

    def text_of(labels):
        return " ".join("".join("_ab "[i] for i in labels).split())

    expected = sums_over_paths(logp, text_of, merge)
    decoder = BeamDecoder("_ab ", 0, " ", BeamConfig(beam=3000, merge=merge, **OPEN))
    (found,) = decoder.decode([logp], n_best=3000)
    assert {b.text for b in found} == set(expected)
    for beam in found:
        assert beam.score == pytest.approx(expected[beam.text], abs=1e-12)
        assert [w.text for w in beam.words] == beam.text.split()


@pytest.mark.parametrize("lexicon", [None, ["a", "ab", "ba"]])
@pytest.mark.parametrize("seed", range(3))
def test_the_best_is_that_of_all_texts_with_language_model_lexicon_and_hot_words(tmp_path, lexicon, seed):
    path = tmp_path / "two.arpa"
    path.write_text(
        "\\data\\\nngram 1=6\nngram 2=3\n\n\\1-grams:\n-99\t<s>\t-0.3\n-0.8\t</s>\n-1.5\t<unk>\n-0.5\ta\t-0.2\n-0.9\tab"
        "\t-0.1\n-0.7\tba\t-0.4\n\n\\2-grams:\n-0.2\t<s> ab\n-0.3\tab a\n-0.4\ta </s>\n\n\\end\\\n"
    )
    lm = NGram.read(path)
    logp = emissions(6, 4, seed, 1.0)
    expected = sums_over_paths(logp, lambda labels: " ".join("".join("_ab "[i] for i in labels).split()), "sum")
    weights = {"lm_weight": 0.7, "word_bonus": 0.4, "oov": -3.0, "hot_weight": 2.0}
    ranked = {}
    for text, acoustic in expected.items():
        words = text.split()
        if lexicon is not None and not set(words) <= {*lexicon, "bb"}:
            continue
        language = lm.score(words) + sum(-3.0 for w in words if w not in lm)
        bonus = 0.4 * len(words) + 2.0 * words.count("bb")
        ranked[text] = (acoustic + 0.7 * language + bonus, acoustic, language, bonus)
    decoder = BeamDecoder(
        "_ab ", 0, " ", BeamConfig(beam=4000, **weights, **OPEN), lm=lm, lexicon=lexicon, hot_words=["bb"]
    )
    (found,) = decoder.decode([logp], n_best=4000)
    assert {b.text for b in found} == set(ranked)
    for beam in found:
        assert (beam.score, beam.acoustic, beam.language, beam.bonus) == pytest.approx(ranked[beam.text], abs=1e-5)
        assert beam.score == pytest.approx(beam.acoustic + 0.7 * beam.language + beam.bonus, abs=1e-9)
        assert beam.whole


def _with_last_letter(logp):
    """End with a frame that is a letter: pyctcdecode scores an empty word after a space at the end."""
    logp = logp.copy()
    logp[-1, [0, -1]] = -30
    return logp - np.log(np.exp(logp).sum(1, keepdims=True))


@pytest.mark.parametrize(
    ("lm", "hot", "prune", "beam"),
    [
        (False, (), False, 30),
        (False, (), True, 10),
        (True, (), False, 30),
        (True, (), True, 20),
        (True, ("abe", "ace bad"), True, 20),
        (False, ("abe", "ace"), True, 20),
        (True, (), True, 1),
    ],
)
def test_scores_are_those_of_pyctcdecode(arpa, lm, hot, prune, beam):
    pyctcdecode = pytest.importorskip("pyctcdecode")
    pytest.importorskip("kenlm")
    logging.disable(logging.WARNING)
    try:
        theirs = pyctcdecode.build_ctcdecoder(["", *LETTERS, " "], str(arpa[0]) if lm else None, alpha=0.6, beta=1.1)
    finally:
        logging.disable(logging.NOTSET)
    tokens, beams = (-5.0, -10.0) if prune else (-1e9, -1e9)
    config = BeamConfig(
        beam=beam,
        places="states",
        token_prune=tokens,
        beam_prune=beams,
        lm_weight=0.6,
        word_bonus=1.1 if lm else 0.0,
    )
    ours = BeamDecoder(SYMBOLS, 0, " ", config, lm=NGram.read(arpa[0]) if lm else None, hot_words=hot)
    inputs = [_with_last_letter(emissions(5 + seed, 7, seed, 3 if prune else 2)) for seed in range(25)]
    for logp, found in zip(inputs, ours.decode(inputs, n_best=5), strict=True):
        expected = theirs.decode_beams(
            logp, beam_width=beam, beam_prune_logp=beams, token_min_logp=tokens, hotwords=hot or None
        )
        assert found[0].text == expected[0][0]
        assert found[0].score == pytest.approx(expected[0][4], abs=1e-5)
        if not lm:
            assert found[0].acoustic == pytest.approx(expected[0][3], abs=1e-9)


def test_bpe_is_read_as_pyctcdecode_reads_it():
    pyctcdecode = pytest.importorskip("pyctcdecode")
    symbols = ["", "▁a", "b", "▁c", "de", "f"]  # no text has two spellings
    logging.disable(logging.WARNING)
    try:
        theirs = pyctcdecode.build_ctcdecoder(symbols)
    finally:
        logging.disable(logging.NOTSET)
    ours = BeamDecoder(symbols, 0, " ", BeamConfig(beam=50, places="states", **OPEN), hot_words=["abde"])
    for seed in range(10):
        logp = emissions(12, 6, seed)
        expected = theirs.decode_beams(
            logp, beam_width=50, beam_prune_logp=-1e9, token_min_logp=-1e9, hotwords=["abde"]
        )
        (found,) = ours.decode([logp])
        assert found[0].text == expected[0][0]
        assert found[0].score == pytest.approx(expected[0][4], abs=1e-9)
        assert [w.text for w in found[0].words] == found[0].text.split()


def _flashlight(path, words, beam, threshold, merge):
    pytest.importorskip("kenlm")
    decoder = pytest.importorskip("flashlight.lib.text.decoder")
    kenlm = pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    dictionary = pytest.importorskip("flashlight.lib.text.dictionary")
    names = dictionary.Dictionary()
    for word in [*words, "<unk>"]:
        names.add_entry(word)
    trie = decoder.Trie(len(SYMBOLS), 6)
    for word in words:
        trie.insert([SYMBOLS.index(c) for c in word + " "], names.get_index(word), 0.0)
    options = decoder.LexiconDecoderOptions(
        beam,
        len(SYMBOLS),
        threshold,
        0.6 * math.log(10),
        1.1,
        -math.inf,
        0.0,
        merge == "sum",
        decoder.CriterionType.CTC,
    )
    model = kenlm.KenLM(str(path), names)
    return decoder.LexiconDecoder(options, trie, model, 6, 0, names.get_index("<unk>"), [], False), names


@pytest.mark.parametrize("merge", ["max", "sum"])
@pytest.mark.parametrize(("beam", "threshold"), [(40, 1e9), (8, 1e9), (40, 12.0)])
def test_scores_are_those_of_flashlight(arpa, merge, beam, threshold):
    path, words = arpa
    theirs, names = _flashlight(path, words, beam, threshold, merge)
    config = BeamConfig(
        beam=beam,
        places="states",
        merge=merge,
        token_prune=-math.inf,
        beam_prune=-threshold,
        lm_weight=0.6,
        word_bonus=1.1,
    )
    ours = BeamDecoder(SYMBOLS, 0, " ", config, lm=NGram.read(path), lexicon=words)
    end = np.full((1, 7), -60.0)  # its words end in a space, so the last frame is one
    end[0, 6] = 0.0
    inputs = [np.concatenate([emissions(5 + 2 * seed, 7, seed), end]) for seed in range(20)]
    # With a threshold, flashlight drops what is below before it adds up, and we after.
    tolerance = 1e-2 if merge == "sum" and threshold < 1e9 else 1e-4
    for logp, found in zip(inputs, ours.decode(inputs), strict=True):
        x = np.ascontiguousarray(logp, np.float32)
        expected = theirs.decode(x.ctypes.data, *x.shape)[0]
        assert found[0].text.split() == [names.get_entry(i) for i in expected.words if i >= 0]
        assert found[0].score == pytest.approx(expected.score, abs=tolerance)


def test_a_long_utterance_outgrows_its_arrays_and_keeps_its_score():
    decoder = pytest.importorskip("flashlight.lib.text.decoder")
    options = decoder.LexiconFreeDecoderOptions(30, 6, 1e9, 0.0, 0.0, False, decoder.CriterionType.CTC)
    theirs = decoder.LexiconFreeDecoder(options, decoder.ZeroLM(), 5, 0, [])
    logp = emissions(3000, 6, 0, 0.7)
    x = np.ascontiguousarray(logp, np.float32)
    expected = theirs.decode(x.ctypes.data, *x.shape)[0]
    ours = BeamDecoder("_abcde", 0, None, BeamConfig(beam=30, places="states", merge="max", **OPEN))
    (found,) = ours.decode([logp])
    assert found[0].score == pytest.approx(expected.score, abs=1e-3)
    assert list(found[0].tokens) == list(collapse(expected.tokens[1:-1]))
    assert [first for first, _ in found[0].frames] == sorted({first for first, _ in found[0].frames})


@settings(max_examples=25, deadline=None)
@given(frames=st.integers(1, 30), seed=st.integers(0, 2**20))
def test_times_are_those_of_the_best_path(frames, seed):
    logp = emissions(frames, 5, seed)
    (found,) = BeamDecoder("_abcd", 0, None, BeamConfig(beam=200, **OPEN)).decode([logp], n_best=3)
    for beam in found:
        path = ctc_align(logp, np.array(beam.tokens, np.int64))
        assert beam.frames == tuple(zip(path.first_U.tolist(), path.last_U.tolist(), strict=True))
        for word, token, (first, last) in zip(beam.words, beam.tokens, beam.frames, strict=True):
            assert (word.text, word.first, word.last) == ("_abcd"[token], first, last)
            assert word.confidence == pytest.approx(math.exp(logp[first : last + 1, token].max()))


def test_words_have_frames_and_confidences():
    logp = np.log(np.full((12, 4), 1e-4))
    for t, s in enumerate([0, 1, 1, 2, 0, 3, 0, 3, 2, 0, 2, 3]):
        logp[t, s] = math.log(0.9)
    (found,) = BeamDecoder("_ab ", 0, " ").decode([logp])
    assert found[0].text == "ab bb"
    assert [(w.text, w.first, w.last) for w in found[0].words] == [("ab", 1, 3), ("bb", 8, 10)]
    assert all(w.confidence == pytest.approx(0.9) for w in found[0].words)


@pytest.mark.parametrize("chunk", [1, 3, 50])
def test_a_stream_ends_where_offline_does(arpa, chunk):
    decoder = BeamDecoder(SYMBOLS, 0, " ", BeamConfig(beam=12), lm=NGram.read(arpa[0]), hot_words=["abe"])
    logp = emissions(60, 7, 1)
    (offline,) = decoder.decode([logp], n_best=4)
    stream = decoder.stream()
    for start in range(0, 60, chunk):
        stream.feed(logp[start : start + chunk])
        (partial,) = stream.partial()
        assert len(partial.words) <= stream.frames
    assert stream.frames == 60
    assert stream.finish(4) == offline
    stream.feed(logp[:5])  # a stream may go on after a look at its end
    stream.reset()
    stream.feed(logp)
    assert stream.finish(4) == offline


def test_threads_and_the_order_of_utterances_change_nothing(arpa):
    decoder = BeamDecoder(SYMBOLS, 0, " ", BeamConfig(beam=12), lm=NGram.read(arpa[0]))
    inputs = [emissions(3 + 5 * i, 7, i) for i in range(8)]
    told: list[int] = []
    alone = [decoder.decode([x])[0] for x in inputs]
    assert decoder.decode(inputs, threads=3, watch=told.append) == alone
    assert sorted(told) == list(range(1, 9))


def test_hot_words_win_over_what_was_heard():
    logp = np.log(np.full((3, 4), 0.1))
    for t, s in enumerate([1, 1, 2]):
        logp[t, s] = math.log(0.6)
    logp[2, 3] = math.log(0.3)
    assert BeamDecoder("_abc", 0, "|").alphabet.starts.all() is not True
    plain, hot = (BeamDecoder("_abc|", 0, "|", hot_words=words) for words in ((), ["ac"]))
    wide = np.concatenate([logp, np.full((3, 1), -9.0)], 1)
    assert plain.decode([wide])[0][0].text == "ab"
    assert hot.decode([wide])[0][0].text == "ac"
    assert hot.decode([wide])[0][0].bonus == pytest.approx(10.0)


def test_a_lexicon_allows_no_other_words():
    decoder = BeamDecoder(SYMBOLS, 0, " ", BeamConfig(beam=20), lexicon=["bad", "ace", "Zoë"], hot_words=["dab"])
    assert decoder.left_out == ("Zoë",)
    said = set()
    for seed in range(20):
        (found,) = decoder.decode([emissions(30, 7, seed)], n_best=5)
        for beam in found:
            said.update(beam.text.split())
    assert said == {"bad", "ace", "dab"}


def test_a_last_word_that_is_none_is_marked():
    logp = np.array([[-np.inf, 0.0, -np.inf, -np.inf]] * 2)
    (found,) = BeamDecoder("_ab ", 0, " ", lexicon=["b", "aab"]).decode([logp])
    assert found[0].text == ""
    assert not found[0].whole


def test_symbols_that_are_words():
    decoder = BeamDecoder(["_", "AH", "B", "K"], 0, " ", BeamConfig(beam=9, lm_weight=0.0))
    logp = np.log(np.full((4, 4), 0.01))
    for t, s in enumerate([1, 2, 0, 2]):
        logp[t, s] = math.log(0.97)
    (found,) = decoder.decode([logp])
    assert found[0].text == "AH B B"
    assert [w.text for w in found[0].words] == ["AH", "B", "B"]


def test_no_frames_and_a_beam_of_one(arpa):
    decoder = BeamDecoder(SYMBOLS, 0, " ", BeamConfig(beam=1), lm=NGram.read(arpa[0]))
    logp = emissions(20, 7, 0)
    nothing, something = decoder.decode([np.zeros((0, 7)), logp])
    assert nothing[0].text == ""
    assert nothing[0].words == ()
    assert nothing[0].acoustic == 0
    assert len(something) == 1
    assert decoder.decode([]) == []


def test_a_frame_in_which_all_is_forbidden_is_passed_over():
    logp = np.log(np.array([[0.01, 0.97, 0.01, 0.01]] * 4))
    logp[1] = [-math.inf, -math.inf, 0.0, -math.inf]  # only "b", which no word of the lexicon has
    (found,) = BeamDecoder("_abc", 0, "|", lexicon=["a"]).decode([logp])
    assert found[0].text == "a"


@pytest.mark.parametrize(
    ("logp", "words"),
    [
        (np.zeros((3, 5)), "5 symbols, but the decoder knows 4"),
        (np.zeros((3, 3)), "at least 4"),
        (np.zeros(4), r"\(T, V\)"),
        (np.zeros((3, 4), np.int64), "int64"),
        (np.array([[0.0] * 4, [0.0, np.nan, 0.0, 0.0]]), "utterance 1 hold NaN.*frame 1"),
        (np.array([[0.0] * 4, [0.0, np.inf, 0.0, 0.0]]), "frame 1"),
        (np.full((2, 4), -np.inf), "frame 0"),
    ],
)
def test_bad_emissions_are_named(logp, words):
    with pytest.raises(DataError, match=words):
        BeamDecoder("_ab ", 0, " ").decode([np.zeros((2, 4)), logp])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"lexicon": []}, "it has no words"),
        ({"lexicon": ["xyz"]}, "none of its words can be spelt, such as 'xyz'"),
        ({"hot_words": ["six bad"]}, "'six' has letters.*'i', 's', 'x'"),
        ({"symbols": "_aa "}, "named once"),
        ({"blank": 9}, "symbol 9"),
    ],
)
def test_what_a_decoder_cannot_use_is_named(arguments, words):
    with pytest.raises(DataError, match=words):
        BeamDecoder(**{"symbols": "_abd ", **arguments})


@pytest.mark.parametrize(
    "changes",
    [{"beam": 0}, {"token_prune": 1.0}, {"beam_prune": math.nan}, {"lm_weight": -1.0}, {"hot_weight": math.inf}],
)
def test_weights_out_of_range_are_refused(changes):
    with pytest.raises(ConfigError):
        BeamConfig(**changes)
    with pytest.raises(ValueError, match="n_best"):
        BeamDecoder("_ab ").decode([], n_best=0)


@settings(max_examples=40, deadline=None)
@given(path=st.lists(st.integers(0, 3), max_size=20))
def test_greedy_merges_repeats_and_then_removes_blanks(path):
    logp = np.full((len(path), 4), -9.0, np.float32)
    logp[np.arange(len(path)), path] = 0
    tokens, first, last = greedy(logp, 0)
    assert tuple(tokens) == collapse(path)
    for token, a, b in zip(tokens, first, last, strict=True):
        assert set(path[a : b + 1]) == {token}
        assert (a == 0 or path[a - 1] != token) and (b == len(path) - 1 or path[b + 1] != token)


def test_greedy_refuses_what_is_no_number():
    with pytest.raises(DataError, match="frame 1"):
        greedy(np.array([[0.0, 0.0], [np.nan, 0.0]]), 0)
