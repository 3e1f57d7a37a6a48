"""Judges a binding model: every pair of modalities, the one that was never trained, the cross-modal block and its maps.

On held-out samples (of the emoji set: one style of the held-out concepts at a time, averaged over styles) each modality
looks for the same sample in each other: ``text_to_image_r10``, ``sketch_to_image_r10`` and so on. ``text_to_sketch_r10``
and ``sketch_to_text_r10`` were never trained: ``emergent_r10`` is their mean. Its baselines are chance, the same model's
towers before training (``random_``), and the way through the picture that a person could take instead: the drawing's
nearest training picture speaks for it (``through_``). ``match_r1`` orders the dot product's ten best once more by the
cross-modal block, beside ``match_before_r1``, what the dot product alone puts first.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import permutations

import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image

from intermodal.core.progress import Progress
from intermodal.data.emoji import EmojiPictures, EmojiSource
from intermodal.data.sketch import Sketched, SketchedSource
from intermodal.data.source import Source, SourceConfig
from intermodal.data.spoken import SpokenPictures, SpokenPicturesSource
from intermodal.evaluate.binding_sound import judge_sounds
from intermodal.evaluate.encoding import BATCH
from intermodal.evaluate.result import Evaluation, Gallery, Headline, Item, Panel, Table, in_percent
from intermodal.methods.contrastive.binding import Binding
from intermodal.metrics.retrieval import chance, retrieval

RERANKED = 10
MOST = 2000
QUICK = 500
SHOWN = 8
MAP_SIDE = 128


def evaluate_binding(
    method: Binding, source: SourceConfig, split: str, progress: Progress, *, full: bool = True
) -> Evaluation:
    """Judge a binding model on one split of its source.

    Args:
        method: the model.
        source: opens into samples with ``image`` and ``text``, and ``sketch`` where the model has its tower.
        split: which to judge.
        progress: told what is done.
        full: with baselines and panels; else the figures of at most 500 samples.

    Raises:
        DataError: if the split is not there.
    """
    start = time.monotonic()
    if isinstance(source, SketchedSource | SpokenPicturesSource) and isinstance(source.pictures, EmojiSource):
        source = source.replace(pictures__unit="picture")
    opened = source.open(split)
    galleries = _galleries(opened, MOST if full else QUICK)
    progress("Embedding every modality", 0.0)
    found: list[dict[str, np.ndarray]] = []
    for number, rows in enumerate(galleries):
        found.append(_embedded(method, opened, rows))
        progress("Embedding every modality", 0.6 * (number + 1) / len(galleries))
    metrics = _pairs(method, found)
    if method.config.match_weight:
        metrics |= _reranked(method, opened, galleries, found, most=len(galleries) if full else 1)
    progress("Judging pairs of modalities", 0.8)
    if not full:
        if isinstance(opened, SpokenPictures):
            metrics |= judge_sounds(method, opened, [], None, progress)[0]
        return Evaluation(split, _ordered(metrics), [], time.monotonic() - start)
    metrics |= _chance(galleries, list(metrics))
    untrained = _untrained(method)
    rows = galleries[0]
    metrics |= {f"random_{k}": v for k, v in _pairs(untrained, [_embedded(untrained, opened, rows)]).items()}
    if "sketch" in method.modalities:
        metrics |= _through(method, source, found)
    progress("Drawing maps", 0.95)
    panels: list[Panel] = [_table(metrics, method), *_shown(method, opened, galleries[0], found[0])]
    if isinstance(opened, SpokenPictures):
        trained_on = opened.pictures.config.replace(unit="concept").open("train")
        texts = [trained_on.sample(i)["text"] for i in range(len(trained_on))]
        figures, heard = judge_sounds(method, opened, texts, untrained, progress)
        metrics |= figures
        panels = [*heard, *panels]
    ordered = _ordered(metrics)
    return Evaluation(split, ordered, panels, time.monotonic() - start, _headline(ordered, len(galleries[0])))


def _galleries(opened: Source, most: int) -> list[list[int]]:
    """Return which samples are searched together: of the emoji set those of one style, so that each concept occurs once."""
    pictures = opened.pictures if isinstance(opened, Sketched | SpokenPictures) else opened
    if not isinstance(pictures, EmojiPictures):
        return [list(range(min(len(opened), most)))]
    styles: dict[str, list[int]] = {}
    for row, facts in enumerate(pictures.rows):
        styles.setdefault(facts["style"], []).append(row)
    return [rows[:most] for rows in styles.values()]


def _embedded(method: Binding, opened: Source, rows: Sequence[int]) -> dict[str, np.ndarray]:
    seen = [m for m in method.modalities if m != "audio"]  # sounds belong to a few pictures of their own
    parts: dict[str, list[np.ndarray]] = {m: [] for m in seen}
    for start in range(0, len(rows), BATCH):
        samples = [opened.sample(i) for i in rows[start : start + BATCH]]
        for modality in seen:
            parts[modality].append(method.embed(modality, [s[modality] for s in samples]))
    return {m: np.concatenate(p) for m, p in parts.items()}


def _pairs(method: Binding, found: list[dict[str, np.ndarray]]) -> dict[str, float]:
    """Return each direction's recall, the mean over galleries, and the mean of those that were never trained."""
    metrics: dict[str, float] = {}
    for query, gallery in permutations(found[0], 2):
        scores = [
            retrieval(torch.from_numpy(f[query]), torch.from_numpy(f[gallery]), list(range(len(f[query]))))
            for f in found
        ]
        for k in ("R@1", "R@10"):
            name = f"{query}_to_{gallery}_{k.replace('R@', 'r')}"
            metrics[name] = float(np.mean([s[k] for s in scores]))
    if "sketch" in method.modalities:
        metrics["emergent_r10"] = (metrics["text_to_sketch_r10"] + metrics["sketch_to_text_r10"]) / 2
    return metrics


