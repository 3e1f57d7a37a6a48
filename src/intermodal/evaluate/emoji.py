"""Judges anything that embeds pictures and texts on the emoji set.

**Unseen concepts** (``concept_*``). The held-out concepts in the training styles. ``t2i``: a concept's text
(name and keywords) looks for its picture among those of one style; ``i2t``: a picture looks for its text
among those of all held-out concepts. Figures are means over all queries of all styles. ``r10`` without a
direction is the mean of both directions. A style that lacks some concepts has a smaller gallery of pictures;
chance is computed for the galleries as they are. ``concept_name_r10`` is the same with the bare name as the
text, ``new_style_*`` the same in the two held-out styles: concept and style are both new.
``concept_strange_r10`` is that of the concepts of which no relative at all (no other member of the family, see
``tools/build_emoji.py``) is in training. ``concept_mean_r10`` is for one vector a concept, the mean over its pictures in
all training styles, against the texts of all held-out concepts, both ways.

**Unseen styles** (``style_*``). Pictures in the held-out styles are named among all names of the set, by the
normalised mean over the prompts of each (name; name and keywords; keywords). ``style_top1``: of training
concepts; ``style_all_top1``: of all.

**Sub-groups** (``subgroup_*``). Pictures of held-out concepts are put in one of all sub-groups by its bare
name.

Each figure has its baselines beside it, under its name with a prefix: ``chance_``, ``pixels_`` (the nearest
training pictures in raw pixels), ``colours_`` (ridge regression from colours and an 8 x 8 thumbnail to
words), ``majority_`` (the most frequent training sub-group).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from intermodal.core.capabilities import Embeds
from intermodal.core.errors import DataError
from intermodal.core.progress import Progress
from intermodal.evaluate.baselines import ColourWords, PixelNeighbours, Words, colour_features, raw_pixels
from intermodal.evaluate.emoji_set import EmojiPart, all_concepts, group_prompt, prompts_of, text_of
from intermodal.evaluate.encoding import (
    Steps,
    embed_pictures,
    embed_texts,
    image_encoder,
    label_vectors,
    unit,
)
from intermodal.evaluate.result import Evaluation
from intermodal.metrics.alignment import alignment, effective_rank, modality_gap, uniformity
from intermodal.metrics.classification import top_k_accuracy
from intermodal.metrics.retrieval import chance, retrieval

KS = (1, 5, 10)
FIRST = ("concept_r10", "style_top1", "concept_name_r10", "concept_t2i_r10", "concept_i2t_r10", "concept_r1")
BASELINES = ("chance_", "pixels_", "colours_", "majority_")
QUICK_STRIDE = 8
"""The quick evaluation names every so many pictures of the held-out styles."""


@dataclass
class EmojiJudgement:
    """What the panels are drawn from: the method's own vectors and every figure.

    Attributes:
        name: of the method.
        metrics: all figures by name.
        concepts: one row for each held-out concept.
        unseen: their pictures, in the training styles.
        image, text: the vectors of ``unseen`` and of the concepts' texts.
        styled: the pictures in the held-out styles.
        styled_image, label: the vectors of ``styled`` and of every concept's name.
        names: one row for each concept of the set, as ``label``.
        by_style, by_group: figures of parts, for the method and the colour baseline.
    """

    name: str
    metrics: dict[str, float]
    concepts: list[dict[str, Any]]
    unseen: EmojiPart
    image: np.ndarray
    text: np.ndarray
    styled: EmojiPart
    styled_image: np.ndarray
    label: np.ndarray
    names: list[dict[str, Any]]
    by_style: dict[str, dict[str, float]] = field(default_factory=dict)
    by_group: dict[str, dict[str, float]] = field(default_factory=dict)


def evaluate_on_emoji(method: Embeds, split: str, progress: Progress) -> Evaluation:
    """Judge a method on the emoji set.

    Args:
        method: embeds ``"image"`` and ``"text"``.
        split: ``test``: everything, with baselines and panels. ``validation``: the validation concepts, and
            an eighth of the pictures in the held-out styles (part of the test: watch that figure, do not
            choose by it); no panels.
        progress: told what is done.

    Raises:
        DataError: for another split.
    """
    from intermodal.evaluate.emoji_panels import headline, panels

    if split not in ("validation", "test"):
        raise DataError(f"The emoji set is judged on the splits validation and test, not {split!r}.")
    start = time.monotonic()
    if split == "validation":
        steps = Steps(progress, {"Embedding unseen concepts": 4, "Embedding unseen styles": 3})
        judged = _judge(method, "validation", steps, QUICK_STRIDE)
        return Evaluation("validation", _ordered(judged.metrics), [], time.monotonic() - start)
    steps = Steps(
        progress,
        {
            "Embedding unseen concepts": 4,
            "Embedding unseen styles": 5,
            "Fitting baselines": 4,
            "Judging baselines": 8,
            "Drawing galleries": 1,
        },
    )
    judged = _judge(method, "test", steps)
    _compare(judged, steps)
    steps("Drawing galleries")
    shown = panels(judged, method)
    return Evaluation("test", _ordered(judged.metrics), shown, time.monotonic() - start, headline(judged))


def _ordered(metrics: dict[str, float]) -> dict[str, float]:
    """Return the figures, those that matter most first and the baselines last."""
    names = [n for n in FIRST if n in metrics]
    own = [n for n in metrics if not n.startswith(BASELINES) and n not in names]
    rest = [n for n in metrics if n.startswith(BASELINES)]
    return {n: metrics[n] for n in [*names, *own, *rest]}


def _judge(method: Embeds, split: str, steps: Steps, stride: int = 1) -> EmojiJudgement:
    unseen = EmojiPart.of([split], "train")
    concepts, names = unseen.concepts(), all_concepts()
    sides = ("train", "validation", "test") if split == "test" else ("train",)
    styled = EmojiPart.of(sides, "test", stride)
    encoders = [image_encoder(method)]
    image = embed_pictures(encoders, unseen.pictures(), len(unseen), steps.of("Embedding unseen concepts"))[0]
    report = steps.of("Embedding unseen styles")
    styled_image = embed_pictures(encoders, styled.pictures(), len(styled), report)[0]
    text = embed_texts(method, [text_of(row) for row in concepts])
    label = label_vectors(method, [prompts_of(row) for row in names])
    bare = embed_texts(method, [row["name"] for row in concepts])
    metrics = concept_figures(image, unseen.rows, text, concepts)
    metrics |= naming_figures(styled_image, styled.rows, label, names)
    metrics |= _named("name", concept_figures(image, unseen.rows, bare, concepts))
    metrics |= _strange(image, unseen, text, concepts, names) | mean_figures(image, unseen.rows, text, concepts)
    judged = EmojiJudgement(
        str(getattr(method, "id", type(method).__name__)),
        metrics, concepts, unseen, image, text, styled, styled_image, label, names,
    )  # fmt: skip
    if split == "test":
        _more(judged, method)
    return judged


def _more(judged: EmojiJudgement, method: Embeds) -> None:
    """Add what only the full evaluation looks at: both new, sub-groups, parts, the geometry of the space."""
    metrics, rows, concepts = judged.metrics, judged.unseen.rows, judged.concepts
    both = np.flatnonzero(judged.styled.column("concept_split") == "test")
    both_rows = [judged.styled.rows[i] for i in both]
    metrics |= _renamed(concept_figures(judged.styled_image[both], both_rows, judged.text, concepts))
    labels = sorted({row["subgroup"] for row in judged.names})
    label = label_vectors(method, [[group_prompt(name)] for name in labels])
    metrics |= subgroup_figures(judged.image, rows, label, labels)
    place = {row["concept"]: i for i, row in enumerate(concepts)}
    partner = judged.text[[place[row["concept"]] for row in rows]]
    image_ND, text_ND = torch.from_numpy(judged.image), torch.from_numpy(judged.text)
    metrics["alignment"] = alignment(image_ND, torch.from_numpy(partner))
    metrics["uniformity_image"], metrics["uniformity_text"] = uniformity(image_ND), uniformity(text_ND)
    metrics["modality_gap"] = modality_gap(image_ND, text_ND)
    metrics["effective_rank_image"] = effective_rank(image_ND)
    metrics["effective_rank_text"] = effective_rank(text_ND)
    _parts(judged, "", judged.image, judged.text)


def _parts(judged: EmojiJudgement, who: str, image: np.ndarray, text: np.ndarray) -> None:
    """Add R@10 for each style and each group; ``who`` is a baseline's prefix, or nothing for the method."""
    for column, parts in (("style", judged.by_style), ("group", judged.by_group)):
        values = judged.unseen.column(column)
        for value in sorted(set(values)):
            figures = concept_figures(image, judged.unseen.rows, text, judged.concepts, queries=values == value)
            part = parts.setdefault(str(value), {"pictures": float((values == value).sum())})
            part |= {who + k.replace("concept_", ""): v for k, v in figures.items()}


