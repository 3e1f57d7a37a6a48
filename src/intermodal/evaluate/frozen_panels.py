"""What a person sees of frozen features: one table of all rows, neighbours, confusions, and who is invariant to what."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from intermodal.evaluate.frozen import FrozenJudgement, Row
from intermodal.evaluate.invariance import FAMILIES, READ_OUTS
from intermodal.evaluate.result import (
    Bars,
    Gallery,
    Headline,
    Heatmap,
    Item,
    Line,
    Lines,
    Panel,
    Table,
    in_percent,
)

SEED = 0
SHOWN = 12
NEIGHBOURS = 5
CONFUSED = 16
KNN = "k\N{NON-BREAKING HYPHEN}NN"
_SAID = {
    "rotation": "rotation",
    "scale": "scale",
    "translation": "shift",
    "mirror": "mirror image",
    "upside_down": "upside down",
    "flip": "which flip",
}


def headline(judgement: FrozenJudgement) -> Headline:
    """Say one encoder's result in words."""
    own = judgement.rows[0].figures
    return Headline(
        in_percent(own["knn"]),
        f"Of {_what(judgement)}, {in_percent(own['knn'])} get the right one of {len(judgement.classes)} classes by a vote "
        f"of the 20 training pictures whose features are most alike, and {in_percent(own['probe'])} by a linear classifier "
        f"on the features. {_beside(judgement)}",
    )


def comparison_headline(judgement: FrozenJudgement) -> Headline:
    """Say in words which encoder does best."""
    models = [row for row in judgement.rows if row.kind == "model"]
    best = max(models, key=lambda row: row.figures["knn"])
    probe = max(models, key=lambda row: row.figures["probe"])
    return Headline(
        in_percent(best.figures["knn"]),
        f"{best.name} gives {in_percent(best.figures['knn'])} of {_what(judgement)} the right one of "
        f"{len(judgement.classes)} classes by a vote of the 20 most similar training pictures. With a linear classifier on "
        f"the features {probe.name} leads, with {in_percent(probe.figures['probe'])}. {_beside(judgement)}",
    )


def _what(judgement: FrozenJudgement) -> str:
    part = judgement.judged[""]
    unseen = " of things it never saw" if "style_" in judgement.judged else ""
    return f"{len(part):,} held-out pictures{unseen}"


def _beside(judgement: FrozenJudgement) -> str:
    said = []
    for kind, name in (("random", "the network before training reaches"), ("pixels", "raw pixels reach")):
        rows = [row.figures for row in judgement.rows if row.kind == kind]
        most = "at most " if len(rows) > 1 else ""
        knn, probe = (in_percent(max(figures[n] for figures in rows)) for n in ("knn", "probe"))
        said.append(f"{name} {most}{knn} and {probe}")
    return (
        f"In the same two ways {', '.join(said)}; always the most frequent class is right for "
        f"{in_percent(judgement.guesses['majority_top1'])}, guessing for {in_percent(judgement.guesses['chance_top1'])}."
    )


def panels(judgement: FrozenJudgement) -> list[Panel]:
    """Return everything that is worth seeing."""
    out: list[Panel] = [_bars(judgement, "knn"), _bars(judgement, "probe"), _table(judgement)]
    out += [_geometry(judgement), *_invariance(judgement)]
    first = judgement.rows[0]
    if sum(row.kind == "model" for row in judgement.rows) == 1:
        out += [_neighbours(judgement, first), *_confusions(judgement, first), _mistakes(judgement, first)]
    return out


def _bars(judgement: FrozenJudgement, name: str) -> Bars:
    title = {"knn": "By the nearest training pictures (k-NN)", "probe": "By a linear probe"}[name]
    found = [(row.name, row.figures[name]) for row in judgement.rows]
    found += [("most frequent class", judgement.guesses["majority_top1"]), ("chance", judgement.guesses["chance_top1"])]
    about = f"Share of the {judgement.split} split's pictures that get their own class."
    single = sum(row.kind == "model" for row in judgement.rows) == 1
    return Bars(title, about, [n for n, _ in found], [v for _, v in found], "%", emphasis=0 if single else None)


