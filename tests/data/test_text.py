from __future__ import annotations

import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intermodal.core.errors import DataError
from intermodal.data.named import source_named
from intermodal.data.text import PIECE, TextSource

PROSE = """Mr. Hale went out. "Why?" asked J. Smith.  He said: no (never!).

A second paragraph\nruns over lines. It costs 3.5 pounds, i.e. little. end"""


def units(tmp_path, text: str, unit: str, split: str = "train", **options) -> list[str]:
    path = tmp_path / "a.txt"
    path.write_text(text, encoding="utf-8")
    return TextSource(path=path, unit=unit, validation_share=0.001, **options).open(split).texts()


def test_sentences_end_at_marks_before_capitals_and_at_empty_lines(tmp_path):
    found = units(tmp_path, PROSE + " tail " * 200, "sentence")
    assert found[:4] == [
        "Mr. Hale went out.",
        '"Why?" asked J. Smith.',
        "He said: no (never!).",
        "A second paragraph runs over lines.",
    ]
    assert found[4].startswith("It costs 3.5 pounds, i.e. little. end tail")


def test_paragraphs_lines_and_whole_documents(tmp_path):
    assert len(units(tmp_path, PROSE + " tail" * 200, "paragraph")) == 2
    assert units(tmp_path, "one\ntwo\r\n\nthree\nlast words", "line") == ["one", "two", "three", "last words"]
    assert units(tmp_path, "one\ntwo", "document") == ["one two"]


def test_short_units_are_left_out(tmp_path):
    assert units(tmp_path, "one\ntwo words\nand three words\nend of it here", "line", min_words=3)[:1] == [
        "and three words"
    ]


def folder(tmp_path, count: int):
    for i in range(count):
        (tmp_path / f"{i}.txt").write_text(f"Document {i} begins. It has two sentences.")
    return tmp_path


def test_whole_documents_are_held_out_and_keep_their_side(tmp_path):
    source = TextSource(path=folder(tmp_path, 40), unit="document")
    train, held = (set(source.open(s).texts()) for s in ("train", "validation"))
    assert not train & held and len(train | held) == 40 and 1 <= len(held) <= 12
    (tmp_path / "extra.txt").write_text("One more document. It comes later.")
    assert held <= set(source.open("validation").texts())
    assert source.open("test").texts() == source.open("validation").texts()


def test_of_few_documents_the_end_is_held_out(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("\n".join(f"line number {i}" for i in range(1000)))
    source = TextSource(path=path, unit="line", validation_share=0.2)
    train, held = source.open("train").texts(), source.open("validation").texts()
    assert train[0] == "line number 0" and held[-1] == "line number 999"
    assert len(train) + len(held) in (1000, 1001) and 190 <= len(held) <= 210


def test_documents_say_which_units_follow_one_another(tmp_path):
    texts = TextSource(path=folder(tmp_path, 12), unit="sentence", validation_share=0.01).open("train")
    assert sum(map(len, texts.documents)) == len(texts)
    for span in texts.documents:
        assert [texts.text(i).split()[0] for i in span] == ["Document", "It"]


def test_a_stream_holds_all_words_in_pieces_of_bounded_size(tmp_path):
    path = tmp_path / "a.txt"
    words = [f"wörd{i}" for i in range(400_000)]
    path.write_text(" ".join(words), encoding="utf-8")
    source = TextSource(path=path)
    pieces = [list(source.stream(s)) for s in ("train", "validation")]
    assert [w for part in pieces for p in part for w in p.split()] == words
    assert max(len(p.encode()) for part in pieces for p in part) < PIECE + 100
    assert len(pieces[0]) > 3


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1, max_size=30))
def test_any_unicode_survives(tmp_path_factory, words):
    path = tmp_path_factory.mktemp("t") / "a.txt"
    text = " ".join(words)
    path.write_bytes(text.encode("utf-8"))
    source = TextSource(path=path, validation_share=0.5)
    read = ""
    for split in ("train", "validation"):
        try:
            read += "".join(source.stream(split))
        except DataError as error:
            assert "nothing to read" in str(error)
    assert read.split() == text.removeprefix("\ufeff").split()


def test_a_picklable_source_reads_the_same(tmp_path):
    texts = TextSource(path=folder(tmp_path, 12)).open("train")
    assert pickle.loads(pickle.dumps(texts)).texts() == texts.texts()


def test_parquet_rows_are_documents_and_parts_choose_among_them(tmp_path):
    path = tmp_path / "t.parquet"
    rows = {"text": [f"Row {i} text." for i in range(30)], "source": ["a", "b"] * 15}
    pq.write_table(pa.table(rows), path)
    some = TextSource(path=path, parts=("b",), unit="document")
    both = some.open("train").texts() + some.open("validation").texts()
    assert sorted(both) == sorted(rows["text"][1::2])
    with pytest.raises(DataError, match="no part 'c'; it has a, b"):
        some.replace(parts=("c",)).open("train")
    with pytest.raises(DataError, match="no column 'words'; it has text, source"):
        some.replace(text_column="words").open("train")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"  \n \n", "holds no sentence"),
        ("caf\xe9 au lait and more words".encode("latin1"), "not UTF-8: byte 3 is 0xe9"),
        ("some words".encode("utf-16"), "looks like UTF-16"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0d", "not UTF-8"),
    ],
)
def test_bad_text_is_refused_in_one_sentence(tmp_path, content, said):
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=said):
        TextSource(path=path).open("train")
    with pytest.raises(DataError):
        list(TextSource(path=path).stream("train"))


def test_missing_places_are_named(tmp_path):
    with pytest.raises(DataError, match="no file or folder"):
        TextSource(path=tmp_path / "none.txt").open("train")
    with pytest.raises(DataError, match=r"holds no \.txt file"):
        TextSource(path=tmp_path).open("train")
    damaged = tmp_path / "d.parquet"
    damaged.write_bytes(b"PAR1 cut short")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        TextSource(path=damaged).open("train")


def test_a_person_names_text_by_its_file(tmp_path):
    (tmp_path / "a.txt").write_text("Words.")
    assert source_named(str(tmp_path / "a.txt")) == TextSource(path=tmp_path / "a.txt")
    assert source_named(str(tmp_path)) == TextSource(path=tmp_path)
    assert source_named("text-15m") == TextSource()
    (tmp_path / "a.png").write_bytes(b"")  # a picture beside it: the text is its caption
    assert not isinstance(source_named(str(tmp_path)), TextSource)