def _chance(galleries: list[list[int]], names: list[str]) -> dict[str, float]:
    """Return what a random order of each gallery reaches, for every figure, under its name with a prefix."""
    by_chance = [chance(list(range(len(g))), len(g), len(g)) for g in galleries]
    shares = {k.replace("R@", "r"): float(np.mean([c[k] for c in by_chance])) for k in ("R@1", "R@10")}
    return {f"chance_{name}": shares[name.rpartition("_")[2]] for name in names}


def _untrained(method: Binding) -> Binding:
    """Return the same model with other, random weights."""
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    other = Binding(method.config, method.processors).eval()
    torch.random.set_rng_state(state)
    return other


def _reranked(
    method: Binding, opened: Source, galleries: list[list[int]], found: list[dict[str, np.ndarray]], most: int
) -> dict[str, float]:
    """Return how often a text's own picture is first among the dot product's ten best, before and after the block's word."""
    before, after, count = 0, 0, 0
    for rows, vectors in list(zip(galleries, found, strict=True))[:most]:
        best = np.argsort(-(vectors["text"] @ vectors["image"].T), axis=1, kind="stable")[:, :RERANKED]
        samples = [opened.sample(i) for i in rows]
        for i, near in enumerate(best):
            scores = method.match_scores([samples[j]["image"] for j in near], [samples[i]["text"]])[:, 0]
            before += int(near[0] == i)
            after += int(near[int(scores.argmax())] == i)
            count += 1
    return {"match_r1": after / count, "match_before_r1": before / count}


