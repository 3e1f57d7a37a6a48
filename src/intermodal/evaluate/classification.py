"""Judges a model that tells classes: how often it is right, how sure it is, what it takes for what, and where it looks.

- ``top1``, ``top5``: the share of judged pictures whose class is the one found, or one of the five most probable;
  ``class_top1`` averaged over the classes that occur.
- ``ece``: the expected calibration error with 15 bins (:mod:`intermodal.metrics.calibration`); ``confidence``: the mean
  probability of the class found; ``nll``: the mean negative log-likelihood of the right class, in nats.
- Beside them ``chance_top1``, one of the K classes by lot, ``majority_top1``, the most frequent class of the training
  pictures, and ``pixels_top1``, a vote of the 20 nearest training pictures in raw pixels (16 x 16).
- On the emoji set ``test`` holds unseen concepts, and in full ``style_top1`` and so on are the same figures for known
  concepts in two unseen artists' styles.

The classes are those of the training split. A judged picture of another class counts as wrong.

    N pictures   K classes
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from intermodal.core.progress import Progress
from intermodal.data.emoji import EmojiSource
from intermodal.data.source import SourceConfig
from intermodal.evaluate.baselines import raw_pixels
from intermodal.evaluate.binding import overlay
from intermodal.evaluate.encoding import Steps
from intermodal.evaluate.energy import spread_out
from intermodal.evaluate.frozen_data import LabelledPart, read_part
from intermodal.evaluate.result import (
    Bars,
    Evaluation,
    Figure,
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
from intermodal.evaluate.window_picture import draw_attention, draw_windows
from intermodal.methods.vision_language.classifier import PictureClassifier
from intermodal.methods.vision_language.swin import Swin
from intermodal.methods.vision_language.vit import ViT
from intermodal.metrics.calibration import Reliability, reliability
from intermodal.metrics.classification import confusion_counts, mean_class_accuracy, top_k_accuracy
from intermodal.metrics.knn import knn_scores

MOST_TRAIN, MOST_JUDGED, QUICK = 20_000, 10_000, 400
SHOWN, CONFUSED, PIXELS_SIDE, BINS, GUESSES, WINDOWED = 10, 16, 16, 15, 5, 3
KS = (1, 5)


@dataclass(frozen=True)
class Judged:
    """A part of the data and what the model said of it.

    Attributes:
        part: the pictures.
        logits_NK: what the model said.
        labels_N: numbers of the right classes, -1 for one that the model does not know.
    """

    part: LabelledPart
    logits_NK: Tensor
    labels_N: Tensor


def evaluate_classifier(
    method: PictureClassifier, source: SourceConfig, split: str, progress: Progress, *, full: bool = True
) -> Evaluation:
    """Judge a classifier on a split; see the module's text.

    Args:
        method: the model.
        source: labelled pictures.
        split: the judged split.
        progress: told what is done.
        full: everything, with baselines and panels; else the figures of 400 pictures.

    Raises:
        DataError: if the split is not there or its pictures have no classes.
        TrainingError: if a logit is not finite.
    """
    start = time.monotonic()
    weights = {"Reading pictures": 6, "Reading other styles": 6, "Comparing with raw pixels": 6, "Drawing": 3}
    steps = Steps(progress, weights)
    most = MOST_JUDGED if full else QUICK
    judged, pixels = _judge(method, source, split, most, steps.of("Reading pictures"))
    metrics, diagram = figures(judged, method.classes)
    if not full:
        return Evaluation(split, metrics, [], time.monotonic() - start)
    if isinstance(source, EmojiSource) and split != "style":
        style, _ = _judge(method, source, "style", MOST_JUDGED, steps.of("Reading other styles"))
        metrics |= {f"style_{name}": value for name, value in figures(style, method.classes)[0].items()}
    metrics |= _baselines(judged, pixels, method.classes, source, steps)
    steps("Drawing")
    panels = _panels(method, judged, metrics, diagram)
    return Evaluation(split, metrics, panels, time.monotonic() - start, _headline(judged, metrics, method))


def _judge(
    method: PictureClassifier, source: SourceConfig, split: str, most: int, report: Callable[[float], None]
) -> tuple[Judged, np.ndarray]:
    encoders = [lambda p: method.logits_of(p).numpy(), lambda p: raw_pixels(p, PIXELS_SIDE)]
    part, (logits, pixels) = read_part(source, split, encoders, report, most)
    place = {label: i for i, label in enumerate(method.classes)}
    labels_N = torch.tensor([place.get(label, -1) for label in part.labels])
    return Judged(part, torch.from_numpy(logits), labels_N), pixels


def figures(judged: Judged, classes: Sequence[str]) -> tuple[dict[str, float], Reliability]:
    """Return a part's figures and its reliability diagram; a picture of an unknown class counts as wrong."""
    probability_NK = judged.logits_NK.double().softmax(1)
    diagram = reliability(probability_NK, judged.labels_N, BINS)
    known_N = judged.labels_N >= 0
    share = float(known_N.double().mean())
    metrics = dict.fromkeys(("top1", "top5", "class_top1", "nll"), 0.0)
    if known_N.any():
        logits, labels = judged.logits_NK[known_N], judged.labels_N[known_N]
        metrics = {name: share * value for name, value in top_k_accuracy(logits, labels, KS).items()}
        seen = len(labels.unique())
        other = len(set(judged.part.labels) - set(classes))
        metrics["class_top1"] = mean_class_accuracy(logits, labels) * seen / (seen + other)
        metrics["nll"] = float(F.cross_entropy(logits.double(), labels))
    confidence = float(probability_NK.max(1).values.mean())
    return {**metrics, "ece": diagram.error, "confidence": confidence}, diagram