def _table(judgement: FrozenJudgement) -> Table:
    heads = {"": judgement.split, "style_": "new styles"}
    kinds = {"knn": KNN, "probe": "probe", "knn_class": f"{KNN}, class mean", "probe_class": "probe, class mean"}
    kinds |= {"knn_top5": f"{KNN}, top 5", "probe_top5": "probe, top 5"}
    shown = {prefix: list(kinds)[: 6 if not prefix else 2] for prefix in judgement.judged}
    names = [f"{prefix}{kind}" for prefix, of in shown.items() for kind in of]
    columns = [f"{heads[prefix]}: {kinds[kind]}" for prefix, of in shown.items() for kind in of]
    rows: list[list[str | float | None]] = [[row.name, *(row.figures[n] for n in names)] for row in judgement.rows]
    for said, key in (("most frequent class", "majority"), ("chance", "chance")):
        cells: list[str | float | None] = [said]
        for prefix, of in shown.items():
            value = judgement.guesses[f"{key}_{prefix}top1"]
            cells += [value, value, *[None] * (len(of) - 2)]
        rows.append(cells)
    return Table("Frozen features, judged", _about_table(judgement), ["", *columns], rows, emphasis=_best(judgement))


def _about_table(judgement: FrozenJudgement) -> str:
    parts = [f"{len(judgement.train):,} training pictures of {len(judgement.classes)} classes"]
    parts += [f"{len(part):,} judged ones ({part.source.name})" for part in judgement.judged.values()]
    unseen = int(judgement.guesses["unseen_classes"])
    lost = sum(p.unreadable + p.unlabelled for p in (judgement.train, *judgement.judged.values()))
    return (
        f"{'; '.join(parts)}. k-NN: 20 neighbours by cosine, weighted by exp(similarity / 0.07). Probe: logistic regression "
        "on standardised features, its penalty chosen on held-out training features. Class mean: the accuracy of each "
        "class, averaged. Raw pixels: 16 × 16. Random weights: the same network before training."
        + (f" Judged classes that are not in training: {unseen}; their pictures count as wrong." if unseen else "")
        + (f" Pictures left out, unreadable or without a label: {lost}." if lost else "")
    )


def _best(judgement: FrozenJudgement) -> int | None:
    models = [i for i, row in enumerate(judgement.rows) if row.kind == "model"]
    return models[0] if len(models) == 1 else max(models, key=lambda i: judgement.rows[i].figures["knn"])


def _geometry(judgement: FrozenJudgement) -> Table:
    known = bool(len(judgement.judged[""].pairs()[0]))
    of = "two pictures of the same thing in different styles" if known else "two mild random views of one picture"
    rows: list[list[str | float | None]] = [
        [
            row.name,
            row.train.shape[1],
            *(row.figures[n] for n in ("alignment", "uniformity", "effective_rank", "probe_l2")),
        ]
        for row in judgement.rows
    ]
    return Table(
        "The shape of the features",
        f"Alignment: mean squared distance of the features of {of}; 0 is the same, 2 unrelated. Uniformity: 0 all in one "
        "place, lower is more evenly spread. Effective rank: how many of the dimensions are in use. None of them is a goal "
        "in itself: features that are all alike are perfectly aligned.",
        ["", "dimensions", "alignment", "uniformity", "effective rank", "probe's L2"],
        rows,
        emphasis=_best(judgement),
    )


def _invariance(judgement: FrozenJudgement) -> list[Panel]:
    rows = [row for row in judgement.rows if row.invariance is not None]
    if not rows or judgement.pictures is None:
        return []
    return [
        _map(judgement, rows),
        *(_curves(rows, family) for family in ("rotation", "scale", "translation")),
        *_tables(judgement, rows),
    ]


