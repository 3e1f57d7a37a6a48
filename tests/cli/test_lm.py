"""``intermodal lm``: train, score, perplexity, prune, convert, info."""

from __future__ import annotations

import gzip
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from intermodal.decode.ngram import NGram

Cli = Any
DATA = os.environ.get("INTERMODAL_DATA")
TEXT = "yes\ngo on\ngo on and on\nstop now\n\na b c a b d\n" * 2


@pytest.fixture
def text() -> Path:
    path = Path("text.txt")
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_from_text_to_scores(cli: Cli, text: Path) -> None:
    ran = cli("lm", "train", text, "-o", "a.arpa", "--order", 2)
    assert ran.code == 0 and "30 words in 10 sentences" in ran.out and "so little text" in ran.err
    model = NGram.read("a.arpa")
    found = json.loads(cli("lm", "perplexity", "a.arpa", text, "--json").out)
    assert found["perplexity"] == pytest.approx(model.perplexity(TEXT.split("\n")).perplexity)
    assert "0 of them unknown" in cli("lm", "perplexity", "a.arpa", text).out
    Path("asked.txt").write_text("go on zebra\n", encoding="utf-8")
    rows = json.loads(cli("lm", "score", "a.arpa", "asked.txt", "--words", "--json").out)
    assert rows[0]["unknown"] == ["zebra"] and sum(rows[0]["words"]) == pytest.approx(model.score("go on zebra"))
    tens = float(cli("lm", "score", "a.arpa", "asked.txt", "--base10").out.split()[0])
    assert tens == pytest.approx(model.score("go on zebra") / math.log(10), abs=1e-3)
    assert "zebra  unknown" in cli("lm", "score", "a.arpa", "asked.txt", "--words").out


def test_pruned_and_converted(cli: Cli, text: Path) -> None:
    assert cli("lm", "train", text, "-o", "a.lm", "--prune", 0, 1).code == 0
    assert cli("lm", "convert", "a.lm", "-o", "a.arpa.gz").code == 0
    assert "\\1-grams:" in gzip.decompress(Path("a.arpa.gz").read_bytes()).decode()
    ran = cli("lm", "prune", "a.lm", "-o", "b.lm", "--threshold", 0.01)
    assert ran.code == 0 and sum(NGram.read("b.lm").counts) < sum(NGram.read("a.lm").counts)
    assert "our binary, whole" in cli("lm", "info", "a.lm").out
    assert json.loads(cli("lm", "info", "a.arpa.gz", "--json").out)["format"] == "arpa"
    refused = cli("lm", "convert", "a.lm", "-o", "b.lm")
    assert refused.code == 2 and "--overwrite" in refused.err
    assert cli("lm", "convert", "a.lm", "-o", "b.lm", "--overwrite").code == 0


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("trian", "text.txt"), "did you mean 'train'"),
        (("train", "nothing.txt", "-o", "a.arpa"), "There is no text file nothing.txt"),
        (("train", "bad.txt", "-o", "a.arpa"), "not UTF-8"),
        (("train", "empty.txt", "-o", "a.arpa"), "no words"),
        (("train", "cut.gz", "-o", "a.arpa"), "cut short"),
        (("train", "text.txt"), "--output"),
        (("train", "text.txt", "-o", "a.arpa", "--order", 0), "1 to 12"),
        (("info", "text.txt"), "not a language model in the ARPA format"),
        (("score", "nothing.arpa", "text.txt"), "There is no language model"),
        (("prune", "nothing.arpa", "-o", "b.arpa"), "There is no language model"),
    ],
)
def test_bad_input(cli: Cli, text: Path, asked: tuple[Any, ...], said: str) -> None:
    Path("bad.txt").write_bytes(b"caf\xe9\n")
    Path("empty.txt").write_text("\n \n")
    Path("cut.gz").write_bytes(gzip.compress(b"a b c\n" * 50)[:20])
    ran = cli("lm", *asked)
    assert ran.code == 2 and said in ran.err and not Path("a.arpa").exists()


def test_help(cli: Cli) -> None:
    assert "perplexity" in cli("lm").out and cli("lm").code == 0
    assert "--threshold" in cli("lm", "prune", "--help").out


@pytest.mark.skipif(DATA is None, reason="needs AN4 (INTERMODAL_DATA)")
def test_transcripts_of_recordings(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERMODAL_DATA", str(DATA))
    assert "in 948 sentences" in cli("lm", "train", "an4", "-o", "all.arpa", "--with-validation").out
    ran = cli("lm", "train", "an4", "-o", "an4.arpa")
    assert ran.code == 0 and "in 948 sentences" not in ran.out
    assert json.loads(cli("lm", "perplexity", "an4.arpa", "an4", "--json").out)["words"] == 773