def _baselines(
    judged: Judged, pixels: np.ndarray, classes: Sequence[str], source: SourceConfig, steps: Steps
) -> dict[str, float]:
    """Return what guessing, the most frequent class and the nearest training pictures in raw pixels reach."""
    report = steps.of("Comparing with raw pixels")
    train, (known,) = read_part(source, "train", [lambda p: raw_pixels(p, PIXELS_SIDE)], report, MOST_TRAIN)
    label_N = torch.tensor([classes.index(label) for label in train.labels])
    score = knn_scores(torch.from_numpy(known), label_N, torch.from_numpy(pixels), classes=len(classes))
    nearest = figures(Judged(judged.part, score.clamp(min=1e-12).log(), judged.labels_N), classes)[0]
    frequent = Counter(train.labels).most_common(1)[0][0]
    majority = sum(label == frequent for label in judged.part.labels) / len(judged.part)
    return {
        "chance_top1": float((judged.labels_N >= 0).double().mean()) / len(classes),
        "majority_top1": majority,
        "pixels_top1": nearest["top1"],
        "pixels_top5": nearest["top5"],
        "classes": float(len(classes)),
    }


def _headline(judged: Judged, metrics: dict[str, float], method: PictureClassifier) -> Headline:
    return Headline(
        in_percent(metrics["top1"]),
        f"Of {len(judged.part):,} held-out pictures {in_percent(metrics['top1'])} get the right one of "
        f"{len(method.classes)} classes, and {in_percent(metrics['top5'])} have it among the first five. The nearest "
        f"training pictures in raw pixels reach {in_percent(metrics['pixels_top1'])}, always the most frequent class "
        f"{in_percent(metrics['majority_top1'])}. The model says that it is right in {in_percent(metrics['confidence'])} of "
        "the cases.",
    )


def _panels(method: PictureClassifier, judged: Judged, metrics: dict[str, float], diagram: Reliability) -> list[Panel]:
    panels: list[Panel] = [_bars(metrics), _calibration(metrics, diagram)]
    if "style_top1" in metrics:
        panels.append(_table(metrics))
    panels += [*_confusions(judged, method.classes), *_galleries(method, judged)]
    if isinstance(method, Swin):
        panels += _windows(method, judged)
    return panels


def _windows(method: Swin, judged: Judged) -> list[Panel]:
    """Return how a Swin cuts a picture, and what its windows look at."""
    processor = method.processors["image"]
    images = [judged.part.picture(i) for i in spread_out(len(judged.part), WINDOWED)]
    fitted = [processor.fitted(image) if hasattr(processor, "fitted") else image for image in images]
    cut = (
        "How this model sees a picture: windows of the first stage, the same windows shifted by half in every second "
        "block, the map rolled so that cut windows are whole again with its parts in colours, who may then see whom in "
        "each kind of window, and the maps of the stages, each place of which stands for four of the one before."
    )
    looks = (
        "What one place (framed) looks at in its window, block by block: the mean of the heads, put back to the picture. "
        "The place is the one that reaches the answer most by attention rollout, which stands beside the picture."
    )
    with method.evaluating():
        prepared = processor(images).to(method.device, next(method.parameters()).dtype)
        drawn = draw_attention(method.image, fitted, prepared)
    return [
        Figure(
            "Windows, shifts, masks and merges",
            cut,
            draw_windows(method.config.image, fitted[-1]),
            "Windows, shifted windows, masks and the pyramid of maps.",
        ),
        Figure("Attention inside windows", looks, drawn, "Attention of one place in each block of three pictures."),
    ]


