"""Definitions of two dictionaries: what is read of each, what is left out, and the split by words."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from intermodal.core.errors import DataError
from intermodal.data.glosses import GlossSource

WORDNET = """
auric
    adj 1: of or relating to or containing or derived from gold
           [syn: {auric}, {aurous}]
bank
    n 1: sloping land beside a body of water; "they pulled the canoe
         up on the bank" [syn: {bank}]
    2: a financial institution that accepts deposits
    v 1: tip laterally to one side in the air
circular word
    n 1: a circular word that holds itself in full
davit
    n 1: a crane-like device that holds a boat over a ship's side
short
    n 1: too short
"""
GCIDE = """
Auric  Au"ric , a.  L. aurum gold.
   1. Of or pertaining to gold.
      1913 Webster

   2. (Chem.) Pertaining to compounds of gold.
      1913 Webster

Bank  Bank (b a^ ng k), n.  OE. banke; akin to E. bench.
   1. A mound or pile of earth raised above the level. "They
      cast up a bank." --2 Sam. xx. 15.
      1913 Webster

Bank  Bank, v. t.
   To raise a mound or dike about; to inclose and defend.
   1913 Webster

davit  Dav"it , n.
   A spar used on board of ships as a crane, to hoist the flukes
   of the anchor.
   WordNet 1.5

Davit  Dav"it , n.  (Naut.)
   (a) A spar used on board of ships as a crane, to hoist the
       flukes of the anchor -- called also fish davits.
       1913 Webster

Short  Short , n.
   A summary account of a matter or affair.
   1913 Webster

circular word  cir"cu*lar word , n.
   A word of which the parts go round and round again.
   1913 Webster
"""


@pytest.fixture
def dictionaries(tmp_path):
    def write(wordnet=WORDNET, gcide=GCIDE):
        path = tmp_path / "text.parquet"
        pq.write_table(pa.table({"source": ["wordnet", "gcide"], "text": [wordnet, gcide]}), path)
        return path

    return write


def test_first_senses_of_the_same_part_of_speech_are_paired(dictionaries):
    """Synonyms, examples, etymologies, quotations and marks are gone; "WordNet 1.5" entries are not Webster's."""
    source = GlossSource(path=dictionaries(), validation_share=0.3)
    found = {}
    for split in ("train", "validation"):
        opened = source.open(split)
        found |= {(w, i): p for i, (w, p) in enumerate(zip(opened.words, opened.pairs, strict=True))}
    by_word = {}
    for (word, _), pair in found.items():
        by_word.setdefault(word, []).append(pair)
    assert sorted(by_word) == ["auric", "bank", "davit"]
    assert by_word["auric"] == [("of or relating to or containing or derived from gold", "Of or pertaining to gold")]
    assert sorted(by_word["bank"]) == [
        ("sloping land beside a body of water", "A mound or pile of earth raised above the level"),
        ("tip laterally to one side in the air", "To raise a mound or dike about; to inclose and defend"),
    ]
    ((_, davit),) = by_word["davit"]
    assert davit == "A spar used on board of ships as a crane, to hoist the flukes of the anchor"


def test_a_word_is_on_one_side_and_both_forms_hold_the_same_texts(dictionaries):
    """Both parts of speech of a word are held out together; unpaired samples are the same definitions."""
    path = dictionaries()
    sides = {}
    for split in ("train", "validation"):
        paired = GlossSource(path=path, validation_share=0.3).open(split)
        alone = GlossSource(path=path, validation_share=0.3, paired=False).open(split)
        assert set(alone.fields) == {"text"}
        assert set(paired.fields) == {"text", "positive"}
        assert [alone.sample(i)["text"] for i in range(len(alone))] == paired.texts()
        assert [t for i in range(len(paired)) for t in paired.sample(i).values()] == paired.texts()
        sides[split] = set(paired.words)
    assert not sides["train"] & sides["validation"]


def test_dictionaries_without_common_words_are_an_error(dictionaries):
    with pytest.raises(DataError, match="no two words in common"):
        GlossSource(path=dictionaries(gcide="nothing here")).open("train")
