"""What a person sees of a generator of pictures: what it drew for texts, and what it may have copied.

Nothing is chosen by hand: texts are evenly spread over the held-out ones or the fixed list below, seeds are 0, 1, 2, 3, and
what is near to training pictures is ranked by distance.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from intermodal.evaluate.energy import spread_out
from intermodal.evaluate.generation import CHUNK, Draw, Judged
from intermodal.evaluate.result import Gallery, Item, Panel, Table

PROMPTS = (
    "a blue apple",
    "a green heart",
    "a red cat",
    "two yellow stars",
    "a smiling moon",
    "a purple fish",
    "a black umbrella",
    "a robot with a flower",
)
"""What nobody drew."""
SEEDS, TEXTS, SHOWN = 4, 8, 12


def panels(judged: Judged) -> list[Panel]:
    """Return the panels of a full evaluation."""
    shown: list[Panel] = [_table(judged.metrics)]
    if judged.held_out.texts:
        shown.append(_for_held_out(judged))
        if judged.told == "text":
            shown.append(for_prompts(judged.draw, PROMPTS))
    else:
        rows = [
            (Item(text="drawn"), [Item(image=image) for image in judged.drawn[first : first + SHOWN]])
            for first in range(0, min(len(judged.drawn), 4 * SHOWN), SHOWN)
        ]
        shown.append(Gallery("What it draws", "The first pictures that were judged, not picked.", rows))
    near = [judged.nearest(i)[1] for i in range(len(judged.drawn))]
    about = (
        "The first pictures that were judged; under each the nearest training picture by features, and its distance."
    )
    shown.append(_beside(judged, "Beside training pictures", about, range(min(SHOWN, len(near)))))
    about = "The drawn pictures that are nearest to a training picture: were any copied, they would be here."
    closest = np.argsort(near, kind="stable")[:SHOWN].tolist()
    return [*shown, _beside(judged, "Nearest to training pictures", about, closest)]


def _table(metrics: dict[str, float]) -> Table:
    names = {
        "frechet": "Fréchet distance on features-v1, less is better",
        "kid": "kernel distance on features-v1, less is better",
        "precision": "precision",
        "recall": "recall",
        "novelty": "novelty",
        "clip_score": "cosine of picture and text, by the judge",
        "clip_r1": "own text is the most similar",
        "clip_r10": "own text is among ten",
    }
    prefixes = ("", "chance_", "training_", "real_")
    rows: list[list[str | float | None]] = [
        [words, *(metrics.get(who + name) for who in prefixes)] for name, words in names.items() if name in metrics
    ]
    rows.append(["seconds a picture", metrics["seconds_per_picture"], None, None, None])
    about = (
        f"Over {metrics['pictures']:.0f} pictures and as many held-out ones. Chance is a Gaussian of the training pictures' "
        "pixels, and wrong texts."
    )
    return Table("Figures", about, ["", "drawn", "chance", "training pictures", "held-out pictures"], rows)


def _for_held_out(judged: Judged) -> Gallery:
    """Return some held-out prompts beside their true pictures, and what is drawn for each."""
    chosen: dict[str, Image.Image] = {}
    for text, image in zip(judged.held_out.texts, judged.held_out.images, strict=True):
        chosen.setdefault(text, image)
    texts = [list(chosen)[i] for i in spread_out(len(chosen), TEXTS)]
    rows = [
        (Item(image=chosen[text], text=text, note="the true picture"), items)
        for text, items in zip(texts, drawn_for(judged.draw, texts), strict=True)
    ]
    kind = "texts" if judged.told == "text" else "classes"
    about = f"{len(texts)} of the held-out pictures' {kind}, evenly spread, with the seeds 0 to {SEEDS - 1}."
    return Gallery(f"Drawn for held-out {kind}", about, rows)


def for_prompts(draw: Draw, prompts: Sequence[str]) -> Gallery:
    """Return what is drawn for prompts of which there is no picture."""
    rows = [(Item(text=text), items) for text, items in zip(prompts, drawn_for(draw, prompts), strict=True)]
    about = f"There is no picture of any of these. Seeds 0 to {SEEDS - 1}, nothing picked."
    return Gallery("Drawn for prompts that nobody drew", about, rows)


def drawn_for(draw: Draw, texts: Sequence[str | None], seeds: int = SEEDS) -> list[list[Item]]:
    """Return ``seeds`` pictures for each text, with the seeds 0, 1, 2..."""
    asked: list[tuple[str | None, int]] = [(text, seed) for text in texts for seed in range(seeds)]
    images: list[Image.Image] = []
    for first in range(0, len(asked), CHUNK):
        part = asked[first : first + CHUNK]
        images += draw([text for text, _ in part], [seed for _, seed in part])
    return [[Item(image=image) for image in images[i * seeds : (i + 1) * seeds]] for i in range(len(texts))]


def _beside(judged: Judged, title: str, about: str, shown: Sequence[int]) -> Gallery:
    """Return drawn pictures above their nearest training pictures."""
    found = [judged.nearest(i) for i in shown]
    rows = [
        (Item(text="drawn"), [Item(image=judged.drawn[i]) for i in shown]),
        (Item(text="nearest training picture"), [Item(image=image, note=f"{far:.2f}") for image, far in found]),
    ]
    return Gallery(title, about, rows)
