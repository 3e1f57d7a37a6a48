from __future__ import annotations

import numpy as np
import pytest

from intermodal.core.errors import DataError
from intermodal.data.emoji import EmojiSource, full_text


def test_no_base_concept_and_no_held_out_style_is_trained_on():
    source = EmojiSource(unit="picture")
    bases = {
        split: {row["base_concept"] for row in source.open(split).rows} for split in ("train", "validation", "test")
    }
    assert not bases["train"] & bases["test"]
    assert not bases["train"] & bases["validation"]
    assert not bases["validation"] & bases["test"]
    styles = {row["style"] for row in source.open("train").rows}
    assert {row["style"] for row in source.open("style").rows} == {"noto", "noto-v1"}
    assert not styles & {"noto", "noto-v1"}


def test_a_concept_is_one_sample_and_its_style_is_drawn_anew():
    source = EmojiSource(unit="concept").open("train")
    assert len(source) == len({row["concept"] for row in source.rows})
    index = next(i for i, rows in enumerate(source.concepts.values()) if len(rows) == 7)
    seen = {source.sample(index, np.random.default_rng(seed))["image"].tobytes() for seed in range(40)}
    assert len(seen) == 7
    first = [source.sample(index)["image"].tobytes() for _ in range(2)]
    assert first[0] == first[1]


def test_texts_are_parts_of_name_and_keywords_in_the_stated_shares():
    source = EmojiSource(single=0.5, part=0.3).open("train")
    row = next(i for i, r in enumerate(source.rows) if len(r["keywords"]) >= 4)
    name, keywords = source.rows[row]["name"], source.rows[row]["keywords"]
    full = full_text(name, keywords)
    texts = [source.text(row, np.random.default_rng(seed)) for seed in range(2000)]
    assert {w for t in texts for w in t.replace(",", "").split()} <= set(full.replace(",", "").split())
    assert 0.15 < np.mean([t == full for t in texts]) < 0.4
    assert 0.3 < np.mean(["," not in t for t in texts]) < 0.8
    assert source.text(row) == full


def test_full_text_does_not_repeat_the_name():
    assert full_text("cat", ["animal", "cat", "pet"]) == "cat, animal, pet"


def test_unknown_split():
    with pytest.raises(DataError, match="train, validation, test, style, unseen"):
        EmojiSource().open("dev")


def test_unseen_is_all_that_training_never_saw_of_concept_or_style():
    source = EmojiSource(unit="picture")
    unseen = source.open("unseen").rows
    assert all(row["concept_split"] == "test" or row["style_split"] == "test" for row in unseen)
    both = sum(row["concept_split"] == "test" and row["style_split"] == "test" for row in unseen)
    held_out_styles = sum(row["style_split"] == "test" for row in unseen)
    assert len(unseen) == len(source.open("test")) + held_out_styles
    assert 0 < both < held_out_styles
