from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intermodal.core.errors import DataError
from intermodal.data.tokenizers import BOS, EOS, train_bpe

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
