"""Views as a person sees them, and what an encoder makes of them where pictures have no labels.

Without labels, what can be judged is what such an encoder is trained for: whether it finds a picture's second view among
the second views of all others (``view_r1``), how near two views of one picture are (``alignment``), how evenly pictures
spread (``uniformity``), and how many dimensions they use (``effective_rank``). Raw pixels stand beside it.

For a list of pairs (:mod:`intermodal.data.image_pairs`): whether pairs that belong together are more alike than pairs that
do not (``auroc``, the chance that a random pair of the first kind is; 0.5 is guessing).
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from intermodal.core.capabilities import Embeds
from intermodal.core.errors import DataError
from intermodal.core.progress import Progress
from intermodal.data.image_pairs import ImagePairSource
from intermodal.data.processors import ImageProcessor
from intermodal.data.source import Source, SourceConfig
from intermodal.data.transforms import ImageAugment
from intermodal.evaluate.baselines import raw_pixels
from intermodal.evaluate.encoding import Encoder, Steps, embed_pictures, image_encoder, unit
from intermodal.evaluate.result import Evaluation, Gallery, Headline, Item, in_percent
from intermodal.metrics.alignment import alignment, effective_rank, uniformity
from intermodal.metrics.retrieval import chance, retrieval

SHOWN, SHOWN_VIEWS = 8, 6
MOST, QUICK = 2000, 400
SEED = 0


def views_gallery(source: Source, processor: ImageProcessor, augment: ImageAugment | None) -> Gallery:
    """Return pictures, evenly picked from a source, and beside each what training makes of it.

    Where a sample holds several pictures (a group of one class, a listed pair), these are shown, each changed.
    """
    rows = []
    for place in range(0, len(source), max(1, len(source) // SHOWN))[:SHOWN]:
        image = source.sample(place)["image"]
        pictures = image if isinstance(image, list) else [image]
        encoded = torch.stack([processor.encode(p) for p in pictures])
        shown = pictures_of(encoded.float() / 255) if augment is None else changed(encoded, augment, place)
        rows.append((Item(image=pictures_of(encoded[:1].float() / 255)[0]), [Item(image=view) for view in shown]))
    return Gallery(
        "What training looks at",
        "At the left a training picture at the size that the network takes, beside it random views of it, drawn as in "
        f"training. The pictures are every {max(1, len(source) // SHOWN):,}th of the training split.",
        rows,
    )


def changed(image_KCHW: Tensor, augment: ImageAugment, seed: int) -> list[Image.Image]:
    """Return views of one picture (K = 1) or of each of K pictures, as a training batch would hold them."""
    generator = torch.Generator().manual_seed(seed)
    count = SHOWN_VIEWS if len(image_KCHW) == 1 else len(image_KCHW)
    single = augment.replace(views=1)
    uniform = single.draw(count, generator)
    pictures = image_KCHW if len(image_KCHW) == count else image_KCHW.expand(count, -1, -1, -1)
    return pictures_of(single.apply(pictures.float() / 255, uniform))


def pictures_of(image_NCHW: Tensor) -> list[Image.Image]:
    """Return float pictures in 0..1 as PIL images."""
    pixels = (image_NCHW * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous()
    return [Image.fromarray(p.numpy()) for p in pixels]


def evaluate_views(
    method: Embeds,
    source: SourceConfig,
    split: str,
    progress: Progress,
    *,
    processor: ImageProcessor,
    augment: ImageAugment,
    full: bool = True,
) -> Evaluation:
    """Judge an encoder on pictures without labels; see the module's text.

    Args:
        method: embeds ``"image"``.
        source: pictures; up to 2,000 of the split are judged (400 unless ``full``), a seeded choice.
        split: the judged split.
        progress: told what is done.
        processor: fits a picture to the size at which views are made.
        augment: how views are made, with a fixed seed: every judged model sees the same.
        full: with raw pixels beside it.

    Raises:
        DataError: if the split is empty or a picture is unreadable.
        TrainingError: if a vector is not finite.
    """
    start = time.monotonic()
    pictures = source.open(split)
    indices = np.random.default_rng(SEED).permutation(len(pictures))[: MOST if full else QUICK]
    single, generator = augment.replace(views=1), torch.Generator().manual_seed(SEED)
    report = Steps(progress, {"Embedding views": 1.0}).of("Embedding views")

    def views() -> list[Image.Image]:
        found = []
        for index in indices:
            encoded = processor.encode(pictures.sample(int(index))["image"]).float()[None] / 255
            found += pictures_of(single.apply(encoded.expand(2, -1, -1, -1), single.draw(2, generator)))
        return found

    encoders: list[Encoder] = [image_encoder(method), *([raw_pixels] if full else [])]
    vectors = embed_pictures(encoders, views(), 2 * len(indices), report)
    metrics: dict[str, float] = {}
    for prefix, rows in zip(("", "pixels_"), vectors, strict=False):
        one, two = (torch.from_numpy(unit(rows[side::2])) for side in (0, 1))
        right = list(range(len(one)))
        both = [retrieval(a, b, right, ks=(1, 5))["R@1"] for a, b in ((one, two), (two, one))]
        metrics[f"{prefix}view_r1"] = sum(both) / 2
        metrics[f"{prefix}alignment"] = alignment(one, two)
        metrics[f"{prefix}uniformity"] = uniformity(one) if len(one) > 1 else float("nan")
        metrics[f"{prefix}effective_rank"] = effective_rank(one)
    metrics["chance_view_r1"] = chance(list(range(len(indices))), len(indices), len(indices), ks=(1,))["R@1"]
    headline = None
    if full:
        headline = Headline(
            in_percent(metrics["view_r1"]),
            f"of {len(indices):,} pictures find their own second view first, among those of all others; by raw pixels "
            f"{in_percent(metrics['pixels_view_r1'])} do.",
        )
    return Evaluation(split, metrics, [], time.monotonic() - start, headline)


def evaluate_listed_pairs(
    method: Embeds, source: ImagePairSource, split: str, progress: Progress, *, full: bool = True
) -> Evaluation:
    """Judge an encoder on a list of pairs by the area under the ROC curve of their cosines; see the module's text.

    Args:
        method: embeds ``"image"``.
        source: the list.
        split: the judged split.
        progress: told what is done.
        full: with raw pixels beside it, and with the pairs that are judged most wrongly.

    Raises:
        DataError: if the split holds pairs of one kind only.
    """
    start = time.monotonic()
    pairs = source.open(split)
    same = np.array([pair.same for pair in pairs.pairs])
    if same.all() or not same.any():
        raise DataError(f"All {len(same)} pairs of {pairs.name} are of one kind: judging takes both.")
    report = Steps(progress, {"Embedding pairs": 1.0}).of("Embedding pairs")
    encoders: list[Encoder] = [image_encoder(method), *([raw_pixels] if full else [])]
    pictures = (picture for i in range(len(pairs)) for picture in pairs.sample(i)["image"])
    vectors = [unit(rows) for rows in embed_pictures(encoders, pictures, 2 * len(pairs), report)]
    cosines = [(rows[0::2] * rows[1::2]).sum(1) for rows in vectors]
    metrics = {"auroc": auroc(cosines[0], same), "chance_auroc": 0.5, "pairs": float(len(same))}
    if not full:
        return Evaluation(split, metrics, [], time.monotonic() - start)
    metrics["pixels_auroc"] = auroc(cosines[1], same)
    headline = Headline(
        in_percent(metrics["auroc"]),
        f"is the chance that a pair that belongs together is more alike than one that does not, over {len(same):,} pairs; "
        f"raw pixels reach {in_percent(metrics['pixels_auroc'])}, guessing 50 %.",
    )
    return Evaluation(split, metrics, [_mistakes(pairs, cosines[0], same)], time.monotonic() - start, headline)


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Return the chance that a random positive scores above a random negative, ties counted half (Mann & Whitney 1947)."""
    order = np.argsort(scores, kind="stable")
    ranks = np.empty(len(scores))
    values, first, count = np.unique(scores[order], return_index=True, return_counts=True)
    ranks[order] = np.repeat(first + (count + 1) / 2, count)
    del values
    ones = int(positive.sum())
    return float((ranks[positive].sum() - ones * (ones + 1) / 2) / (ones * (len(scores) - ones)))


def _mistakes(pairs: Source, cosine: np.ndarray, same: np.ndarray) -> Gallery:
    rows = []
    wrong: Sequence[int] = [
        *np.flatnonzero(same)[np.argsort(cosine[same])[: SHOWN // 2]],
        *np.flatnonzero(~same)[np.argsort(-cosine[~same])[: SHOWN // 2]],
    ]
    for i in wrong:
        one, two = pairs.sample(int(i))["image"]
        told = "belongs together" if same[i] else "does not belong together"
        rows.append((Item(image=one, note=told), [Item(image=two, score=float(cosine[i]), good=False)]))
    about = "The pairs that belong together and are least alike, then those that do not and are most alike (cosine)."
    return Gallery("Pairs judged most wrongly", about, rows, failures=True)