def _map(judgement: FrozenJudgement, rows: list[Row]) -> Heatmap:
    assert judgement.pictures is not None
    columns = [Item(text=f"{kind} {_SAID[f]}") for kind in ("inv.", "equiv.") for f in FAMILIES]
    columns += [Item(text=f"read {_SAID[f]}") for f in READ_OUTS]
    values = []
    for row in rows:
        found = row.invariance
        assert found is not None
        own = [found.invariance[f] for f in FAMILIES] + [found.equivariance[f] for f in FAMILIES]
        values.append([*own, *(found.readout[f] for f in READ_OUTS)])
    return Heatmap(
        "Who is invariant to what",
        f"{len(judgement.pictures)} pictures, transformed. inv.: invariant, 1 where features stay what they are, "
        "0 where they become as different as another picture's. equiv.: equivariant, the R² with which a linear map "
        "predicts the features of the transformed picture from those of the picture (an invariant encoder is trivially so). "
        "read: how well the transformation can be read out from both, 0 is chance. Values below 0 are shown as 0; the "
        "exact ones stand in the tables.",
        np.clip(np.array(values, np.float64), 0, 1),
        [Item(text=row.name) for row in rows],
        columns,
    )


def _curves(rows: list[Row], family: str) -> Lines:
    label, about = {
        "rotation": ("degrees, counter-clockwise", "A picture against itself, turned about its centre."),
        "scale": ("factor", "A picture against itself, smaller (below 1) and larger; logarithmic."),
        "translation": ("shift, share of the side", "A picture against itself, moved; mean of four directions."),
    }[family]
    start = 1.0 if family == "scale" else 0.0
    series = []
    for row in rows[:10]:
        assert row.invariance is not None
        points = sorted([(x, y) for x, y, _ in row.invariance.curves[family]] + [(start, 1.0)])
        series.append(Line(row.name, [x for x, _ in points], [y for _, y in points]))
    about += " 1: the features stay what they are; 0: as different as another picture's."
    return Lines(f"Invariance to {family}", about, label, "invariance", series, log_x=family == "scale")


def _tables(judgement: FrozenJudgement, rows: list[Row]) -> list[Table]:
    """Return the figures of the map, unclipped: invariance, equivariance, what can be read out."""

    def table(title: str, about: str, columns: list[str], values: list[list[float]]) -> Table:
        cells: list[list[str | float | None]] = [
            [row.name, *(round(v, 3) for v in line)] for row, line in zip(rows, values, strict=True)
        ]
        return Table(title, about, ["", *columns], cells, emphasis=_best(judgement))

    found = [row.invariance for row in rows if row.invariance is not None]
    return [
        table(
            "Invariance in figures",
            "Means over the angles, factors and shifts of the curves. Found: how often the picture itself is the nearest of "
            "all to its transformed version.",
            [_SAID[f] for f in FAMILIES] + [f"found: {_SAID[f]}" for f in FAMILIES],
            [[*(i.invariance[f] for f in FAMILIES), *(i.found[f] for f in FAMILIES)] for i in found],
        ),
        table(
            "Equivariance in figures",
            "R² of a linear map from the features of a picture to those of the transformed picture, fitted on half of "
            "the pictures and judged on the other half. Beyond identity: the share of the features' change that the map "
            "predicts.",
            [_SAID[f] for f in FAMILIES] + [f"beyond identity: {_SAID[f]}" for f in FAMILIES],
            [[*(i.equivariance[f] for f in FAMILIES), *(i.gain[f] for f in FAMILIES)] for i in found],
        ),
        table(
            "What the features still know of the transformation",
            "How well a linear read-out of the features before and after tells angle (its cosine and sine), factor (its "
            "logarithm) and shift, as R² on pictures that it was not fitted on; and which of the two flips, as accuracy on "
            "a scale on which guessing is 0 and always right is 1.",
            [_SAID[f] for f in READ_OUTS],
            [[i.readout[f] for f in READ_OUTS] for i in found],
        ),
    ]


