"""Questions: answers that follow from what is known of a picture, held-out concepts, and their balance."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from intermodal.core.errors import ConfigError, DataError
from intermodal.data.emoji import EmojiSource
from intermodal.data.questions import ASKED, FEW, KINDS, UNSEEN, QuestionSource, most_frequent, plain, words_of
from intermodal.data.text import TextSource
from intermodal.recipes.word2vec import shipped_text


@pytest.fixture(scope="module")
def opened():
    source = QuestionSource()
    return {split: source.open(split) for split in ("train", "test")}


def test_answers_are_those_of_the_set(opened):
    test = opened["test"]
    words = words_of(test.pictures)
    for question in test.questions():
        rows = list(test.pictures.concepts.values())[question.index]
        row = rows[question.index % len(rows)]
        facts = test.pictures.rows[row]
        wanted = {"name": "name", "kind": "subgroup", "group": "group", "style": "style"}
        if question.kind in wanted:
            assert question.answers == (plain(facts[wanted[question.kind]]),)
        elif question.kind == "unseen":
            assert question.answers == (UNSEEN,)
        else:
            word = next(
                question.text[len(a.split("{")[0]) : -1] for a in ASKED["word"] if question.text.startswith(a[:5])
            )
            assert (question.answers == ("yes",)) == (word in words[row])


def test_held_out_concepts_are_not_asked_about_in_training(opened):
    train, test = (set(opened[split].pictures.concepts) for split in ("train", "test"))
    assert not train & test and len(test) == 300
    assert {q.index for q in opened["test"].questions()} == set(range(300))


def test_a_word_alone_says_little_about_the_answer(opened):
    yes, asked = Counter(), Counter()
    for index in range(1000):
        for turn in opened["train"].sample(index, np.random.default_rng(index))["chat"]:
            if turn.answer in ("yes", "no"):
                asked[turn.answer] += 1
                yes[turn.question] += turn.answer == "yes"
    assert 0.45 < asked["yes"] / asked.total() < 0.55


def test_words_are_of_so_many_training_concepts(opened):
    train = opened["train"]
    words = words_of(train.pictures)
    for word in sorted(train.known)[:10]:
        assert sum(any(word in words[row] for row in rows) for rows in train.pictures.concepts.values()) >= FEW


def test_a_chat_shows_its_picture_once_and_depends_on_its_generator_alone(opened):
    train = opened["train"]
    one, same = (train.sample(3, np.random.default_rng(5)) for _ in range(2))
    assert [(t.question, t.answer) for t in one["chat"]] == [(t.question, t.answer) for t in same["chat"]]
    assert [len(turn.pictures) for turn in one["chat"]] == [1, 0, 0]
    assert [len(turn.pictures) for turn in train.sample(3)["chat"]][:1] == [1]
    assert UNSEEN in most_frequent(train.questions()).values()
    assert set(most_frequent(train.questions())) == set(KINDS)


def test_what_cannot_be_asked_about_is_refused():
    with pytest.raises(ConfigError, match="found colour"):
        QuestionSource(kinds=("colour",))
    with pytest.raises(DataError, match="alone"):
        QuestionSource(of=EmojiSource(), kinds=("caption",)).open("train")
    with pytest.raises(DataError, match="nothing can be asked"):
        QuestionSource(of=TextSource(path=shipped_text(), unit="sentence")).open("train")
