"""Answers to questions about held-out pictures: exact match by kind of question, beside what is known without the picture.

Beside each figure stand, under its name with a prefix, those of three that see no picture: ``blind_``, the same network that
reads zeros in the place of the picture; ``text_``, another network of the same make that learnt the same answers from the
questions alone, where there is one; and ``frequent_``, the most frequent answer to that kind of question in training.
``chance_`` is the best of them: to see is worth what lies above it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from intermodal.core.captioning import Captioning
from intermodal.core.chat import Turn
from intermodal.core.progress import Progress
from intermodal.data.questions import UNSEEN, Question, Questions, QuestionSource, most_frequent, plain
from intermodal.evaluate.encoding import Steps
from intermodal.evaluate.looking_picture import draw_looking
from intermodal.evaluate.result import Evaluation, Figure, Gallery, Headline, Item, Panel, Table, in_percent
from intermodal.metrics.captions import cider_d

if TYPE_CHECKING:
    from intermodal.methods.vision_language.llava import LLaVA

MOST, QUICK = 300, 40
"""Pictures, evenly spread, that are asked about."""
LENGTH = 24
"""Tokens of an answer at most."""
BATCH = 96
SHOWN, LOOKED, ABSENT = 8, 3, 96
SEED = 11
OURS = "with the picture"
WHO = {"blind_": "the same, without", "text_": "learnt without", "frequent_": "most frequent answer"}
"""Who sees no picture, by the prefix of its figures."""
Answer = Callable[[Sequence[Question]], list[str]]


def exact(answers: Sequence[str], questions: Sequence[Question]) -> list[bool]:
    """Return which answers are, word for word, one of those that are right."""
    return [plain(said) in {plain(a) for a in q.answers} for said, q in zip(answers, questions, strict=True)]


def by_kind(answers: Sequence[str], questions: Sequence[Question]) -> dict[str, float]:
    """Return the share of right answers of each kind of question, and under ``exact`` the mean over kinds.

    Descriptions are left out of both where there is anything else, since hardly any is said word for word as somebody did:
    ``caption_cider`` is how much they have in common with what people said (CIDEr-D). ``name_words`` is how many words names
    share with right ones (F1).
    """
    found: dict[str, list[bool]] = {}
    for hit, question in zip(exact(answers, questions), questions, strict=True):
        found.setdefault(question.kind, []).append(hit)
    kinds = [kind for kind in found if kind != "caption"] or [*found]
    shares = {kind: float(np.mean(found[kind])) for kind in kinds}
    told = [(said, q) for said, q in zip(answers, questions, strict=True) if q.kind in ("name", "caption")]
    if "caption" in found:
        described = [(said, q.answers) for said, q in told if q.kind == "caption"]
        shares["caption_cider"] = float(np.mean(cider_d([s for s, _ in described], [a for _, a in described])))
    if "name" in found:
        shares["name_words"] = float(np.mean([words_shared(s, q.answers[0]) for s, q in told if q.kind == "name"]))
    return {"exact": float(np.mean([shares[kind] for kind in kinds])), **shares}


def words_shared(said: str, right: str) -> float:
    """Return the F1 of the words of two texts, from 0 to 1."""
    one, other = set(plain(said).split()), set(plain(right).split())
    return 2 * len(one & other) / max(len(one) + len(other), 1)


def evaluate_questions(
    model: LLaVA,
    source: QuestionSource,
    split: str,
    progress: Progress,
    *,
    full: bool = True,
    text_only: LLaVA | None = None,
) -> Evaluation:
    """Judge the answers to questions about pictures.

    Args:
        model: answers; of a source without pictures from the questions alone.
        source: of the questions.
        split: of it.
        progress: told what is done.
        full: up to 300 pictures, with panels; else 40, the figures alone.
        text_only: a network that learnt from the questions alone, to stand beside; None for none.

    Raises:
        DataError: if the split is not there or empty.
    """
    start = time.monotonic()
    steps = Steps(progress, {"Answering": 5.0, "Answering without pictures": 5.0, "Drawing": 1.0})
    opened = source.open(split)
    count = min(len(opened), MOST if full else QUICK)
    kept = {i * len(opened) // count for i in range(count)}
    questions = [q for q in opened.questions() if q.index in kept]
    pictures = opened if source.shown else None
    said = {"": _answers(model, pictures, questions, steps.of("Answering"))}
    report = steps.of("Answering without pictures")
    if source.shown:
        with model.sightless():
            said["blind_"] = _answers(model, opened, questions, report)
        if text_only is not None:
            said["text_"] = _answers(text_only, None, questions, report)
    frequent = most_frequent(source.open("train").questions())
    said["frequent_"] = [frequent.get(q.kind, "") for q in questions]
    figures = {who: by_kind(answers, questions) for who, answers in said.items()}
    metrics = dict(figures[""])
    for who in (who for who in figures if who):
        metrics |= {who + name: value for name, value in figures[who].items()}
    metrics |= {f"chance_{name}": max(figures[who][name] for who in figures if who) for name in figures[""]}
    if source.shown:
        bare = [q for q in questions if q.kind != "unseen"]
        bare = [bare[i * len(bare) // ABSENT] for i in range(min(ABSENT, len(bare)))]
        metrics["absent"] = float(np.mean([plain(a) == plain(UNSEEN) for a in _answers(model, None, bare, report)]))
    metrics |= {"questions": float(len(questions)), "pictures": float(count)}
    if not full:
        return Evaluation(split, metrics, [], time.monotonic() - start)
    steps("Drawing")
    panels = _panels(model, opened, questions, said, figures)
    return Evaluation(split, metrics, panels, time.monotonic() - start, _headline(metrics, source.shown))


def _headline(metrics: Mapping[str, float], shown: bool) -> Headline:
    others = [f"{WHO[who]} {in_percent(metrics[who + 'exact'])}" for who in WHO if f"{who}exact" in metrics]
    sentence = (
        f"of {metrics['questions']:,.0f} questions about {metrics['pictures']:.0f} pictures that it was not trained on are "
        f"answered word for word{'' if shown else ', from the questions alone'}, the mean over kinds. Those that see no "
        f"picture: {', '.join(others)}."
    )
    return Headline(in_percent(metrics["exact"]), sentence)


def _answers(
    model: LLaVA, source: Questions | None, questions: Sequence[Question], report: Callable[[float], None]
) -> list[str]:
    """Return a model's answers, about the pictures of a source or without any."""
    said: list[str] = []
    for first in range(0, len(questions), BATCH):
        part = questions[first : first + BATCH]
        shown = {} if source is None else {q.index: (source.picture(q.index),) for q in part}
        chats = [[Turn(q.text, None, shown.get(q.index, ()))] for q in part]
        said += [answer.text for answer in model.answer(chats, Captioning(most=LENGTH))]
        report(len(said) / len(questions))
    return said


