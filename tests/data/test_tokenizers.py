from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intermodal.core.errors import DataError
from intermodal.data.tokenizers import BOS, EOS, load_wordpiece, special_ids, train_bpe, train_wordpiece, train_words

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


SENTENCES = ["The unaffable café, re-opened.", "the cafés were affable and open", "Ω and ß are rare characters"] * 4


def test_wordpiece_is_the_same_each_time_and_knows_every_character():
    """Training twice gives the same ids; specials come first; lower case and accents fold; nothing is unknown."""
    first, second = (train_wordpiece(SENTENCES, 200) for _ in range(2))
    assert first.to_str() == second.to_str()
    assert [first.id_to_token(i) for i in range(5)] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert first.get_vocab_size() <= 200
    assert first.encode("CAFÉ").ids == first.encode("cafe").ids
    assert "[UNK]" not in first.encode(" ".join(SENTENCES)).tokens
    assert first.encode("the", "cafe").type_ids == [0] * (len(first.encode("the").ids)) + [1] * (
        len(first.encode("cafe").ids) - 1
    )
    assert first.decode(first.encode("the cafes were open").ids) == "the cafes were open"


def test_wordpiece_keeps_half_of_its_ids_for_pieces():
    """Of more characters than that the rarest are unknown."""
    texts = ["".join(chr(0x4E00 + i) for i in range(300)), "the the the cat"]
    tokenizer = train_wordpiece(texts, 100)
    assert tokenizer.get_vocab_size() <= 100
    assert "[UNK]" not in tokenizer.encode("the cat").tokens
    assert "[UNK]" in tokenizer.encode(texts[0]).tokens


def test_wordpiece_needs_text_and_room():
    with pytest.raises(DataError, match="no text"):
        train_wordpiece(["", "  \n"], 100)
    with pytest.raises(DataError, match="at least 9"):
        train_wordpiece(["text"], 8)


def test_a_vocabulary_file_is_read_line_by_line(tmp_path):
    """Also with the line ends of another system; a missing special token is named."""
    tokenizer = train_wordpiece(SENTENCES, 200)
    lines = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    path = tmp_path / "vocab.txt"
    for end in ("\n", "\r\n"):
        path.write_bytes(end.join([*lines, ""]).encode())
        assert load_wordpiece(path).encode(SENTENCES[0]).ids == tokenizer.encode(SENTENCES[0]).ids
    path.write_text("the\ncat\n")
    with pytest.raises(DataError, match=r"lacks \[PAD\], \[UNK\]"):
        load_wordpiece(path)
