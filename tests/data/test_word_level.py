"""The tokenizer of whole words that language models use."""

from __future__ import annotations

import pytest

from intermodal.core.errors import DataError
from intermodal.data.processors import Processor, TextProcessor
from intermodal.data.tokenizers import BOS, EOS, UNKNOWN, special_ids, train_word_level

TEXTS = ["the cat's hat , the hat .", "naïve café, the cat's!", "a hat"]


def test_every_word_and_mark_is_a_token_and_the_rare_are_unknown():
    tokenizer = train_word_level(TEXTS, 7)
    assert tokenizer.get_vocab_size() == 7
    assert [tokenizer.id_to_token(i) for i in range(3)] == [BOS, EOS, UNKNOWN]
    assert tokenizer.encode("the cat's, zebra hat").tokens == [BOS, "the", "cat's", ",", UNKNOWN, "hat", EOS]
    assert tokenizer.encode("").tokens == [BOS, EOS]


def test_words_in_other_scripts_and_marks_alone():
    tokenizer = train_word_level(["naïve café ... 東京 !", "café 東京"], 20)
    assert tokenizer.encode("café 東京...").tokens == [BOS, "café", "東京", ".", ".", ".", EOS]


def test_it_travels_with_a_checkpoint(tmp_path):
    tokenizer = train_word_level(TEXTS, 20)
    pad, eos = special_ids(tokenizer)
    text = TextProcessor(tokenizer, context_length=8, eos_id=eos, pad_id=pad)
    again = Processor.from_folder(text.to_folder(tmp_path), tmp_path)
    assert again == text
    assert text.decode(text(["the hat."])) == ["the hat ."]


@pytest.mark.parametrize(("texts", "words"), [([], "no word"), (["  "], "no word"), (["yes yes", "yes"], "only 'yes'")])
def test_nothing_to_predict_is_a_sentence(texts, words):
    with pytest.raises(DataError, match=words):
        train_word_level(texts, 10)
