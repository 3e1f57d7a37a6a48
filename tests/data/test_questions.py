"""Questions: answers that follow from what is known of a picture, held-out concepts, and their balance."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from intermodal.core.errors import ConfigError, DataError
from intermodal.data.emoji import EmojiSource
from intermodal.data.main_colour import main_colour
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
        elif question.kind == "colour":
            assert question.answers == (main_colour(test.picture(question.index)),)
        elif question.kind == "keyword":
            assert set(question.answers) == words[row] & set(test.known)
        else:
            forms = [re.escape(form).replace(r"\{\}", "(.+)") for form in ASKED[question.kind]]
            asked = next(found.groups() for form in forms if (found := re.fullmatch(form, question.text)))
            right = [word for word in asked if word in words[row]]
            assert question.answers == (tuple(right) if question.kind == "which" else ("yes" if right else "no",))
            assert len(asked) - len(right) == (1 if question.kind == "which" else question.answers == ("no",))


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


def test_of_two_words_neither_place_nor_frequency_says_which(opened):
    asked = [q for q in opened["train"].questions() if q.kind == "which"]
    right, places = Counter(), 0
    for question in asked:
        found = re.fullmatch("is it more about (.+) or (.+)[?]|which fits better, (.+) or (.+)[?]", question.text)
        words = [word for word in found.groups() if word]
        places += words[0] == question.answers[0]
        right.update({question.answers[0]: 1})
    assert 0.45 < places / len(asked) < 0.55
    assert max(right.values()) < 0.05 * len(asked), "flags are a fifth of the words that pictures have"


def test_some_training_chats_have_no_picture_and_then_nothing_can_be_seen(opened):
    train = opened["train"]
    chats = [train.sample(index, np.random.default_rng(index))["chat"] for index in range(1400)]
    bare = [chat for chat in chats if not chat[0].pictures]
    assert 0.02 < len(bare) / len(chats) < 0.06
    assert {turn.answer for chat in bare for turn in chat} == {UNSEEN}
    assert all(chat[0].pictures for index in range(40) for chat in [train.sample(index)["chat"]])


def test_the_same_questions_without_pictures_have_the_same_answers(opened):
    blind = QuestionSource(shown=False, absent=0.0).open("train")
    told = QuestionSource(absent=0.0).open("train")
    for index in range(50):
        with_it, without = (s.sample(index, np.random.default_rng(index))["chat"] for s in (told, blind))
        assert [(t.question, t.answer) for t in with_it] == [(t.question, t.answer) for t in without]
        assert not any(turn.pictures for turn in without)


def test_the_main_colour_is_that_of_most_pixels_and_else_there_is_none():
    drawn = Image.new("RGB", (20, 20), "white")
    assert main_colour(drawn) is None, "background alone"
    for name, colour in {
        "red": (220, 30, 30),
        "yellow": (250, 210, 40),
        "green": (40, 160, 60),
        "blue": (60, 130, 220),
        "purple": (140, 60, 200),
        "pink": (240, 80, 170),
        "brown": (120, 70, 40),
        "black": (10, 10, 12),
        "grey": (130, 132, 130),
        "orange": (250, 140, 20),
        "white": (235, 235, 235),
    }.items():
        drawn.paste(colour, (0, 0, 12, 20))
        assert main_colour(drawn) == name
    drawn.paste((220, 30, 30), (0, 0, 9, 20))
    drawn.paste((60, 130, 220), (9, 0, 18, 20))
    assert main_colour(drawn) is None, "two halves"


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
    with pytest.raises(ConfigError, match="found weight"):
        QuestionSource(kinds=("weight",))
    with pytest.raises(ConfigError, match="absent must be"):
        QuestionSource(absent=1.0)
    with pytest.raises(DataError, match="alone"):
        QuestionSource(of=EmojiSource(), kinds=("caption",)).open("train")
    with pytest.raises(DataError, match="nothing can be asked"):
        QuestionSource(of=TextSource(path=shipped_text(), unit="sentence")).open("train")