def concept_figures(
    image: np.ndarray,
    rows: Sequence[dict[str, Any]],
    text: np.ndarray,
    concepts: Sequence[dict[str, Any]],
    queries: np.ndarray | None = None,
) -> dict[str, float]:
    """Return retrieval both ways between pictures and concepts; see the module's text.

    Args:
        image: the pictures' vectors, ``(N, D)``.
        rows: what they show, and in which style.
        text: the concepts' vectors, ``(C, D)``.
        concepts: whose they are.
        queries: which pictures (and the texts that belong to them) ask; all by default. Galleries are whole
            either way.
    """
    asks = np.ones(len(rows), dtype=bool) if queries is None else queries
    place = {row["concept"]: i for i, row in enumerate(concepts)}
    concept = np.array([place[row["concept"]] for row in rows])
    style = np.array([row["style"] for row in rows])
    image_ND, text_CD = torch.from_numpy(image), torch.from_numpy(text)
    found = _Mean()
    for name in sorted(set(style[asks])):
        gallery = np.flatnonzero(style == name)
        right = np.flatnonzero(asks[gallery])
        rank = retrieval(text_CD[concept[gallery[right]]], image_ND[gallery], right.tolist(), ks=KS)
        guess = chance(right.tolist(), len(right), len(gallery), ks=KS)
        found.add("t2i", len(right), rank, guess)
        rows_of = gallery[right]
        rank = retrieval(image_ND[rows_of], text_CD, concept[rows_of].tolist(), ks=KS)
        guess = chance(concept[rows_of].tolist(), len(rows_of), len(concepts), ks=KS)
        found.add("i2t", len(right), rank, guess)
    figures = found.figures()
    both = {f"{who}concept_r{k}": _both(figures, who, k) for k in reversed(KS) for who in ("", "chance_")}
    return {"concept_r10": both.pop("concept_r10"), **both, **figures}


