"""``intermodal words``, and word2vec's files through ``convert``, ``embed`` and ``search``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from intermodal.data.words import Vocabulary
from intermodal.hub.word2vec_format import write_word2vec
from intermodal.methods.contrastive.word2vec import Word2Vec, Word2VecConfig

Cli = Any
WORDS = ("the", "king", "queen", "man", "woman", "apple")


@pytest.fixture
def words(tmp_path: Path) -> Path:
    model = Word2Vec(Word2VecConfig(vocab_size=6, dim=3), {"text": Vocabulary(WORDS, range(9, 3, -1), total=99)})
    table = [[0, 0, 1], [1, 1, 0], [1, -1, 0], [0.1, 1, 0], [0.1, -1, 0], [-1, 0, 0.5]]
    model.centre.weight.data = torch.tensor(table)
    model.save(tmp_path / "run" / "model")
    write_word2vec(model, tmp_path / "vectors.bin")
    return tmp_path / "run"


def test_near_and_analogy(cli: Cli, words: Path) -> None:
    ran = cli("words", words, "--near", "king", "-k", 2)
    assert ran.code == 0 and [line.split() for line in ran.out.splitlines()] == [["0.774", "man"], ["0.000", "queen"]]
    ran = cli("words", words, "--analogy", "man", "king", "woman", "--json")
    found = json.loads(ran.out)
    assert found[0]["word"] == "queen" and found[0]["rank"] == 3 and 0.9 < found[0]["cosine"] <= 1
    ran = cli("words", "vectors.bin", "--analogy", "man", "king", "woman", "--json")
    assert json.loads(ran.out)[0]["word"] == "queen", "a file of word vectors is a model too"
    assert "6 words of 3 dimensions" in cli("words", words).out


def test_a_map(cli: Cli, words: Path) -> None:
    assert cli("words", words, "--map", "map.png").code == 0
    assert Path("map.png").read_bytes().startswith(b"\x89PNG")
    assert cli("words", words, "--map", "map.html").code == 0
    page = Path("map.html").read_text(encoding="utf-8")
    assert "<svg" in page and all(word in page for word in WORDS)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("--near", "kign"), "did you mean 'king'?"),
        (("--near", ""), "an empty one has no vector"),
        (("--near", "king", "-k", 0), "between 1 and 1000"),
        (("--near", "king", "--map", "map.png"), "one thing at a time"),
        (("--map", "map.gif"), ".png or .html, not .gif"),
        (("--analogy", "man", "king"), "analogy"),
    ],
)
def test_bad_questions(cli: Cli, words: Path, asked: tuple[Any, ...], said: str) -> None:
    ran = cli("words", words, *asked)
    assert ran.code == 2 and said in ran.sentence


def test_a_model_without_words(cli: Cli, model: Path) -> None:
    ran = cli("words", model, "--near", "king")
    assert ran.code == 2 and "capability 'words'" in ran.sentence and "word2vec" in ran.sentence


def test_convert_both_ways(cli: Cli, words: Path) -> None:
    assert cli("convert", words, "out.txt", "--to", "word2vec-text").code == 0
    assert Path("out.txt").read_text(encoding="utf-8").startswith("6 3\nthe 0.0 0.0 1.0\n")
    assert cli("convert", words, "out.bin", "--to", "word2vec").code == 0
    assert Path("out.bin").read_bytes() == Path("vectors.bin").read_bytes()
    assert cli("convert", "out.txt", "ours").code == 0
    assert json.loads(cli("words", "ours", "--near", "king", "--json").out)[0]["word"] == "man"
    Path("cut.bin").write_bytes(Path("out.bin").read_bytes()[:-9])
    ran = cli("convert", "cut.bin", "cut")
    assert ran.code == 2 and "cut short" in ran.sentence and not Path("cut").exists()


def test_a_text_is_embedded(cli: Cli, words: Path) -> None:
    ran = cli("embed", words, "the king", "apple")
    vectors = [json.loads(line)["vector"] for line in ran.out.splitlines()]
    assert len(vectors) == 2 and vectors[1] == pytest.approx([-0.8944, 0, 0.4472], abs=1e-4)


def test_a_persons_own_text_in_one_command(cli: Cli, tmp_path: Path) -> None:
    text = "\n\n".join(
        f"the cat {v} the mat and the dog {v} the cat" for v in ("saw", "sat on", "hid from", "fed") * 40
    )
    Path("my.txt").write_text(text, encoding="utf-8")
    options = ("--threads", 1, "--train.steps", 4, "--model.dim", 8, "--min-count", 2)
    ran = cli("train", "word2vec", "--data", "my.txt", "--run", "run", *options)
    assert ran.code == 0, ran.err
    assert "Nearest words" in Path("run/report.html").read_text(encoding="utf-8")
    assert "loss" in ran.err.partition("Judging")[2].splitlines()[1], (
        "no pair of the test sets is known: the loss leads"
    )
    assert cli("words", "run", "--near", "cat").code == 0
    assert cli("info", "run").code == 0
    Path("bad.txt").write_bytes("caf\xe9 ".encode("latin-1") * 9)
    Path("empty.txt").write_bytes(b"")
    Path("one.txt").write_text("word " * 99)
    for name, said in (("bad.txt", "not UTF-8"), ("empty.txt", "empty"), ("one.txt", "1 different words")):
        ran = cli("train", "word2vec", "--data", name, "--run", "other")
        assert ran.code == 2 and said in ran.sentence
