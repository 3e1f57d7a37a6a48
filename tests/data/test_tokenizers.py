from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intermodal.core.errors import DataError
from intermodal.data.tokenizers import BOS, EOS, special_ids, train_bpe, train_words

TEXTS = ["a red square", "a blue square", "a red circle"] * 5
TOKENIZER = train_bpe(TEXTS, 290)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=40).filter(lambda t: "<|" not in t))
def test_every_text_comes_back(text):
    ids = TOKENIZER.encode(text).ids
    assert (ids[0], ids[-1]) == (TOKENIZER.token_to_id(BOS), TOKENIZER.token_to_id(EOS))
    assert TOKENIZER.decode(ids).removeprefix(" ") == text.removeprefix(" ")


def test_training_is_reproducible_and_learns_frequent_words():
    assert train_bpe(TEXTS, 290).to_str() == TOKENIZER.to_str()
    assert len(TOKENIZER.encode("a square").ids) < len("a square")
    assert TOKENIZER.get_vocab_size() <= 290


def test_vocabulary_stops_where_no_pair_is_frequent():
    assert train_bpe(["ab"], 5000).get_vocab_size() == 258


def test_bad_input():
    with pytest.raises(DataError, match="at least 258"):
        train_bpe(TEXTS, 257)
    with pytest.raises(DataError, match="no text"):
        train_bpe(["", "  "], 300)


def test_words_are_kept_whole_and_unknown_ones_left_out():
    tokenizer = train_words(["a red square, don't", "a cold drink"], 100)
    encoding = tokenizer.encode("a giraffe, cold; don't redden a-b!")
    assert encoding.tokens == [BOS, "▁a", "▁cold", "▁don't", EOS]
    assert tokenizer.encode("zebra").tokens == [BOS, EOS]
    assert special_ids(tokenizer) == (encoding.ids[0], encoding.ids[-1])
    again = type(tokenizer).from_str(tokenizer.to_str())
    assert again.encode("a cold square").ids == tokenizer.encode("a cold square").ids


def test_the_most_frequent_words_are_kept():
    tokenizer = train_words(["b a a", "c a b"], 4)
    assert tokenizer.get_vocab().keys() == {BOS, EOS, "▁a", "▁b"}
    with pytest.raises(DataError, match="no word"):
        train_words([" ", "!?"], 100)