class _Mean:
    """Means of recalls and ranks over styles, weighted by the number of queries."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.weights: dict[str, int] = {}

    def add(self, way: str, queries: int, rank: dict[str, float], guess: dict[str, float]) -> None:
        for who, figures in (("", rank), ("chance_", guess)):
            for name, value in figures.items():
                key = f"{who}concept_{way}_{name.replace('R@', 'r')}"
                self.sums[key] = self.sums.get(key, 0.0) + value * queries
                self.weights[key] = self.weights.get(key, 0) + queries

    def figures(self) -> dict[str, float]:
        return {key: total / self.weights[key] for key, total in self.sums.items()}


def _both(figures: dict[str, float], who: str, k: int) -> float:
    return (figures[f"{who}concept_t2i_r{k}"] + figures[f"{who}concept_i2t_r{k}"]) / 2


def _renamed(figures: dict[str, float]) -> dict[str, float]:
    return {k.replace("concept_", "new_style_"): v for k, v in figures.items()}


def _named(kind: str, figures: dict[str, float]) -> dict[str, float]:
    return {f"{who}concept_{kind}_r10": figures[f"{who}concept_r10"] for who in ("", "chance_")}


def _strange(
    image: np.ndarray,
    unseen: EmojiPart,
    text: np.ndarray,
    concepts: Sequence[dict[str, Any]],
    names: Sequence[dict[str, Any]],
) -> dict[str, float]:
    """Return R@10 of the pictures and texts of concepts without a relative in training; nothing if there are none."""
    known = {row["family"] for row in names if row["concept_split"] == "train"}
    alone = np.array([row["family"] not in known for row in unseen.rows])
    return _named("strange", concept_figures(image, unseen.rows, text, concepts, queries=alone)) if alone.any() else {}


def mean_figures(
    image: np.ndarray, rows: Sequence[dict[str, Any]], text: np.ndarray, concepts: Sequence[dict[str, Any]]
) -> dict[str, float]:
    """Return R@10 between texts and one vector a concept, the mean over the concept's pictures."""
    place = {row["concept"]: i for i, row in enumerate(concepts)}
    mean = np.zeros((len(concepts), image.shape[1]), np.float32)
    np.add.at(mean, [place[row["concept"]] for row in rows], image)
    mean_CD, text_CD = torch.from_numpy(unit(mean)).float(), torch.from_numpy(text).float()
    truth = list(range(len(concepts)))
    both = [retrieval(a, b, truth, ks=KS)["R@10"] for a, b in ((text_CD, mean_CD), (mean_CD, text_CD))]
    return {"concept_mean_r10": sum(both) / 2, "chance_concept_mean_r10": min(1.0, 10 / len(concepts))}


def naming_figures(
    image: np.ndarray, rows: Sequence[dict[str, Any]], label: np.ndarray, names: Sequence[dict[str, Any]]
) -> dict[str, float]:
    """Return top-1 and top-5 of naming pictures among all names; ``style_all_*`` with unseen concepts."""
    place = {row["concept"]: i for i, row in enumerate(names)}
    concept = np.array([place[row["concept"]] for row in rows])
    seen = np.array([row["concept_split"] == "train" for row in rows])
    figures: dict[str, float] = {}
    for prefix, mask in (("style", seen), ("style_all", np.ones_like(seen))):
        if prefix == "style_all" and seen.all():
            continue
        top = retrieval(torch.from_numpy(image[mask]), torch.from_numpy(label), concept[mask].tolist(), ks=(1, 5))
        figures |= {f"{prefix}_top{k}": top[f"R@{k}"] for k in (1, 5)}
        figures |= {f"chance_{prefix}_top{k}": k / len(names) for k in (1, 5)}
    return figures


