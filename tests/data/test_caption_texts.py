"""Texts without pictures: distinct, under two names, of any source that has some."""

from __future__ import annotations

import pytest

from intermodal.core.errors import DataError
from intermodal.data.caption_texts import CaptionTextSource
from intermodal.data.emoji import EmojiSource
from intermodal.data.pictures import PictureSource
from intermodal.data.text import TextSource


def test_each_text_is_there_once_under_both_names(tmp_path):
    (tmp_path / "a.txt").write_text(
        "One.\n\nTwo.\n\nOne.\n\nThree.\n\nOne.\n\nTwo.\n\nFour.\n\nFive.\n\nSix.\n\nSeven.\n"
    )
    source = CaptionTextSource(of=TextSource(path=tmp_path / "a.txt", unit="paragraph"))
    opened = source.open("train")
    texts = opened.texts()
    assert texts[:3] == ["One.", "Two.", "Three."] and len(texts) == len(set(texts)) == len(opened)
    assert opened.sample(1) == {"text": "Two.", "read": "Two."}
    assert source.training_texts().count("One.") == 3


def test_the_emoji_set_gives_one_text_a_concept_and_held_out_ones_apart():
    pictures = EmojiSource(unit="concept")
    source = CaptionTextSource(of=pictures)
    train, test = set(source.open("train").texts()), set(source.open("test").texts())
    assert len(train) > 1000 and len(test) > 100
    assert len(train & test) < 0.02 * len(test)


def test_pictures_without_texts_are_refused(tmp_path):
    from PIL import Image

    for i in range(8):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / f"{i}.png")
    with pytest.raises(DataError, match="no texts"):
        CaptionTextSource(of=PictureSource(path=tmp_path)).open("train")
