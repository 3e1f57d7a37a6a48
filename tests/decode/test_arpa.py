"""ARPA files: what is written comes back, and every way in which a file can be wrong is said in one sentence."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intermodal.core.errors import DataError
from intermodal.decode.arpa_kernels import _number
from intermodal.decode.kneser_ney import estimate
from intermodal.decode.ngram import NGram

LINES = ["yes", "go on", "go on and on", "stop now", "é ü 漢字", "a b c a b d"] * 2


@pytest.fixture
def whole(tmp_path: Path) -> str:
    estimate(LINES, 3).model.write(tmp_path / "good.arpa")
    return (tmp_path / "good.arpa").read_text(encoding="utf-8")


def fails(tmp_path: Path, text: str | bytes) -> str:
    path = tmp_path / "bad.arpa"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError) as caught:
        NGram.read(path)
    said = str(caught.value)
    assert "bad.arpa" in said and "\n" not in said
    return said


@pytest.mark.parametrize("name", ["a.arpa", "a.arpa.gz"])
def test_there_and_back(tmp_path: Path, name: str) -> None:
    model = estimate(LINES, 3).model
    model.write(tmp_path / name)
    other = NGram.read(tmp_path / name)
    assert other.words == model.words and other.levels == model.levels
    for a, b in zip(model.tables, other.tables, strict=True):
        assert a.dtype == b.dtype and np.allclose(a, b, rtol=1e-6, atol=2e-6)
    other.write(tmp_path / ("b" + name))
    again = NGram.read(tmp_path / ("b" + name))
    assert all(np.allclose(a, b, rtol=1e-6, atol=2e-6) for a, b in zip(other.tables, again.tables, strict=True))


def test_a_closed_model_comes_back_closed(tmp_path: Path) -> None:
    text = "\\data\\\nngram 1=3\n\n\\1-grams:\n-99 <s>\n-0.3 </s>\n-0.3 a\n\n\\end\\\n"
    (tmp_path / "a.arpa").write_text(text)
    model = NGram.read(tmp_path / "a.arpa")
    assert model.closed and model.score("b", eos=False) == pytest.approx(-100 * math.log(10))
    model.write(tmp_path / "b.arpa")
    assert NGram.read(tmp_path / "b.arpa").closed and "<unk>" not in (tmp_path / "b.arpa").read_text()


def test_what_other_programs_write(tmp_path: Path) -> None:
    """Words before the head, spaces for tabs, \\r\\n, exponents, rows in any order, <UNK>, no last line end."""
    text = (
        "made by a program\r\n\r\n\\data\\\r\nngram  1 = 4\r\nngram 2=1\r\n\r\n"
        "\\1-grams:\r\n-1e0  <UNK>\r\n-99 <s> -2.5E-1\r\n"
        "+0.0 </s>\r\n-.5 a -0\r\n\r\n\\2-grams:\r\n-0.25 <s> a\r\n\r\n\\end\\"
    )
    (tmp_path / "a.arpa").write_bytes(text.encode())
    model = NGram.read(tmp_path / "a.arpa")
    assert not model.closed and model.score("a zebra") / math.log(10) == pytest.approx(-0.25 - 1 + 0)


def test_a_file_cut_anywhere(tmp_path: Path, whole: str) -> None:
    data = whole.encode()
    for cut in [*range(0, len(data) - len("\\end\\\n"), 37), len(data) - 4]:
        fails(tmp_path, data[:cut])
    assert "cut short" in fails(tmp_path, data[: len(data) // 2])
    packed = gzip.compress(data)
    for cut in (1, 2, 9, len(packed) // 2, len(packed) - 3):
        fails(tmp_path, packed[:cut])


def test_what_is_wrong_is_said(tmp_path: Path, whole: str) -> None:
    assert "is not a language model" in fails(tmp_path, "hello\nworld\n")
    assert "is not a language model" in fails(tmp_path, b"")
    head, count = whole.split("\n")[2], int(whole.split("\n")[2].partition("=")[2])
    assert "promises" in fails(tmp_path, whole.replace(head, f"ngram 2={count + 1}"))
    assert "should stand here" in fails(tmp_path, whole.replace(head, f"ngram 2={count - 1}"))
    assert "promises" in fails(tmp_path, whole.replace(head, "ngram 2=99999999999"))
    assert "order 2 should stand here" in fails(tmp_path, whole.replace("ngram 2=", "ngram 3="))
    assert "\\2-grams: should stand here" in fails(tmp_path, whole.replace("\\2-grams:", "\\3-grams:"))
    assert "not UTF-8" in fails(tmp_path, whole.encode().replace("é".encode(), b"\xe9"))
    assert "not among the words" in fails(tmp_path, whole.replace("go on\t", "go in\t", 1))
    assert "no </s>" in fails(tmp_path, whole.replace("</s>", "end"))
    twice = whole.replace("\tstop\t", "\tgo\t", 1)
    assert "'go' twice" in fails(tmp_path, twice)


@pytest.mark.parametrize("number", ["nan", "-inf", "inf", "1.2.3", "--1", "x", "1e", "-", ".", "0x1", "1,5"])
def test_not_a_number(tmp_path: Path, whole: str, number: str) -> None:
    line = next(line for line in whole.split("\n") if line.endswith("go on") or "\tgo on\t" in line)
    said = fails(tmp_path, whole.replace(line, number + "\tgo on"))
    assert "not a number" in said and f"line {whole.split(chr(10)).index(line) + 1}" in said


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("0.5\tgo on", "a probability above 1"),
        ("-0.5\tgo", "a row of order 2"),
        ("-0.5\tgo on and on", "a row of order 2|not a number"),
        ("-0.5", "a row of order 2"),
        ("-0.5\tgo on\tx", "not a number"),
        ("-0.5\tgo on\t1e999", "probability above 1|weight|not a number"),
        ("", "promises"),
    ],
)
def test_wrong_rows(tmp_path: Path, whole: str, row: str, said: str) -> None:
    import re

    line = next(line for line in whole.split("\n") if line.endswith("go on") or "\tgo on\t" in line)
    assert re.search(said, fails(tmp_path, whole.replace(line, row)))


def test_an_entry_twice_and_a_weight_at_the_top(tmp_path: Path, whole: str) -> None:
    lines = whole.split("\n")
    place = lines.index("\\3-grams:") + 1
    same = [*lines[: place + 1], lines[place], *lines[place + 2 :]]
    assert "length 3 stands twice" in fails(tmp_path, "\n".join(same))
    lines[place] += "\t-0.5"
    assert "highest order" in fails(tmp_path, "\n".join(lines))


@settings(max_examples=200, deadline=None)
@given(st.floats(-1e30, 1e30) | st.integers(-(10**25), 10**25), st.sampled_from(["r", ".7g", ".17g", ".12f", ".3e"]))
def test_numbers(value: float, form: str) -> None:
    text = repr(value) if form == "r" else format(value, form)
    data = np.frombuffer(text.encode(), np.uint8)
    good, found = _number(data, 0, len(data))
    assert good and found == pytest.approx(float(text), rel=1e-14, abs=1e-280)