def subgroup_figures(
    image: np.ndarray, rows: Sequence[dict[str, Any]], label: np.ndarray, labels: Sequence[str]
) -> dict[str, float]:
    """Return top-1 and top-5 of putting pictures into sub-groups."""
    right = [labels.index(row["subgroup"]) for row in rows]
    top = retrieval(torch.from_numpy(image), torch.from_numpy(label), right, ks=(1, 5))
    figures = {f"subgroup_top{k}": top[f"R@{k}"] for k in (1, 5)}
    return figures | {f"chance_subgroup_top{k}": k / len(labels) for k in (1, 5)}


def _compare(judged: EmojiJudgement, steps: Steps) -> None:
    """Fit the baselines on the training pictures and add their figures."""
    report = steps.of("Fitting baselines")
    train = EmojiPart.of(["train"], "train")
    texts = [text_of(row) for row in train.rows]
    words = Words(texts)
    vectors = words(texts)
    report(0.2)
    pictures = list(train.pictures())
    pixels, colours = raw_pixels(pictures), colour_features(pictures)
    report(0.7)
    neighbours = PixelNeighbours(words, pixels, vectors)
    regression = ColourWords(words, colours, vectors)
    report = steps.of("Judging baselines")
    unseen, styled = list(judged.unseen.pictures()), list(judged.styled.pictures())
    text = words([text_of(row) for row in judged.concepts])
    bare = words([row["name"] for row in judged.concepts])
    label = label_vectors(neighbours, [prompts_of(row) for row in judged.names])
    subgroups = sorted({row["subgroup"] for row in judged.names})
    groups = words([group_prompt(name) for name in subgroups])
    both = np.flatnonzero(judged.styled.column("concept_split") == "test")
    metrics, rows = judged.metrics, judged.unseen.rows
    similar, styled_similar = neighbours.similarities(unseen), neighbours.similarities(styled)
    report(0.3)
    for who, image, styled_image in (
        ("pixels_", neighbours.vectors_of(similar), neighbours.vectors_of(styled_similar)),
        ("colours_", regression.embed("image", unseen), regression.embed("image", styled)),
    ):
        figures = concept_figures(image, rows, text, judged.concepts)
        figures |= _named("name", concept_figures(image, rows, bare, judged.concepts))
        figures |= _strange(image, judged.unseen, text, judged.concepts, judged.names)
        figures |= mean_figures(image, rows, text, judged.concepts)
        both_rows = [judged.styled.rows[i] for i in both]
        figures |= _renamed(concept_figures(styled_image[both], both_rows, text, judged.concepts))
        if who == "colours_":
            figures |= naming_figures(styled_image, judged.styled.rows, label, judged.names)
            figures |= subgroup_figures(image, rows, groups, subgroups)
        _parts(judged, who, image, text)
        metrics |= {who + k: v for k, v in figures.items() if not k.startswith("chance_")}
        report(0.6 if who == "pixels_" else 0.9)
    metrics |= _nearest_naming(styled_similar, train, judged)
    nearest = similar.argmax(1)
    said = train.column("subgroup")[nearest]
    metrics["pixels_subgroup_top1"] = float((said == judged.unseen.column("subgroup")).mean())
    most = Counter(train.column("subgroup").tolist()).most_common(1)[0][0]
    metrics["majority_subgroup_top1"] = float((judged.unseen.column("subgroup") == most).mean())
    report(1.0)


def _nearest_naming(similar: np.ndarray, train: EmojiPart, judged: EmojiJudgement) -> dict[str, float]:
    """Name each picture by its nearest training pictures: a concept scores as its nearest picture does."""
    place = {row["concept"]: i for i, row in enumerate(judged.names)}
    of_train = np.array([place[c] for c in train.column("concept")])
    order = np.argsort(of_train, kind="stable")
    known, starts = np.unique(of_train[order], return_index=True)
    scores = np.full((len(similar), len(judged.names)), -np.inf, np.float32)
    scores[:, known] = np.maximum.reduceat(similar[:, order], starts, axis=1)
    right = torch.tensor([place[c] for c in judged.styled.column("concept")])
    seen = torch.from_numpy(judged.styled.column("concept_split") == "train")
    of_seen = top_k_accuracy(torch.from_numpy(scores)[seen], right[seen])
    of_all = top_k_accuracy(torch.from_numpy(scores), right)
    return {f"pixels_style_{k}": v for k, v in of_seen.items()} | {
        f"pixels_style_all_{k}": v for k, v in of_all.items()
    }
