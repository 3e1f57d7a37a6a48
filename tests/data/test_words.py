"""The rule by which text is cut into words, the vocabulary, and the compiled counting and numbering."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intermodal.core.errors import CheckpointError, ConfigError, DataError
from intermodal.data import words
from intermodal.data.processors import Processor
from intermodal.data.words import PAD, Vocabulary, count_words, split_words, write_corpus

pytest.importorskip("numba")
from intermodal.data.word_kernels import WordTable

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=80) | st.text("aB é-'\n\t.3ßΣ", max_size=60)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Don't panic!", ["don", "t", "panic"]),
        ("co-operate, 42 x2y", ["co", "operate", "x", "y"]),
        ("Ünïcode naïve—façade", ["ünïcode", "naïve", "façade"]),
        ("cafe\u0301 au lait", ["cafe\u0301", "au", "lait"]),  # an accent of its own is a mark
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("ΟΔΟΣ", ["οδος"]),
        ("snake_case\u00a0x", ["snake", "case", "x"]),
        ("\ufeff123 … №", []),
    ],
)
def test_the_rule(text, found):
    assert split_words(text) == found


@given(st.lists(TEXT, max_size=5))
@settings(deadline=None, max_examples=100)
def test_compiled_counting_is_the_rule(pieces):
    assert count_words(pieces) == Counter(w for piece in pieces for w in split_words(piece))


def test_without_numba_the_counts_are_the_same(monkeypatch):
    pieces = ["The cat sat. Thé cat", "a mat\n\nthe END"]
    fast = count_words(pieces)
    monkeypatch.setattr(words, "compiled", lambda: False)
    assert count_words(pieces) == fast and fast["cat"] == 2


def test_the_table_grows_and_keeps_every_word():
    rng = random.Random(0)
    pool = ["".join(rng.choices("abcdefgh", k=rng.randint(1, 9))) for _ in range(60_000)]
    text = " ".join(pool)
    table = WordTable()
    for start in range(0, len(text), 1 << 16):
        cut = text[start : start + (1 << 16)]
        table.count(cut.encode())  # cuts a word now and then: the reference is cut alike
    expected = Counter(w for s in range(0, len(text), 1 << 16) for w in split_words(text[s : s + (1 << 16)]))
    assert Counter(dict(table.items())) == expected and len(table) == len(expected) > 1 << 15


@given(TEXT, st.sampled_from(["line", "paragraph", "document"]))
@settings(deadline=None, max_examples=100)
def test_numbering_is_the_rule_and_breaks_where_it_should(tmp_path_factory, text, unit):
    vocabulary = Vocabulary(["a", "b", "é", "x"], [4, 3, 2, 1], total=10)
    path = tmp_path_factory.mktemp("corpus") / "words"
    length = write_corpus([text], vocabulary, path, break_at=unit, said=lambda _: None)
    ids = np.fromfile(path, np.int32)
    assert len(ids) == length
    assert ids[ids >= 0].tolist() == vocabulary.numbers(text)
    lines = text.split("\n")
    if unit == "line":
        parts = lines
    elif unit == "document":
        parts = [text]
    else:
        parts, current = [], []
        for line in lines:
            if any(c not in "".join(map(chr, range(33))) for c in line):
                current.append(line)
            else:
                parts.append("\n".join(current))
                current = []
        parts.append("\n".join(current))
    expected = [[*known, -1] for part in parts if (known := vocabulary.numbers(part))]
    assert ids.tolist() == [i for known in expected for i in known]


def test_the_last_piece_ends_a_window():
    vocabulary = Vocabulary(["a", "b"], [2, 1], total=3)
    table = WordTable.of(vocabulary.words)
    assert table.encode(b"a b c a", 2).tolist() == [0, 1, 0, -1]
    assert table.encode(b"", 2).tolist() == [] == table.encode(b"c\n\n\nd", 2).tolist()


def test_a_vocabulary_counts_and_orders():
    found = Vocabulary.of(["b a b c", " a b d"], min_count=2)
    assert found.words == ("b", "a") and found.counts.tolist() == [3, 2] and found.total == 7
    assert Vocabulary.of(["b a c"]).words == ("a", "b", "c"), "equal counts by the alphabet"
    assert Vocabulary.of(["b a b c c c"], max_words=2).words == ("c", "b")
    encoded = Vocabulary(found.words, found.counts, total=7, context_length=4).encode("A b Q a a a")
    assert encoded.dtype == torch.int64 and encoded.tolist() == [1, 0, 1, 1]
    assert found.encode("nothing known").tolist() == [PAD] * 256
    assert Vocabulary(["Paris", "PARIS", "x"], [3, 2, 1], total=6).numbers("x paris Paris") == [2, 0, 0]


@pytest.mark.parametrize(
    ("pieces", "min_count", "said"),
    [
        ([], 1, "holds no words"),
        (["1 2 3 …"], 1, "holds no words"),
        (["word word word"], 1, "1 different words"),
        (["a b c d"], 5, "0 occur at least 5 times"),
    ],
)
def test_texts_that_give_no_vocabulary(pieces, min_count, said):
    with pytest.raises(DataError, match=said):
        Vocabulary.of(pieces, min_count=min_count, name="my.txt")


def test_settings_out_of_range():
    with pytest.raises(ConfigError, match="min_count"):
        Vocabulary.of(["a b"], min_count=0)
    for bad in ([2, 3], [1], [0, 0], [-1, -2]):
        with pytest.raises(DataError):
            Vocabulary(["a", "b"], bad, total=5)
    with pytest.raises(DataError, match="'a' stands twice"):
        Vocabulary(["a", "b", "a"], [3, 2, 1], total=6)
    with pytest.raises(DataError, match="another rule"):
        WordTable.of(["don't", "b"])


def test_saved_and_restored(tmp_path: Path):
    before = Vocabulary(["the", "naïve", "x"], [9, 2, 2], total=20, context_length=7)
    data = before.to_folder(tmp_path)
    assert Processor.from_folder(data, tmp_path) == before
    for text in ("the nine\n", "the 9\nthe 2\n", "the 2\nx 9\n", "\n"):
        (tmp_path / "vocabulary.txt").write_text(text, encoding="utf-8")
        with pytest.raises(CheckpointError, match="damaged"):
            Processor.from_folder(data, tmp_path)
    (tmp_path / "vocabulary.txt").unlink()
    with pytest.raises(CheckpointError, match="missing"):
        Processor.from_folder(data, tmp_path)


MEASURE = """
import sys
from pathlib import Path
from intermodal.data.text import TextSource
from intermodal.data.words import Vocabulary, write_corpus
source = TextSource(path=Path(sys.argv[1]), unit="paragraph")
vocabulary = Vocabulary.of(source.stream("train"))
write_corpus(source.stream("train"), vocabulary, Path(sys.argv[1] + ".ids"), break_at="paragraph", said=lambda _: None)
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
print(vocabulary.total, status["RssAnon"].split()[0], status["VmHWM"].split()[0])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_memory_does_not_grow_with_the_file(tmp_path: Path):
    rng = random.Random(0)
    pool = ["".join(rng.choices("abcdefgh", k=5)) for _ in range(5000)]
    block = "\n\n".join(" ".join(rng.choices(pool, k=50)) for _ in range(4000))  # 1.2 MB
    found = []
    for copies in (2, 24):
        path = tmp_path / f"{copies}.txt"
        path.write_text("\n\n".join([block] * copies))
        done = subprocess.run([sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True)
        found.append([int(value) for value in done.stdout.split()])
    assert found[1][0] > 11 * found[0][0]
    grown = (found[1][1] - found[0][1]) / 1024
    assert grown < 6, f"the text grew by 26 MB, the memory by {grown:.0f} MB"
