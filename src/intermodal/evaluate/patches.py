"""Judges patch tokens: the class that patches vote for, and the linear map beside the principal components of patches.

- ``top1``, ``top5``: the share of judged pictures whose class has the largest mean vote of the patches, or one of the five
  largest; ``class_top1`` averaged over the classes. ``patch_top1``: the mean share of a picture's patches that, each by
  itself, have the picture's class first.
- Beside them ``chance_top1``, one of the K classes by lot, ``majority_top1``, the most frequent class of the training
  pictures, and ``pixels_top1``, the 20 nearest training pictures in raw pixels, as :mod:`intermodal.evaluate.frozen` judges
  them.
- ``error``: the mean squared error of what comes back, of numbers in -1..1, at ``bits_per_pixel`` of the tokenizer's own
  figures; ``pca_error``, ``pca_bits_per_pixel``: the same of the D principal components of the training pictures' patches,
  rounded and counted in the same way, the widths of their distributions those that are cheapest for training pictures. Of
  linear tokens side by side alone. Where nothing is rounded no linear map of D numbers has a smaller error on those.

The classes are those of the training split. A judged picture of another class counts as wrong.

    N pictures   h, w places of the tokens, L = h w   P numbers of a patch   D numbers of a token   K classes
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from intermodal.core.progress import Progress
from intermodal.data.source import SourceConfig
from intermodal.evaluate.baselines import raw_pixels
from intermodal.evaluate.binding import overlay
from intermodal.evaluate.encoding import Steps
from intermodal.evaluate.energy import read_pictures, spread_out
from intermodal.evaluate.frozen_data import LabelledPart, read_part
from intermodal.evaluate.result import Bars, Gallery, Item, Panel
from intermodal.methods.image_tokenizers.patches import Patches, laplace_nats
from intermodal.methods.image_tokenizers.tokenizer import evaluating
from intermodal.metrics.classification import mean_class_accuracy, top_k_accuracy
from intermodal.metrics.knn import knn_scores
from intermodal.nn.patches import join
from intermodal.nn.patches import split as split_into_patches

MOST_TRAIN, MOST_JUDGED, QUICK, FITTED, HELD = 20_000, 10_000, 400, 4000, 512
SHOWN, BASIS, PIXELS_SIDE = 8, 24, 16
KS = (1, 5)


@torch.no_grad()
def extras(
    method: Patches, source: SourceConfig, split: str, progress: Progress, *, full: bool
) -> tuple[dict[str, float], list[Panel]]:
    """Return the figures of the module's text, and in full the panels.

    Args:
        method: the model.
        source: pictures; with a class each, if the model has classes.
        split: what to judge on.
        progress: told what is done.
        full: everything; else the classes of 400 pictures.
    """
    steps = Steps(progress, {"Reading pictures": 6, "Comparing with raw pixels": 6, "Drawing": 2})
    metrics: dict[str, float] = {}
    panels: list[Panel] = []
    with evaluating(method):
        if method.classes:
            encoders = [lambda pictures: _votes(method, pictures), lambda pictures: raw_pixels(pictures, PIXELS_SIDE)]
            report, most = steps.of("Reading pictures"), MOST_JUDGED if full else QUICK
            part, (votes, pixels) = read_part(source, split, encoders, report, most)
            metrics = figures(votes, part, method.classes)
            if full:
                metrics |= _baselines(source, part, pixels, method.classes, steps)
        if not full:
            return metrics, []
        steps("Drawing")
        if method.classes:
            panels += [_bars(metrics), *_maps(method, part, votes)]
        if not method.config.stem and method.config.patches.side_by_side:
            train = read_pictures(source.open("train"), method.picture, FITTED)
            held = read_pictures(source.open(split), method.picture, HELD)
            metrics |= against_components(method, train, held)
        if not method.config.stem:
            panels.append(_basis(method, read_pictures(source.open(split), method.picture, HELD)))
    return metrics, panels


def _votes(method: Patches, pictures: Sequence[Image.Image]) -> np.ndarray:
    """Return the mean logits, then the share of patches that have each class first, ``(N, 2 K)``."""
    logits_NLK = method.votes(pictures).flatten(1, 2)
    first = torch.nn.functional.one_hot(logits_NLK.argmax(2), len(method.classes)).float().mean(1)
    return torch.cat([logits_NLK.mean(1), first], 1).numpy()


def figures(votes_N2K: np.ndarray, part: LabelledPart, classes: Sequence[str]) -> dict[str, float]:
    """Return how often the classes are right; a picture of an unknown class counts as wrong.

    Args:
        votes_N2K: mean logits, then the share of patches that have each class first.
        part: the judged pictures.
        classes: K names.
    """
    place = {name: i for i, name in enumerate(classes)}
    known = np.array([label in place for label in part.labels])
    share = float(known.mean())
    if not known.any():
        return {"top1": 0.0, "top5": 0.0, "class_top1": 0.0, "patch_top1": 0.0}
    label_M = torch.tensor([place[label] for label in part.labels if label in place])
    logits_MK, first_MK = torch.from_numpy(votes_N2K[known]).chunk(2, dim=1)
    accuracy = top_k_accuracy(logits_MK, label_M, KS)
    return {
        **{name: share * value for name, value in accuracy.items()},
        "class_top1": mean_class_accuracy(logits_MK, label_M),
        "patch_top1": share * first_MK.gather(1, label_M[:, None]).mean().item(),
    }


def _baselines(
    source: SourceConfig, part: LabelledPart, pixels: np.ndarray, classes: Sequence[str], steps: Steps
) -> dict[str, float]:
    """Return what the most frequent class and the nearest training pictures in raw pixels reach."""
    report = steps.of("Comparing with raw pixels")
    train, (known,) = read_part(source, "train", [lambda p: raw_pixels(p, PIXELS_SIDE)], report, MOST_TRAIN)
    place = {name: i for i, name in enumerate(classes)}
    label_N = torch.tensor([place[label] for label in train.labels])
    score_MK = knn_scores(torch.from_numpy(known), label_N, torch.from_numpy(pixels), classes=len(classes))
    nearest = figures(np.concatenate([score_MK.numpy(), score_MK.numpy()], 1), part, classes)
    frequent = Counter(train.labels).most_common(1)[0][0]
    majority = sum(label == frequent for label in part.labels) / len(part)
    return {"chance_top1": 1 / len(classes), "majority_top1": majority, "pixels_top1": nearest["top1"]}


def against_components(method: Patches, train_NCHW: Tensor, held_NCHW: Tensor) -> dict[str, float]:
    """Return the error of held-out pictures, and error and bits of the training patches' principal components."""
    config, (height, width) = method.config, held_NCHW.shape[2:]
    train, held = (split_into_patches(x, config.patches).double() for x in (train_NCHW, held_NCHW))
    centre = train.flatten(0, 1).mean(0)
    covariance = torch.cov(train.flatten(0, 1).T, correction=0)
    axes = torch.linalg.eigh(covariance).eigenvectors[:, -config.width :]
    token = (held - centre) @ axes
    found = {}
    if config.step:
        count = (token / config.step).round()
        widths = cheapest_widths((((train - centre) @ axes) / config.step).round().flatten(0, 1))
        nats = laplace_nats(count, widths).flatten(1).sum(1).mean().item()
        found["pca_bits_per_pixel"] = nats / math.log(2) / (height * width)
        token = count * config.step
    components = join(token @ axes.T + centre, config.patches, height, width)
    back = torch.cat([method.to_image(method.to_latent(x.to(method.device))).cpu() for x in held_NCHW.split(64)])
    errors = [(x.double() - held_NCHW.double()).square().mean().item() for x in (back, components)]
    return {"error": errors[0], "pca_error": errors[1], **found}


