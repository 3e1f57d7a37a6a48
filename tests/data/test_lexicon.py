"""Pronunciation dictionaries: variants, comments, missing words, what stands in where there is none."""

from __future__ import annotations

import os

import pytest

from intermodal.core.errors import ConfigError, DataError
from intermodal.data.catalog import find
from intermodal.data.lexicon import Lexicon, WordProcessor, read_words

CMU = """;;; a comment
A  AH0
A(2)  EY1
AND\tAE N D
AND(2)  AH0 N D
AND(3)  AH1 N D
<sil>  SIL
"""


@pytest.fixture
def dictionary(tmp_path):
    path = tmp_path / "words.dic"
    path.write_text(CMU, encoding="utf-8")
    return path


def test_variants_stand_together_and_stress_is_left_off(dictionary):
    lexicon = Lexicon.read(dictionary)
    assert lexicon.words == ("A", "AND")
    assert lexicon.pronunciations("A") == (("AH",), ("EY",))
    assert lexicon.pronunciations("AND") == (("AE", "N", "D"), ("AH", "N", "D"))  # the third differs in stress alone
    assert lexicon.phones == ("AE", "AH", "D", "EY", "N")


def test_all_missing_words_are_named_in_one_error(dictionary):
    lexicon = Lexicon.read(dictionary)
    with pytest.raises(DataError, match=r"^3 words are not in the lexicon: ONE, TWO, THREE\."):
        lexicon.split("and one two three one")
    with pytest.raises(DataError, match=r"1 word is not in the lexicon: X\."):
        lexicon.check(["A", "A X"])
    many = " ".join(f"W{i}" for i in range(50))
    with pytest.raises(DataError, match="W19 and 30 more"):
        lexicon.split(many)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"A\n", "line 1: the word 'A' has no phones"),
        (b"A AH\nB SIL\n", "line 2: SIL is the silence"),
        (b";;; nothing\n\n", "holds no word"),
        (b"\xff\xfe\x00A", "no text in UTF-8"),
    ],
)
def test_what_is_no_dictionary_is_refused(tmp_path, content, what):
    (tmp_path / "x.dic").write_bytes(content)
    with pytest.raises(DataError, match=what):
        Lexicon.read(tmp_path / "x.dic")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nothing\.dic cannot be read"):
        Lexicon.read(tmp_path / "nothing.dic")


def test_letters_stand_for_phones():
    lexicon = Lexicon.spelling(["go", "no", "go on"])
    assert lexicon.words == ("GO", "NO", "ON")
    assert lexicon.pronunciations("NO") == (("N", "O"),)
    with pytest.raises(DataError, match="no words"):
        Lexicon.spelling([" "])


def test_whole_words_share_no_unit():
    lexicon = Lexicon.whole_words(["one", "two"], 2, "lower")
    assert lexicon.phones == ("one.1", "one.2", "two.1", "two.2")
    with pytest.raises(ConfigError, match="at least one unit"):
        Lexicon.whole_words(["one"], 0)


def test_a_part_of_a_lexicon(dictionary):
    part = Lexicon.read(dictionary).only(["a"])
    assert part.words == ("A",) and len(part.pronunciations("A")) == 2
    with pytest.raises(DataError, match="BUT"):
        part.only(["but"])


@pytest.mark.parametrize("entries", [(), (("A B", "x"),), (("A", " "),), (("A", "x SIL"),)])
def test_impossible_entries_are_refused(entries):
    with pytest.raises(ConfigError):
        Lexicon(entries=entries)


def test_words_as_numbers_there_and_back(dictionary, tmp_path):
    processor = WordProcessor(lexicon=Lexicon.read(dictionary))
    assert processor.encode("and a AND").tolist() == [1, 0, 1]
    assert processor.decode([1, 0]) == "AND A"
    assert WordProcessor.from_folder(processor.to_folder(tmp_path), tmp_path) == processor


def test_lists_of_words(dictionary, tmp_path):
    assert read_words(dictionary) == ("A", "AND", "<SIL>")
    (tmp_path / "list.txt").write_text("one\ntwo\n\none\n", encoding="utf-8")
    assert read_words(tmp_path / "list.txt", "lower") == ("one", "two")


@pytest.mark.skipif("INTERMODAL_DATA" not in os.environ, reason="AN4's dictionary is in INTERMODAL_DATA")
def test_an4_has_its_dictionary():
    lexicon = Lexicon.read(find("an4-lexicon"))
    assert len(lexicon.entries) == 130 and len(lexicon.phones) == 33
    assert lexicon.pronunciations("A") == (("AH",), ("EY",))
