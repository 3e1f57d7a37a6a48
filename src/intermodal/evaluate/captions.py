"""The one evaluation of every captioner: its captions of held-out pictures beside people's, and beside baselines.

Beside each figure, under its name with a prefix, stand what captions that nobody wrote for the picture reach: ``nearest_``
(the first caption of the training picture that is nearest in a space of pictures and texts), ``frequent_`` (the most
frequent training caption, for every picture) and ``chance_`` (the first caption of a training picture drawn at random).
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from intermodal.core.capabilities import Captions, Embeds
from intermodal.core.captioning import Caption, Captioning
from intermodal.core.progress import Progress
from intermodal.data.source import SourceConfig
from intermodal.evaluate.encoding import Steps, embed_texts, image_encoder
from intermodal.evaluate.looking_picture import draw_looking
from intermodal.evaluate.pairs import SEED, Pairs, embed_pairs, pair_figures
from intermodal.evaluate.result import Evaluation, Figure, Gallery, Headline, Item, Panel, Table
from intermodal.metrics.captions import bleu_4, cider_d, distinct, rouge_l

MOST, QUICK, TRAIN = 1000, 200, 6000
BATCH = 64
SHOWN, LOOKED = 12, 3
FEW = 0.25
"""Below this share of distinct captions the evaluation warns."""
FIGURES = {
    "cider": "CIDEr",
    "bleu4": "BLEU-4",
    "rouge_l": "ROUGE-L",
    "clip_score": "CLIP score",
    "distinct": "distinct",
    "seconds": "seconds a caption",
}


@dataclass
class CaptionJudgement:
    """What the panels are drawn from.

    Attributes:
        name: of the method.
        metrics: all figures by name.
        pairs: the pictures and their references.
        captions: one for each picture.
        cider: of each.
        nearest: the nearest training picture's caption, where it was looked for.
        about: what was judged, in a sentence.
    """

    name: str
    metrics: dict[str, float]
    pairs: Pairs
    captions: list[Caption]
    cider: list[float]
    nearest: list[str]
    about: str


def evaluate_captions(
    captioner: Captions,
    source: SourceConfig,
    split: str,
    progress: Progress,
    *,
    judge: Embeds | None = None,
    settings: Captioning | None = None,
    full: bool = True,
) -> Evaluation:
    """Judge a captioner on pictures with captions.

    Args:
        captioner: writes captions.
        source: yields ``image`` and ``text``, and may yield ``captions``, all of a picture's.
        split: of it.
        progress: told what is done.
        judge: embeds pictures and texts, for the CLIP score and the nearest neighbour; the captioner itself by default.
        settings: of the captioner; greedy by default.
        full: up to 1,000 pictures, with baselines and panels; else up to 200, the figures alone.

    Raises:
        DataError: if the split is not there or empty.
    """
    start = time.monotonic()
    space = judge or (captioner if isinstance(captioner, Embeds) else None)
    if space is None:
        raise TypeError("A captioner that embeds nothing needs a judge that does.")
    weights = {"Embedding pictures": 2.0, "Captioning": 6.0, "Embedding texts": 1.0}
    steps = Steps(progress, weights | ({"Finding the nearest": 4.0, "Drawing": 1.0} if full else {}))
    opened, report = source.open(split), steps.of("Embedding pictures")
    pairs, (image,) = embed_pairs(opened, [image_encoder(space)], MOST if full else QUICK, source, report)
    captions, seconds = _written(captioner, pairs, settings, steps)
    said = [caption.text for caption in captions]
    report = steps.of("Embedding texts")
    each = cider_d(said, pairs.captions)
    metrics = caption_figures(said, pairs.captions, image, embed_texts(space, said, report), cider=each)
    metrics |= {"seconds": seconds / len(said), "ended": float(np.mean([c.ended for c in captions]))}
    if judge is None:
        found = pair_figures(image, embed_texts(space, pairs.texts), pairs)
        metrics |= {name: found[name] for name in ("r10", "r5", "r1")}
        metrics["chance_r10"] = min(10 / len(said), 1.0)
    name = str(getattr(captioner, "id", type(captioner).__name__))
    about = (
        f"{len(said):,} pictures of the {split} split, {np.mean([len(c) for c in pairs.captions]):.1f} references each."
    )
    if not full:
        return Evaluation(split, metrics, [], time.monotonic() - start)
    judged = CaptionJudgement(name, metrics, pairs, captions, each, [], about)
    _compare(judged, source, space, image, steps)
    steps("Drawing")
    return Evaluation(split, judged.metrics, panels(judged, captioner), time.monotonic() - start, headline(judged))


def caption_figures(
    said: list[str],
    references: list[list[str]],
    image: np.ndarray,
    text: np.ndarray,
    *,
    cider: list[float] | None = None,
) -> dict[str, float]:
    """Return the figures of captions.

    Args:
        said: one caption a picture.
        references: those that people wrote.
        image: unit vectors of the pictures, ``(B, D)``.
        text: those of the captions, in the same space.
        cider: CIDEr-D of each caption, where it is known.

    Returns:
        ``cider``, ``bleu4``, ``rouge_l``, ``clip_score`` (2.5 times the cosine, at least 0; Hessel et al. 2021, section 3)
        and ``distinct``, each the mean over pictures (``bleu4`` over all together).
    """
    cosine = (image * text).sum(1)
    return {
        "cider": float(np.mean(cider_d(said, references) if cider is None else cider)),
        "bleu4": bleu_4(said, references),
        "rouge_l": float(np.mean(rouge_l(said, references))),
        "clip_score": float(np.mean(2.5 * np.maximum(cosine, 0))),
        "distinct": distinct(said),
    }


def _written(
    captioner: Captions, pairs: Pairs, settings: Captioning | None, steps: Steps
) -> tuple[list[Caption], float]:
    """Return all captions, and the seconds that writing took, without reading pictures."""
    found: list[Caption] = []
    seconds, count = 0.0, len(pairs.indices)
    report = steps.of("Captioning")
    for first in range(0, count, BATCH):
        pictures = [pairs.picture(i) for i in range(first, min(first + BATCH, count))]
        begun = time.perf_counter()
        found += captioner.caption(pictures, settings)
        seconds += time.perf_counter() - begun
        report(len(found) / count)
    return found, seconds


def _compare(judged: CaptionJudgement, source: SourceConfig, space: Embeds, image: np.ndarray, steps: Steps) -> None:
    """Add the figures of captions that belong to other pictures."""
    report = steps.of("Finding the nearest")
    train, (known,) = embed_pairs(source.open("train"), [image_encoder(space)], TRAIN, source, report)
    first = [captions[0] for captions in train.captions]
    judged.nearest = [first[i] for i in (image @ known.T).argmax(1)]
    common = Counter(text for captions in train.captions for text in captions)
    most = max(common, key=lambda text: (common[text], text))
    drawn = np.random.default_rng(SEED).integers(len(first), size=len(image))
    others = {"nearest": judged.nearest, "frequent": [most] * len(image), "chance": [first[i] for i in drawn]}
    for name, said in others.items():
        figures = caption_figures(said, judged.pairs.captions, image, embed_texts(space, said))
        judged.metrics |= {f"{name}_{k}": v for k, v in figures.items()}


def headline(judged: CaptionJudgement) -> Headline:
    """Say the result in words."""
    m = judged.metrics
    sentence = (
        f"CIDEr of its captions of {len(judged.captions):,} pictures that it was not trained on, on a scale to 10. "
        f"The caption of the nearest training picture reaches {m['nearest_cider']:.2f}, the most frequent caption "
        f"{m['frequent_cider']:.2f}."
    )
    if m["distinct"] < FEW:
        sentence += f" Captions repeat: only {m['distinct']:.0%} are distinct."
    return Headline(f"{m['cider']:.2f}", sentence)


def panels(judged: CaptionJudgement, captioner: Any) -> list[Panel]:
    """Return everything that is worth seeing."""
    rng = np.random.default_rng(SEED)
    chosen = [int(i) for i in rng.permutation(len(judged.captions))[:SHOWN]]
    worst = [int(i) for i in np.argsort(judged.cider, kind="stable")[:SHOWN]]
    named = (("", judged.name), ("nearest_", "nearest training picture's"), ("frequent_", "most frequent"))
    rows: list[list[str | float | None]] = [
        [said, *(judged.metrics.get(who + name) for name in FIGURES)] for who, said in (*named, ("chance_", "random"))
    ]
    shown: list[Panel] = [
        Table("Captions", f"{judged.about} CIDEr-D goes to 10.", ["", *FIGURES.values()], rows, emphasis=0),
        _gallery(judged, chosen, "What it writes", "Pictures drawn at random; CIDEr of each caption beside it."),
    ]
    if hasattr(captioner, "looks_of"):
        found = captioner.looks_of([judged.pairs.picture(i) for i in chosen[:LOOKED]])
        drawn = [row for row in found[0] if row[1]]
        if drawn:
            about = (
                "Each word of a caption, and the places of the picture that it looked at more than the other words did."
            )
            shown.append(Figure("Where words look", about, draw_looking(drawn, found[1]), about))
    return [*shown, _gallery(judged, worst, "Far from every reference", "The captions of lowest CIDEr.", failures=True)]


def _gallery(judged: CaptionJudgement, chosen: list[int], title: str, about: str, *, failures: bool = False) -> Gallery:
    rows = []
    for i in chosen:
        query = Item(image=judged.pairs.picture(i), text=judged.pairs.captions[i][0], note="a person's")
        made = Item(text=judged.captions[i].text or "(nothing)", note=f"CIDEr {judged.cider[i]:.2f}")
        rows.append((query, [made, Item(text=judged.nearest[i], note="of the nearest training picture")]))
    return Gallery(title, about, rows, failures)