def _panels(
    model: LLaVA,
    source: Questions,
    questions: Sequence[Question],
    said: Mapping[str, Sequence[str]],
    figures: Mapping[str, Mapping[str, float]],
) -> list[Panel]:
    names = [*figures[""]]
    asked = {name: sum(q.kind == name for q in questions) for name in names}
    rows: list[list[str | float | None]] = [
        [WHO.get(who, OURS), *(found[name] for name in names)] for who, found in figures.items()
    ]
    counts = ", ".join(f"{name} {count}" for name, count in asked.items() if count)
    about = (
        f"Share of answers that are right word for word; exact: the mean over kinds. Questions: {counts}. name_words: F1 of "
        "the words of names."
    )
    panels: list[Panel] = [Table("Questions", about, ["", *names], rows, emphasis=0)]
    if not source.config.shown:
        return panels
    right = exact(said[""], questions)
    drawn = [int(i) for i in np.random.default_rng(SEED).permutation(sorted({q.index for q in questions}))[:SHOWN]]
    gallery = []
    for index in drawn:
        items = [
            Item(text=f"{q.text} {answer or '(nothing)'}", good=hit, note=f"right: {q.answers[0]}; without it: {other}")
            for q, answer, other, hit in zip(questions, said[""], said["blind_"], right, strict=True)
            if q.index == index
        ]
        gallery.append((Item(image=source.picture(index)), items))
    panels.append(Gallery("Questions and answers", "Pictures drawn at random; every question about each.", gallery))
    looked, grid = model.looks_of([source.picture(i) for i in drawn[:LOOKED]])
    looked = [row for row in looked if row[1]]
    if looked:
        words = (
            "Each word of what it says a picture is, and the places that it looked at more than the other words did."
        )
        panels.append(Figure("Where words look", words, draw_looking(looked, grid), words))
    return panels
