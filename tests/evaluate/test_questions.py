"""Answers judged: exact match by kind, beside three that see no picture, by models whose answers are known."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from intermodal.core.captioning import Caption
from intermodal.data.questions import KINDS, UNSEEN, Question, QuestionSource
from intermodal.evaluate.questions import by_kind, evaluate_questions, words_shared
from intermodal.evaluate.result import Figure, Gallery, Table


class Knows:
    """Answers everything right that is in its book; "blue" where it does not see the picture."""

    def __init__(self, book):
        self.book, self.sees, self.asked = book, True, 0

    @contextmanager
    def sightless(self):
        self.sees = False
        yield
        self.sees = True

    def answer(self, chats, settings=None):
        del settings
        self.asked += len(chats)
        return [Caption(self.said(turn), 0.0, 1, True) for (turn,) in chats]

    def said(self, turn):
        if not turn.pictures:
            return UNSEEN
        return self.book[turn.pictures[0].tobytes(), turn.question] if self.sees else "blue"

    def looks_of(self, images):
        return [(image, ["a"], np.ones((1, 4))) for image in images], (2, 2)


@pytest.fixture(scope="module")
def judged():
    source = QuestionSource()
    opened = source.open("validation")
    book = {(opened.picture(q.index).tobytes(), q.text): q.answers[-1].upper() + "!" for q in opened.questions()}
    alone = SimpleNamespace(answer=lambda chats, settings=None: [Caption("yes", 0.0, 1, True) for _ in chats])
    return evaluate_questions(Knows(book), source, "validation", lambda *_: None, text_only=alone)


def test_each_figure_stands_beside_those_of_three_that_see_nothing(judged):
    metrics = judged.metrics
    assert next(iter(metrics)) == "exact" and metrics["exact"] == pytest.approx(1.0)
    for kind in KINDS:
        assert metrics[kind] == 1.0, "capital letters and signs do not count"
        others = [metrics[who + kind] for who in ("blind_", "text_", "frequent_")]
        assert metrics[f"chance_{kind}"] == max(others)
    assert metrics["blind_colour"] > 0 and metrics["text_word"] > 0.3 and metrics["frequent_unseen"] == 1
    assert metrics["blind_exact"] == pytest.approx(np.mean([metrics[f"blind_{kind}"] for kind in KINDS]))
    assert metrics["absent"] == 1.0, "without a picture nothing can be seen"
    assert metrics["name_words"] == 1.0 and metrics["pictures"] == 150


def test_the_report_shows_all_of_them_and_where_words_look(judged):
    table, gallery, figure = judged.panels
    assert isinstance(table, Table) and isinstance(gallery, Gallery) and isinstance(figure, Figure)
    assert [row[0] for row in table.rows] == [
        "with the picture",
        "the same, without",
        "learnt without",
        "most frequent answer",
    ]
    assert judged.headline.figure.startswith("100") and "learnt without" in judged.headline.sentence


def test_one_that_never_sees_is_judged_from_the_questions_alone():
    source = QuestionSource(shown=False)
    alone = Knows({})
    found = evaluate_questions(alone, source, "validation", lambda *_: None, full=False)
    assert found.metrics["unseen"] == 1 and found.metrics["group"] == 0
    assert not any(name.startswith(("blind_", "text_")) for name in found.metrics)
    assert "absent" not in found.metrics and alone.asked == found.metrics["questions"]


def test_words_that_names_share():
    assert words_shared("red heart", "a red apple") == pytest.approx(2 * 1 / 5)
    assert words_shared("", "red") == 0
    asked = [Question("name", 0, "?", ("red apple",)), Question("word", 0, "?", ("yes",))]
    assert by_kind(["Red pear", "yes"], asked) == {"exact": 0.5, "name": 0.0, "word": 1.0, "name_words": 0.5}
    described = [
        Question("caption", n, "?", (f"a {what} runs over the grass",)) for n, what in enumerate(("dog", "cat"))
    ]
    found = by_kind(["a dog runs over the grass", "a cat runs over the grass"], [*described])
    assert found["caption_cider"] > 5
