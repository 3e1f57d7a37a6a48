"""word2vec's text and binary formats: round trips, gensim both ways, damaged files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from intermodal.core.errors import CheckpointError, IntermodalError
from intermodal.data.words import Vocabulary
from intermodal.hub.load import load
from intermodal.hub.save import export
from intermodal.hub.word2vec_format import read_vectors, read_word2vec, write_word2vec
from intermodal.methods.contrastive.word2vec import Word2Vec, Word2VecConfig

WORDS = ("the", "naïve", "日本", "x", "fünf")


@pytest.fixture
def model() -> Word2Vec:
    torch.manual_seed(0)
    made = Word2Vec(Word2VecConfig(vocab_size=5, dim=7), {"text": Vocabulary(WORDS, [9, 4, 3, 2, 2], total=30)})
    torch.nn.init.normal_(made.centre.weight, std=10)
    made.centre.weight.data[3, :3] = torch.tensor([1e-38, -0.0, 3.4e38])
    made.centre.weight.data[4, 0] = float(np.frombuffer(b"\n \n\n", "<f4")[0])  # bytes that look like text
    return made


@pytest.mark.parametrize("form", ["binary", "text"])
def test_a_round_trip_keeps_every_bit(model, tmp_path, form):
    path = tmp_path / "vectors.bin"
    write_word2vec(model, path, form)
    again = read_word2vec(path)
    assert again.words == WORDS and again.word_vectors().tobytes() == model.word_vectors().tobytes()
    assert not again.context.weight.any() and not again.training
    assert again.vocabulary.counts.tolist() == [5, 4, 3, 2, 1]
    assert again.word_vectors().tobytes() == read_vectors(path, form)[1].tobytes(), "the form is told from the file"


@pytest.mark.parametrize("binary", [True, False])
def test_gensim_reads_ours_and_we_read_gensims(model, tmp_path, binary):
    keyed = pytest.importorskip("gensim.models").KeyedVectors
    ours, theirs = tmp_path / "ours.bin", tmp_path / "theirs.bin"
    write_word2vec(model, ours, "binary" if binary else "text")
    found = keyed.load_word2vec_format(str(ours), binary=binary)
    assert found.index_to_key == list(WORDS) and found.vectors.tobytes() == model.word_vectors().tobytes()
    found.save_word2vec_format(str(theirs), binary=binary)
    again = read_word2vec(theirs)
    assert again.words == WORDS and again.word_vectors().tobytes() == model.word_vectors().tobytes()


def test_load_and_export_know_the_format(model, tmp_path):
    export(model, tmp_path / "v.bin", layout="word2vec")
    export(model, tmp_path / "v.txt", layout="word2vec-text")
    assert (tmp_path / "v.txt").read_text(encoding="utf-8").startswith("5 7\nthe ")
    for name in ("v.bin", "v.txt"):
        found = load(tmp_path / name)
        assert isinstance(found, Word2Vec) and found.words == WORDS
        found.save(tmp_path / "ours")
        assert load(tmp_path / "ours").words == WORDS
    (tmp_path / "v.xyz").write_bytes(b"")
    with pytest.raises(CheckpointError, match="is a file; a model is a folder"):
        load(tmp_path / "v.xyz")


def vector(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"hello world\n", "first line should be two numbers"),
        (b"no line end at all " * 20, "first line should be two numbers"),
        (b"2\na 1\nb 2\n", "first line should be two numbers"),
        (b"-1 2\n", "first line should be two numbers"),
        (b"0 2\n", "first line should be two numbers"),
        (b"\x80\x04\x95" + bytes(200), "first line should be two numbers"),
        (b"999999999999 300\n" + b"a " + vector(1, 2), "is cut short"),
        (b"2 2\na " + vector(1, 2) + b"\nb " + vector(3, 4)[:5], "cut short"),
        (b"2 2\na " + vector(1, 2) + b"\nb" + vector(3, 4), "cut short"),
        (b"2 2\na 1 2\nb 3000\n", "expected a word and 2 numbers, found 2 parts"),
        (b"2 2\na 1 2\nb 3 4x5\n", "could not convert"),
        (b"3 2\na 1 2\nb 3 4.00000\n", "its first line says 3 words, found 2"),
        (b"1 2\na 1 2\nb 3 4\n", "goes on behind the 1 words"),
        (b"1 2\na " + vector(1, 2) + b"\nmore", "goes on behind"),
        (b"2 2\na 1 2\na 3 4\n", "'a' is there twice, as numbers 1 and 2"),
        (
            b"2 2\na " + vector(1, 2) + b"\nb " + vector(3, float("nan")),
            "'b' .number 2. holds a number that is not finite",
        ),
        (b"2 2\na 1 2\nb inf 4\n", "not finite"),
        (b"2 2\na 1 2\n\xe9t\xe9 3 4\n", "number 2 is not UTF-8"),
        (b"2 2\na " + vector(1, 2) + b"\n\xff\xfe " + vector(3, 4), "number 2 is not UTF-8"),
        (b"2 2\na 1 2\n 3 4\n", "word number 2 is empty"),
        (b"1 2\n " + vector(1, 2) + b"x", "word number 1 is empty"),
    ],
)
def test_a_damaged_file_says_what_is_wrong(tmp_path, content, said):
    path = tmp_path / "bad.bin"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=said) as caught:
        read_word2vec(path)
    assert "bad.bin" in str(caught.value) and "\n" not in str(caught.value)


def test_every_cut_of_a_binary_is_noticed(model, tmp_path):
    path = tmp_path / "whole.bin"
    write_word2vec(model, path)
    whole = path.read_bytes()
    for length in range(len(whole) - 1):  # without the last line end it is whole
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            read_word2vec(path)
    path.write_bytes(whole[:-1])
    assert read_word2vec(path).words == WORDS


def test_words_that_the_format_cannot_say(tmp_path: Path):
    made = Word2Vec(Word2VecConfig(vocab_size=2, dim=2), {"text": Vocabulary(["a b", "c"], [2, 1], total=3)})
    with pytest.raises(CheckpointError, match="'a b' is empty or holds white space"):
        write_word2vec(made, tmp_path / "v.bin")
    assert not (tmp_path / "v.bin").exists()
    with pytest.raises(IntermodalError):
        read_word2vec(tmp_path / "nowhere.bin")
