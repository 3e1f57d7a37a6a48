"""Answers to questions about held-out pictures: exact match by kind of question, beside what is known without the picture.

Beside each figure stand ``blind_``, the same network that reads zeros in the place of the picture, and ``chance_``, the
answer that is most frequent for the kind of question in training.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from intermodal.core.captioning import Captioning
from intermodal.core.chat import Turn
from intermodal.core.progress import Progress
from intermodal.data.questions import Question, Questions, QuestionSource, most_frequent, plain
from intermodal.evaluate.encoding import Steps
from intermodal.evaluate.looking_picture import draw_looking
from intermodal.evaluate.result import Evaluation, Figure, Gallery, Headline, Item, Panel, Table, in_percent

if TYPE_CHECKING:
    from intermodal.methods.vision_language.llava import LLaVA

MOST, QUICK = 300, 40
"""Pictures, evenly spread, that are asked about."""
LENGTH = 24
"""Tokens of an answer at most."""
BATCH = 96
SHOWN, LOOKED = 8, 3
SEED = 11
WHO = {"": "with the picture", "blind_": "without", "chance_": "most frequent answer"}


def exact(answers: Sequence[str], questions: Sequence[Question]) -> list[bool]:
    """Return which answers are, word for word, one of those that are right."""
    return [plain(said) in {plain(a) for a in q.answers} for said, q in zip(answers, questions, strict=True)]


def by_kind(right: Sequence[bool], questions: Sequence[Question]) -> dict[str, float]:
    """Return the share of right answers of each kind of question, and under ``exact`` the mean over kinds.

    Descriptions are left out of both: hardly any is said word for word as somebody did.
    """
    found: dict[str, list[bool]] = {}
    for hit, question in zip(right, questions, strict=True):
        found.setdefault(question.kind, []).append(hit)
    shares = {kind: float(np.mean(hits)) for kind, hits in found.items() if kind != "caption"}
    return {"exact": float(np.mean([*shares.values()])), **shares}


def evaluate_questions(
    model: LLaVA, source: QuestionSource, split: str, progress: Progress, *, full: bool = True
) -> Evaluation:
    """Judge the answers to questions about pictures.

    Args:
        model: answers.
        source: of the questions.
        split: of it.
        progress: told what is done.
        full: up to 300 pictures, with panels; else 40, the figures alone.

    Raises:
        DataError: if the split is not there or empty.
    """
    start = time.monotonic()
    steps = Steps(progress, {"Answering": 5.0, "Answering without pictures": 5.0, "Drawing": 1.0})
    opened = source.open(split)
    count = min(len(opened), MOST if full else QUICK)
    kept = {i * len(opened) // count for i in range(count)}
    questions = [q for q in opened.questions() if q.index in kept]
    said = _answers(model, opened, questions, steps.of("Answering"))
    with model.sightless():
        blind = _answers(model, opened, questions, steps.of("Answering without pictures"))
    frequent = most_frequent(source.open("train").questions())
    common = [frequent.get(q.kind, "") for q in questions]
    metrics = by_kind(exact(said, questions), questions)
    for who, answers in (("blind_", blind), ("chance_", common)):
        metrics |= {who + name: value for name, value in by_kind(exact(answers, questions), questions).items()}
    metrics |= {"questions": float(len(questions)), "pictures": float(count)}
    if not full:
        return Evaluation(split, metrics, [], time.monotonic() - start)
    steps("Drawing")
    panels = _panels(model, opened, questions, said, blind, metrics)
    sentence = (
        f"of {len(questions):,} questions about {count} pictures that it was not trained on are answered word for word, the "
        f"mean over kinds. The same network reaches {in_percent(metrics['blind_exact'])} without the picture, the "
        f"most frequent answer of each kind {in_percent(metrics['chance_exact'])}."
    )
    return Evaluation(
        split, metrics, panels, time.monotonic() - start, Headline(in_percent(metrics["exact"]), sentence)
    )


def _answers(
    model: LLaVA, source: Questions, questions: Sequence[Question], report: Callable[[float], None]
) -> list[str]:
    said: list[str] = []
    for first in range(0, len(questions), BATCH):
        part = questions[first : first + BATCH]
        shown = {q.index: source.picture(q.index) for q in part}
        chats = [[Turn(q.text, None, (shown[q.index],))] for q in part]
        said += [answer.text for answer in model.answer(chats, Captioning(most=LENGTH))]
        report(len(said) / len(questions))
    return said


def _panels(  # noqa: PLR0917 - one call, from above
    model: LLaVA,
    source: Questions,
    questions: Sequence[Question],
    said: Sequence[str],
    blind: Sequence[str],
    metrics: dict[str, float],
) -> list[Panel]:
    names = [name for name in metrics if f"chance_{name}" in metrics]
    rows: list[list[str | float | None]] = [
        [text, *(metrics[who + name] for name in names)] for who, text in WHO.items()
    ]
    about = (
        f"Share of answers that are right word for word, of {len(questions):,} questions; exact: the mean over kinds."
    )
    right = exact(said, questions)
    chosen = sorted({q.index for q in questions})
    chosen = [int(i) for i in np.random.default_rng(SEED).permutation(chosen)[:SHOWN]]
    gallery = []
    for index in chosen:
        items = [
            Item(text=f"{q.text} {answer or '(nothing)'}", good=hit, note=f"right: {q.answers[0]}; without it: {other}")
            for q, answer, other, hit in zip(questions, said, blind, right, strict=True)
            if q.index == index
        ]
        gallery.append((Item(image=source.picture(index)), items))
    panels: list[Panel] = [
        Table("Questions", about, ["", *names], rows, emphasis=0),
        Gallery("Questions and answers", "Pictures drawn at random; every question about each.", gallery),
    ]
    rows_looked, grid = model.looks_of([source.picture(i) for i in chosen[:LOOKED]])
    drawn = [row for row in rows_looked if row[1]]
    if drawn:
        said_of = (
            "Each word of what it says a picture is, and the places that it looked at more than the other words did."
        )
        panels.append(Figure("Where words look", said_of, draw_looking(drawn, grid), said_of))
    return panels