def _through(method: Binding, source: SourceConfig, found: list[dict[str, np.ndarray]]) -> dict[str, float]:
    """Return sketch to text by way of training pictures: the drawing's nearest one is looked up in its place."""
    opened = source.open("train")
    rows = list(range(0, len(opened), max(len(opened) // MOST, 1)))[:MOST]
    train = np.concatenate(
        [
            method.embed("image", [opened.sample(i)["image"] for i in rows[s : s + BATCH]])
            for s in range(0, len(rows), BATCH)
        ]
    )
    scores = []
    for vectors in found:
        nearest = train[(vectors["sketch"] @ train.T).argmax(1)]
        right = list(range(len(nearest)))
        scores.append(retrieval(torch.from_numpy(nearest), torch.from_numpy(vectors["text"]), right)["R@10"])
    return {"through_sketch_to_text_r10": float(np.mean(scores))}


def _ordered(metrics: dict[str, float]) -> dict[str, float]:
    first = [
        n
        for n in (
            "audio_to_text_accuracy",
            "text_to_audio_map",
            "emergent_r10",
            "text_to_image_r10",
            "image_to_text_r10",
            "match_r1",
        )
        if n in metrics
    ]
    return {n: metrics[n] for n in [*first, *(n for n in metrics if n not in first)]}


def _table(metrics: dict[str, float], method: Binding) -> Table:
    rows: list[list[str | float | None]] = []
    for query, gallery in permutations([m for m in method.modalities if m != "audio"], 2):
        trained = "image" in (query, gallery)
        name = f"{query}_to_{gallery}_r10"
        rows.append(
            [f"{query} to {gallery}", "trained" if trained else "emergent", metrics[name], metrics[f"random_{name}"]]
        )
    rows.append(["chance", "", metrics["chance_text_to_image_r10"], None])
    return Table(
        "Every modality looks for every other",
        "The share of queries whose own sample is among the first ten. Texts and drawings were never paired in training.",
        ["query and gallery", "pair", "R@10", "R@10 with random weights"],
        rows,
    )


def _headline(metrics: dict[str, float], size: int) -> Headline:
    if "audio_to_text_accuracy" in metrics:
        return Headline(
            in_percent(metrics["audio_to_text_accuracy"]),
            "of spoken words by an unheard speaker find their own text, though no sound was ever paired with a text: both "
            f"know the same pictures. Chance finds {in_percent(metrics['chance_audio_to_text_accuracy'])}, random weights "
            f"{in_percent(metrics['random_audio_to_text_accuracy'])}; the trained way from sound to picture "
            f"{in_percent(metrics['audio_to_image_accuracy'])}.",
        )
    if "emergent_r10" not in metrics:
        return Headline(
            in_percent(metrics["text_to_image_r10"]),
            f"of the texts find their own picture among the first ten of {size}; chance finds "
            f"{in_percent(metrics['chance_text_to_image_r10'])}.",
        )
    return Headline(
        in_percent(metrics["emergent_r10"]),
        f"of texts and line drawings, which were never paired in training, find each other among the first ten of {size}; "
        f"chance finds {in_percent(metrics['chance_emergent_r10'])}, random weights "
        f"{in_percent((metrics['random_text_to_sketch_r10'] + metrics['random_sketch_to_text_r10']) / 2)}. "
        f"The trained way from text to picture reaches {in_percent(metrics['text_to_image_r10'])}.",
    )


def _shown(method: Binding, opened: Source, rows: list[int], vectors: dict[str, np.ndarray]) -> list[Gallery]:
    samples = [opened.sample(i) for i in rows]
    chosen = range(0, len(rows), max(len(rows) // SHOWN, 1))
    panels = []
    if "sketch" in method.modalities:
        order = np.argsort(-(vectors["text"] @ vectors["sketch"].T), axis=1)[:, :6]
        lines = [
            (
                Item(text=samples[i]["text"]),
                [
                    Item(
                        samples[j]["sketch"], samples[j]["text"].partition(",")[0], _cosine(vectors, i, j), bool(i == j)
                    )
                    for j in order[i]
                ],
            )
            for i in chosen
        ]
        panels.append(
            Gallery(
                "Texts look for drawings, a pair that was never trained",
                f"Every {max(len(rows) // SHOWN, 1)}th held-out text, with the nearest drawings.",
                lines,
            )
        )
    if method.config.match_weight:
        panels.append(_maps(method, [samples[i] for i in chosen]))
    return panels


def _cosine(vectors: dict[str, np.ndarray], text: int, drawing: int) -> float:
    return float(vectors["text"][text] @ vectors["sketch"][drawing])


def _maps(method: Binding, samples: Sequence[dict]) -> Gallery:
    lines = []
    for sample in samples:
        text = sample["text"].partition(",")[0]
        names, maps = method.attention_map(sample["image"], text)
        words = [n.strip() if not n.startswith("<|") else "(end of text)" for n in names]
        items = [Item(overlay(sample["image"], m), n) for n, m in zip(words, maps, strict=True) if n]
        lines.append((Item(sample["image"], text), items[:6]))
    return Gallery(
        "Where each word looks",
        "The cross-modal block's attention, the mean over its heads, for each token of the name: bright where the token "
        "looks, each map scaled to its own brightest place.",
        lines,
    )


def overlay(image: Image.Image, weights_HW: np.ndarray) -> Image.Image:
    """Return a picture with weights laid over it as heat: transparent at the least, strongest at the greatest."""
    picture = image.convert("RGB").resize((MAP_SIDE, MAP_SIDE), Image.Resampling.BICUBIC)
    low, high = float(weights_HW.min()), float(weights_HW.max())
    scaled = (weights_HW - low) / (high - low if high > low else 1.0)
    grey = Image.fromarray((255 * scaled).astype(np.uint8)).resize((MAP_SIDE, MAP_SIDE), Image.Resampling.BICUBIC)
    strength = np.asarray(grey, np.float32)[..., None] / 255
    heat = colormaps["inferno"](strength[..., 0])[..., :3] * 255
    faded = 0.35 * np.asarray(picture, np.float32) + 0.65 * 255
    mixed = faded * (1 - 0.75 * strength) + heat * (0.75 * strength)
    return Image.fromarray(mixed.clip(0, 255).astype(np.uint8))
