"""What a person sees of a judgement on pairs: tables beside baselines, galleries, failures."""

from __future__ import annotations

import numpy as np

from intermodal.evaluate.galleries import confident_mistakes, pictures_for, similarity_map, texts_for
from intermodal.evaluate.pairs import SEED, PairsJudgement
from intermodal.evaluate.result import Bars, Gallery, Headline, Heatmap, Item, Panel, Table, in_percent

SHOWN = 10
IN_MAP = 20
_BASELINES = (("colours_", "colours to words"), ("pixels_", "nearest pixels"), ("chance_", "chance"))


def headline(judged: PairsJudgement) -> Headline:
    """Say the result in words."""
    m = judged.metrics
    figure = in_percent(m["r10"])
    sentence = (
        f"Among {len(judged.pairs.indices):,} pictures that it was not trained on, the right picture for a "
        f"text, or a right "
        f"text for a picture, is within the first ten answers {figure} of the time. Guessing reaches "
        f"{in_percent(m['chance_r10'])}, the nearest training pictures in raw pixels "
        f"{in_percent(m['pixels_r10'])}, and "
        f"words predicted from colours and a tiny thumbnail {in_percent(m['colours_r10'])}."
    )
    return Headline(figure, sentence)


def panels(judged: PairsJudgement) -> list[Panel]:
    """Return everything that is worth seeing."""
    rng = np.random.default_rng(SEED)
    shown: list[Panel] = [_bars(judged, "Right within the first ten", "r10", "Text to picture and picture to text.")]
    if "top1" in judged.metrics:
        shown.append(_bars(judged, "Class named exactly", "top1", "By prompts alone, without training for it."))
    shown.append(_retrieval_table(judged))
    if "top1" in judged.metrics:
        shown.append(_class_table(judged))
    return [
        *shown,
        _text_gallery(judged, rng),
        _picture_gallery(judged, rng),
        _map(judged, rng),
        _failures(judged),
    ]


def _rows(judged: PairsJudgement, names: list[str]) -> list[list[str | float | None]]:
    named = (("", judged.name), *_BASELINES)
    return [[said, *(judged.metrics.get(who + n) for n in names)] for who, said in named]


def _bars(judged: PairsJudgement, title: str, metric: str, about: str) -> Bars:
    named = [("", judged.name), *_BASELINES, ("majority_", "most frequent")]
    found = [(said, judged.metrics[who + metric]) for who, said in named if who + metric in judged.metrics]
    return Bars(title, about, [n for n, _ in found], [v for _, v in found], "%", emphasis=0)


def _retrieval_table(judged: PairsJudgement) -> Table:
    names = [f"{way}_{what}" for way in ("t2i", "i2t") for what in ("r1", "r5", "r10", "median_rank")]
    ways = ("text → picture", "picture → text")
    columns = ["", *(f"{way}, {what}" for way in ways for what in ("R@1", "R@5", "R@10", "median rank"))]
    about = f"{judged.about} R@k: the share of queries with a right answer among the first k."
    return Table("Retrieval", about, columns, _rows(judged, names), emphasis=0)


def _class_table(judged: PairsJudgement) -> Table:
    rows = _rows(judged, ["top1", "top5"])
    rows.insert(-1, ["most frequent", judged.metrics.get("majority_top1"), None])
    about = (
        f"Each picture is put in one of {len(judged.pairs.classes)} classes; a class's vector is the mean "
        "over its prompts."
    )
    return Table("Naming the class", about, ["", "top 1", "top 5"], rows, emphasis=0)


def _text_gallery(judged: PairsJudgement, rng: np.random.Generator) -> Gallery:
    pairs = judged.pairs
    rows = [
        pictures_for(pairs.texts[t], judged.image @ judged.text[t], pairs.picture, right=pairs.owners[t])
        for t in rng.permutation(len(pairs.texts))[:SHOWN]
    ]
    return Gallery("From a text to pictures", "Texts drawn at random, and the pictures that they bring.", rows)


def _picture_gallery(judged: PairsJudgement, rng: np.random.Generator) -> Gallery:
    rows = [_texts_of(judged, int(i), 5) for i in rng.permutation(len(judged.pairs.indices))[:SHOWN]]
    return Gallery("From a picture to texts", "Pictures drawn at random, and the texts that they bring.", rows)


def _texts_of(judged: PairsJudgement, i: int, top: int) -> tuple[Item, list[Item]]:
    pairs = judged.pairs
    return texts_for(
        pairs.picture(i), judged.text @ judged.image[i], pairs.texts, right=pairs.members[i],
        title=pairs.captions[i][0], top=top,
    )  # fmt: skip


def _map(judged: PairsJudgement, rng: np.random.Generator) -> Heatmap:
    pairs = judged.pairs
    chosen = [int(i) for i in rng.permutation(len(pairs.indices))[:IN_MAP]]
    texts = [pairs.members[i][0] for i in chosen]
    return similarity_map(
        "Who resembles whom",
        f"Similarity of {len(chosen)} pictures, drawn at random, and the first text of each. A good model "
        f"is strong on the "
        "diagonal (outlined) and faint elsewhere.",
        judged.image[chosen] @ judged.text[texts].T,
        [pairs.picture(i) for i in chosen],
        [pairs.texts[t] for t in texts],
    )


def _failures(judged: PairsJudgement) -> Gallery:
    pairs = judged.pairs
    wrong = confident_mistakes(judged.image, judged.text, pairs.members, SHOWN, range(len(pairs.indices)))
    about = "The pictures whose first text is wrong and most similar; one for each wrong answer."
    return Gallery("Sure and wrong", about, [_texts_of(judged, i, 3) for i in wrong], failures=True)