def _neighbours(judgement: FrozenJudgement, row: Row) -> Gallery:
    part = judgement.judged[""]
    chosen = np.random.default_rng(SEED).permutation(len(part))[:SHOWN].tolist()
    return Gallery(
        "The nearest training pictures",
        f"Held-out pictures, drawn at random, and the {NEIGHBOURS} training pictures whose features are most alike; right "
        "is the same class.",
        [_with_neighbours(judgement, row, int(i)) for i in chosen],
    )


def _mistakes(judgement: FrozenJudgement, row: Row) -> Gallery:
    """The wrong pictures of which the neighbours are surest, one of each class and of each wrong answer."""
    assert row.knn is not None
    part, labels_M = judgement.judged[""], judgement.labels(judgement.judged[""])
    share_M, answer_M = row.knn.max(1)
    chosen: list[int] = []
    seen: set[tuple[str, str]] = set()
    for i in torch.argsort(-share_M, stable=True).tolist():
        answer, label = judgement.classes[int(answer_M[i])], part.labels[i]
        marks = {("label", label), ("answer", answer)}
        if int(answer_M[i]) == int(labels_M[i]) or seen & marks:
            continue
        seen |= marks
        chosen.append(i)
        if len(chosen) == SHOWN:
            break
    rows = []
    for i in chosen:
        query, items = _with_neighbours(judgement, row, i)
        answer = f"{judgement.classes[int(answer_M[i])]} ({in_percent(float(share_M[i]))} of the votes)"
        rows.append((Item(query.image, query.text, note=f"{query.note}; taken for {answer}"), items))
    about = "Held-out pictures whose neighbours agree most on a wrong class; one for each class and each wrong answer."
    return Gallery("Sure and wrong", about, rows, failures=True)


def _with_neighbours(judgement: FrozenJudgement, row: Row, position: int) -> tuple[Item, list[Item]]:
    part, train = judgement.judged[""], judgement.train
    query = row.judged[""][position]
    scale = np.linalg.norm(row.train, axis=1) * np.linalg.norm(query)
    cosine = (row.train @ query) / np.maximum(scale, 1e-12)
    items = [
        Item(train.picture(int(i)), train.labels[i], float(cosine[i]), train.labels[i] == part.labels[position])
        for i in np.argsort(-cosine, kind="stable")[:NEIGHBOURS]
    ]
    return Item(part.picture(position), part.caption(position), note=part.labels[position]), items


def _confusions(judgement: FrozenJudgement, row: Row) -> list[Heatmap]:
    """The classes that are most often mistaken for one another; nothing where no picture is of a known class."""
    assert row.probe is not None
    labels_M = judgement.labels(judgement.judged[""])
    known_M = labels_M >= 0
    if not known_M.any():
        return []
    classes = len(judgement.classes)
    pairs = labels_M[known_M] * classes + row.probe[known_M].argmax(1)
    counts_CC = torch.bincount(pairs, minlength=classes * classes).view(classes, classes).double()
    share_CC: Tensor = counts_CC / counts_CC.sum(1, keepdim=True).clamp(min=1)
    wrong_CC = counts_CC - counts_CC.diag().diag()
    weight_C = wrong_CC.sum(0) + wrong_CC.sum(1)
    chosen = sorted(weight_C.argsort(descending=True, stable=True)[:CONFUSED].tolist())
    names = [Item(text=judgement.classes[c]) for c in chosen]
    cut = f"The {len(chosen)} classes with most mistakes" if len(chosen) < classes else "All classes"
    about = f"{cut}: the share of each class's pictures (row) that the linear probe puts in each class (column)."
    return [Heatmap("What is taken for what", about, share_CC[chosen][:, chosen].numpy(), names, names)]