def cheapest_widths(count_ND: Tensor) -> Tensor:
    """Return the widths ``(D,)`` of Laplace distributions under which whole numbers cost least, to within 5 per cent."""
    tried = torch.exp(torch.arange(-3.0, 7.0, 0.1, dtype=count_ND.dtype, device=count_ND.device))
    cost = torch.stack([laplace_nats(count_ND, width).mean(0) for width in tried])
    return tried[cost.argmin(0)]


def _bars(metrics: dict[str, float]) -> Bars:
    names = {
        "top1": "mean of all patches",
        "patch_top1": "one patch by itself",
        "pixels_top1": "nearest pictures in raw pixels",
        "majority_top1": "always the most frequent class",
    }
    about = "The share of held-out pictures whose class is named first."
    return Bars("Which class?", about, list(names.values()), [metrics[name] for name in names], unit="%", emphasis=0)


def _maps(method: Patches, part: LabelledPart, votes_N2K: np.ndarray) -> list[Panel]:
    logits_NK = votes_N2K[:, : len(method.classes)]
    guesses = [method.classes[i] for i in logits_NK.argmax(1)]
    right = [i for i, (guess, label) in enumerate(zip(guesses, part.labels, strict=True)) if guess == label]
    wrong = [i for i, (guess, label) in enumerate(zip(guesses, part.labels, strict=True)) if guess != label]
    about = (
        "How probable each patch by itself finds the class: bright where it does most, each map scaled to its own range. "
        "The number is the largest probability of a patch. Held-out pictures, evenly spread over those that are "
    )
    panels: list[Panel] = []
    for title, places, kind, failures in (
        ("Where the votes come from", right, "right.", False),
        ("Votes for the wrong class", wrong, "wrong.", True),
    ):
        chosen = [places[i] for i in spread_out(len(places), SHOWN)] if places else []
        rows = [_map_row(method, part.picture(i), part.labels[i], guesses[i]) for i in chosen]
        if rows:
            panels.append(Gallery(title, about + kind, rows, failures))
    return panels


def _map_row(method: Patches, image: Image.Image, label: str, guess: str) -> tuple[Item, list[Item]]:
    items = []
    for name, good in dict.fromkeys([(label, True), (guess, guess == label)]):
        if name not in method.classes:
            items.append(Item(text=name, good=good, note="not among the training classes"))
            continue
        probability_hw = method.class_maps([image], name)[0]
        shown = overlay(method.picture.fitted(image), probability_hw)
        items.append(Item(image=shown, text=name, score=float(probability_hw.max()), good=good))
    return Item(image=image, text=label), items


def _basis(method: Patches, image_NCHW: Tensor) -> Gallery:
    """Return the rows of the linear map as small pictures, those that vary most first."""
    token_D = torch.cat([method.tokens(part.to(method.device)) for part in image_NCHW.split(64)]).flatten(0, 1)
    spread = token_D.float().var(0, correction=0).cpu()
    order = spread.argsort(descending=True)[:BASIS]
    rows = method.matrix().float().cpu()[order].unflatten(1, (3, *method.config.patches.sizes))
    scaled = rows / rows.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-12)
    items = [
        Item(image=image, note=f"{value:.2g}")
        for image, value in zip(method.picture.decode(scaled), spread[order].sqrt().tolist(), strict=True)
    ]
    lines = [(Item(text="patches"), items[i : i + 12]) for i in range(0, len(items), 12)]
    about = (
        "Rows of the matrix as patches (grey is 0), those whose numbers vary most between patches first; below each its "
        "standard deviation."
    )
    return Gallery("What a token's numbers stand for", about, lines)