def _bars(metrics: dict[str, float]) -> Bars:
    names = {
        "top1": "the model",
        "pixels_top1": "nearest pictures in raw pixels",
        "majority_top1": "always the most frequent class",
        "chance_top1": "by lot",
    }
    about = "The share of held-out pictures whose class is named first."
    return Bars("Which class?", about, list(names.values()), [metrics[name] for name in names], unit="%", emphasis=0)


def _calibration(metrics: dict[str, float], diagram: Reliability) -> Lines:
    filled = diagram.count_M > 0
    x, y = diagram.confidence_M[filled].tolist(), diagram.accuracy_M[filled].tolist()
    about = (
        "Pictures sorted by how sure the model was, in bins of equal width: where the line is above the diagonal it was "
        f"right more often than it said. The expected calibration error is {metrics['ece']:.3f}."
    )
    series = [Line("the model", x, y), Line("as sure as right", [0.0, 1.0], [0.0, 1.0])]
    return Lines("Is it as sure as it is right?", about, "probability of the class found", "share right", series)


def _table(metrics: dict[str, float]) -> Table:
    names = {
        "top1": "first",
        "top5": "among five",
        "class_top1": "mean of classes",
        "confidence": "says it is right",
        "ece": "calibration error",
    }
    rows: list[list[str | float | None]] = [
        [said, *(metrics[prefix + name] for name in names)]
        for said, prefix in (("unseen concepts, known styles", ""), ("known concepts, unseen styles", "style_"))
    ]
    about = "Held out in two ways: what is shown, and how it is drawn."
    return Table("Two ways of being new", about, ["", *names.values()], rows, emphasis=0)


def _confusions(judged: Judged, classes: Sequence[str]) -> list[Panel]:
    known_N = judged.labels_N >= 0
    if not known_N.any():
        return []
    found_N = judged.logits_NK[known_N].argmax(1)
    count_CC = confusion_counts(found_N, judged.labels_N[known_N], len(classes)).double()
    share_CC = count_CC / count_CC.sum(1, keepdim=True).clamp(min=1)
    wrong_CC = count_CC - count_CC.diag().diag()
    order = (wrong_CC.sum(0) + wrong_CC.sum(1)).argsort(descending=True, stable=True)
    chosen = sorted(order[:CONFUSED].tolist())
    names = [Item(text=classes[c]) for c in chosen]
    cut = f"The {len(chosen)} classes with most mistakes" if len(chosen) < len(classes) else "All classes"
    about = f"{cut}: the share of each class's pictures (row) that are taken for each class (column)."
    return [Heatmap("What is taken for what", about, share_CC[chosen][:, chosen].numpy(), names, names)]


def _galleries(method: PictureClassifier, judged: Judged) -> list[Panel]:
    found_N = judged.logits_NK.argmax(1)
    right = (found_N == judged.labels_N).nonzero()[:, 0].tolist()
    wrong = (found_N != judged.labels_N).nonzero()[:, 0].tolist()
    where = (
        "attention rollout, how much of each patch reaches the class token through all blocks"
        if isinstance(method, ViT)
        else "how much each place of the last map speaks for the class found"
    )
    panels: list[Panel] = []
    for title, places, kind, failures in (
        ("Where it looks", right, "right", False),
        ("Where it looks when it is wrong", wrong, "wrong", True),
    ):
        chosen = [places[i] for i in spread_out(len(places), SHOWN)] if places else []
        rows = [_row(method, judged, i) for i in chosen]
        about = f"Held-out pictures, evenly spread over those that are {kind}; the map is {where}. Then likely classes."
        if rows:
            panels.append(Gallery(title, about, rows, failures))
    return panels


def _row(method: PictureClassifier, judged: Judged, position: int) -> tuple[Item, list[Item]]:
    image, label = judged.part.picture(position), judged.part.labels[position]
    share_K = judged.logits_NK[position].softmax(0)
    items = [Item(image=look(method, image), note="where it looks")]
    for i in share_K.argsort(descending=True)[: min(GUESSES, len(method.classes))].tolist():
        name = method.classes[i]
        items.append(Item(text=name, score=float(share_K[i]), good=name == label))
    return Item(image=image, text=judged.part.caption(position), note=label), items


def look(method: PictureClassifier, image: Image.Image) -> Image.Image:
    """Return a picture with what the model looks at laid over it."""
    assert isinstance(method, ViT | Swin)
    processor = method.processors["image"]
    fitted = processor.fitted(image) if hasattr(processor, "fitted") else image
    return overlay(fitted, method.looks([image])[0])
