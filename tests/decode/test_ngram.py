"""N-gram models: scores against kenlm's for the same file, states, pruned files of other programs, the binary."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from intermodal.core.errors import DataError
from intermodal.decode import ngram_binary
from intermodal.decode.kneser_ney import estimate
from intermodal.decode.ngram import END, Grams, NGram, split_words
from intermodal.decode.ngram_kernels import advance
from intermodal.decode.ngram_prune import prune

LINES = [
    "yes",
    "go on",
    "u m n y h six",
    "go on and on",
    "stop now",
    "go and stop",
    "a b c a b d",
    "on and on and on",
] * 2
ASKED = [
    "yes",
    "go on and stop",
    "zebra",
    "go zebra on",
    "",
    "on and on and on and on",
    "a b c d e f",
    "YES",
    "é",
    "b a b",
]
ALONE = """\\data\\
ngram 1=4
ngram 2=2
ngram 3=1

\\1-grams:
-1.5\t<s>\t-0.5
-0.8\t</s>
-0.4\ta\t-0.3
-0.9\tb

\\2-grams:
-0.2\t<s> a\t-0.1
-0.3\ta b\t-0.25

\\3-grams:
-0.1\t<s> a b

\\end\\
"""


def kenlm_model(path: Path) -> Any:
    return pytest.importorskip("kenlm").Model(str(path))


def same_as_kenlm(model: NGram, path: Path, asked: list[str]) -> None:
    other = kenlm_model(path)
    for text in asked:
        for bos in (True, False):
            for eos in (True, False):
                wanted = math.log(10) * other.score(text, bos=bos, eos=eos)
                assert model.score(text, bos=bos, eos=eos) == pytest.approx(wanted, rel=1e-6, abs=1e-5), text
        words = split_words(text)
        each = [math.log(10) * p for p, _, _ in other.full_scores(text)]
        assert model.word_scores(words) == pytest.approx(each, rel=1e-6, abs=1e-5)


@pytest.mark.parametrize("order", [2, 3, 5])
def test_scores_equal_kenlms(tmp_path: Path, order: int) -> None:
    estimate(LINES, order).model.write(tmp_path / "a.arpa")
    model = NGram.read(tmp_path / "a.arpa")
    same_as_kenlm(model, tmp_path / "a.arpa", ASKED)
    found = model.perplexity(["go on and stop"])
    assert found.perplexity == pytest.approx(kenlm_model(tmp_path / "a.arpa").perplexity("go on and stop"), rel=1e-5)


def test_a_file_without_unknown_words_or_weights(tmp_path: Path) -> None:
    (tmp_path / "a.arpa").write_text(ALONE)
    model = NGram.read(tmp_path / "a.arpa")
    assert model.closed and model.order == 3 and model.counts == (5, 2, 1)
    same_as_kenlm(model, tmp_path / "a.arpa", ["a b", "a a a", "b", "b b a b", "", "zebra", "a zebra b"])
    tens = model.score("a b") / math.log(10)
    assert tens == pytest.approx(-0.2 - 0.1 - 0.25 - 0.8, rel=1e-6), (
        "<s> a, <s> a b, then </s> after backing off from a b"
    )


def test_a_pruned_file_lacks_endings_of_longer_entries(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    lines = [" ".join(f"w{int(k)}" for k in rng.zipf(1.4, 8) if k < 60) for _ in range(300)]
    whole = estimate(lines, 4).model
    prune(whole, 1e-4).write(tmp_path / "a.arpa")
    model = NGram.read(tmp_path / "a.arpa")
    assert sum(model.counts) < sum(whole.counts) / 2
    same_as_kenlm(model, tmp_path / "a.arpa", [line for line in lines[:40] if line])


def test_a_missing_beginning_gets_the_probability_of_backing_off() -> None:
    words = ["<unk>", "<s>", "</s>", "a", "b"]
    single = Grams(np.arange(5, dtype=np.int32)[:, None], np.log([0.1, 1e-9, 0.3, 0.4, 0.2]), np.log([1, 1, 1, 0.5, 1]))
    pair = Grams(np.array([[3, 3]], np.int32), np.log([0.7]), np.zeros(1))
    triple = Grams(np.array([[3, 4, 3]], np.int32), np.log([0.9]), np.zeros(1))  # without "a b"
    model = NGram.build(words, [single, pair, triple])
    assert model.counts == (5, 2, 1)
    each = np.exp(model.word_scores(["a", "b", "a"], bos=False, eos=False))
    assert each == pytest.approx([0.4, 0.5 * 0.2, 0.9], rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.sampled_from("abcd"), max_size=6).map(" ".join), min_size=1, max_size=8).filter("".join))
def test_states_are_all_that_matters(lines: list[str]) -> None:
    """Words are scored the same from the state as from the whole history, and never with a shorter one than there is."""
    model = estimate(lines, 3).model
    table = {
        tuple(row): p
        for grams in model.grams()
        for row, p in zip(grams.words.tolist(), grams.logp.tolist(), strict=True)
    }
    weight = {
        tuple(row): b
        for grams in model.grams()
        for row, b in zip(grams.words.tolist(), grams.backoff.tolist(), strict=True)
    }

    def plain(history: tuple[int, ...], word: int) -> float:
        if (*history, word) in table:
            return table[*history, word]
        return weight.get(history, 0.0) + plain(history[1:], word)

    for line in [*lines, "d c b a", "a zebra a b"]:
        state, history = model.start_state, (model.start,)
        for word in [*model.numbers(line.split()).tolist(), model.end]:
            state, found = model.advance(state, word)
            assert found == pytest.approx(plain(history[-2:], word), rel=1e-5, abs=1e-5)
            history = (*history, word)


def test_many_texts_at_once() -> None:
    model = estimate(LINES, 3).model
    alone = [model.score(text) for text in ASKED]
    assert model.scores(ASKED) == pytest.approx(alone, rel=1e-6)
    assert model.scores(["go\non", "go on"]) == pytest.approx([model.score("go on")] * 2), "a line end is white space"
    assert model.scores([t for t in ASKED if t], eos=False) == pytest.approx(
        [model.score(text, eos=False) for text in ASKED if text], rel=1e-6
    )
    assert model.scores([]).shape == (0,)
    assert model.score(["go", "on"]) == model.score(" go \t on\n")


def test_perplexity_with_and_without_unknown_words() -> None:
    model = estimate(LINES, 3).model
    found = model.perplexity(["go zebra on", "", "yes"])
    each = [*model.word_scores(["go", "zebra", "on"]), *model.word_scores(["yes"])]
    assert (found.sentences, found.words, found.unknown) == (2, 4, 1)
    assert found.perplexity == pytest.approx(math.exp(-sum(each) / 6), rel=1e-5)
    assert found.perplexity_known == pytest.approx(math.exp(-(sum(each) - each[1]) / 5), rel=1e-5)
    with pytest.raises(DataError, match="no words"):
        model.perplexity(["", " "])


def test_other_compiled_code_walks_it() -> None:
    model = estimate(LINES, 3).model

    @njit
    def walk(tables: Any, state: int, ids: np.ndarray) -> float:
        total = 0.0
        for word in ids:
            state, logp = advance(tables, state, word)
            total += logp
        return total

    ids = model.numbers(["go", "on", "zebra", END])
    assert walk(model.tables, np.int32(model.start_state), ids) == pytest.approx(model.score("go on zebra"))


def test_a_vocabulary_without_marks_or_with_a_word_twice() -> None:
    single = Grams(np.array([[0], [0]], np.int32), np.log([0.5, 0.5]), np.zeros(2))
    with pytest.raises(DataError, match="twice"):
        NGram.build(["a"], [single])
    with pytest.raises(DataError, match="outside its vocabulary"):
        NGram.build(["a"], [Grams(np.array([[1]], np.int32), np.zeros(1), np.zeros(1))])
    pair = Grams(np.array([[0, 0], [0, 0]], np.int32), np.log([0.5, 0.5]), np.zeros(2))
    with pytest.raises(DataError, match="length 2 stands twice"):
        NGram.build(["a"], [Grams(np.array([[0]], np.int32), np.zeros(1), np.zeros(1)), pair])


# The binary


def test_the_binary_gives_the_same_model(tmp_path: Path) -> None:
    model = estimate([*LINES, "é ü 漢字"], 4).model
    model.write(tmp_path / "a.lm")
    assert ngram_binary.is_binary(tmp_path / "a.lm")
    other = NGram.read(tmp_path / "a.lm")
    assert other.words == model.words and other.levels == model.levels and other.closed == model.closed
    assert all((a == b).all() and a.dtype == b.dtype for a, b in zip(model.tables, other.tables, strict=True))
    assert (other.scores(ASKED) == model.scores(ASKED)).all()


def test_a_single_word_model_in_binary(tmp_path: Path) -> None:
    model = estimate(["a"], 1).model
    model.write(tmp_path / "a.lm")
    assert NGram.read(tmp_path / "a.lm").score("a b") == model.score("a b")


def test_a_damaged_binary(tmp_path: Path) -> None:
    path = tmp_path / "a.lm"
    estimate(LINES, 3).model.write(path)
    good = path.read_bytes()
    for cut in (0, 5, 15, 30, 300, len(good) // 2, len(good) - 200):
        path.write_bytes(good[:cut])
        with pytest.raises(DataError):
            ngram_binary.read(path)
    for place in (9, 17, 40, len(good) - len(good) // 3, len(good) // 2):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(DataError, match="damaged|cut short"):
            NGram.read(path)
    path.write_bytes(good[:7] + b"7" + good[8:])
    with pytest.raises(DataError, match="another version"):
        NGram.read(path)
    with pytest.raises(DataError, match="no language model"):
        NGram.read(tmp_path / "nothing.lm")
    shutil.rmtree(tmp_path / "folder", ignore_errors=True)
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        NGram.read(tmp_path / "folder")
