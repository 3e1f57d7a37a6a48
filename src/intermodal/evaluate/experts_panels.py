"""What a report shows of modality experts: their uses beside each other, exchanged experts, holes, captions, and looks."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from intermodal.data.processors import ImageProcessor
from intermodal.evaluate.experts import AGAIN, ExpertJudgement
from intermodal.evaluate.galleries import pictures_for
from intermodal.evaluate.looking_picture import draw_looking
from intermodal.evaluate.pairs import SEED
from intermodal.evaluate.result import Figure, Gallery, Item, Panel, Table
from intermodal.methods.vision_language.expert_parts import some

SHOWN, LOOKED, ENLARGED = 8, 3, 96


def panels(judged: ExpertJudgement) -> list[Panel]:
    """Return everything that is worth seeing."""
    m, count = judged.metrics, len(judged.pictures)
    rng = np.random.default_rng(SEED)
    queries = [int(i) for i in rng.permutation(len(judged.pairs.texts))[:SHOWN]]
    chosen = [int(i) for i in rng.permutation(count)[:SHOWN]]
    orders: list[list[str | float | None]] = [
        [said, m[f"{name}r1"], m[f"{name}r5"], m[f"{name}r10"]]
        for said, name in (
            ("dual encoder", ""),
            (f"its first {AGAIN}, by the fusion encoder alone", "fusion_"),
            (f"its first {AGAIN}, by both", "reranked_"),
        )
    ]
    holes: list[list[str | float | None]] = [
        [said, m[f"{name}words"], m[f"{name}patches"]]
        for said, name in (
            ("beside the other, whole", ""),
            ("beside another pair's", "blind_"),
            ("alone", "alone_"),
            ("the most frequent one", "chance_"),
        )
    ]
    shown: list[Panel] = [
        Table(
            "Two ways to use one set of weights",
            f"{count:,} held-out pairs, both directions: how often the right one is the first, or among the first. The "
            f"fusion encoder tells {m['told']:.0%} of pairs and hard wrong pairs right (chance 50 %).",
            ["", "R@1", "R@5", "R@10"],
            orders,
            emphasis=2,
        ),
        Table(
            "Hidden words and patches",
            "The share that is named right. If the other modality helps, the first row is above the second and the third.",
            ["", "words", "patches"],
            holes,
            emphasis=0,
        ),
        Table(
            "What each expert has learnt",
            "The same weights with experts exchanged. What falls is what the expert put aside did; attention stays.",
            ["", "R@10, dual", "told, fusion", "words, fusion", "patches, fusion"],
            judged.exchanged,
            emphasis=0,
        ),
    ]
    for title, scores in (
        ("By the dual encoder", judged.before),
        ("Ordered again with the fusion encoder", judged.after),
    ):
        pairs = judged.pairs
        found = [pictures_for(pairs.texts[t], scores[t], pairs.picture, right=pairs.owners[t]) for t in queries]
        shown.append(Gallery(title, "Texts drawn at random, and the pictures that they bring.", found))
    shown += [_filled(judged, chosen), _written(judged, chosen)]
    looks, grid = judged.method.looks_of(
        [judged.pictures[i] for i in chosen[:LOOKED]], [judged.pairs.captions[i][0] for i in chosen[:LOOKED]]
    )
    drawn = [row for row in looks if row[1]]
    if drawn:
        about = (
            "Each word of a text, and the patches that it looks at more than the other words do, in the fusion encoder."
        )
        shown.append(Figure("Where words look", about, draw_looking(drawn, grid), about))
    return shown


def _written(judged: ExpertJudgement, chosen: list[int]) -> Gallery:
    rows = []
    for i in chosen:
        query = Item(image=judged.pictures[i], text=judged.pairs.captions[i][0], note="a person's")
        rows.append((query, [Item(text=judged.captions[i] or "(nothing)", note="by the decoder")]))
    about = (
        f"Pictures drawn at random. CIDEr of all: {judged.metrics['cider']:.2f}; that of the nearest training picture's "
        f"caption: {judged.metrics['nearest_cider']:.2f}."
    )
    return Gallery("What it writes", about, rows)


@torch.no_grad()
def _filled(judged: ExpertJudgement, chosen: list[int]) -> Gallery:
    """Show pictures with holes, and what is put there without and with the text, as mean colours of the codes."""
    method, config = judged.method, judged.method.config
    processor = method.processors["image"]
    assert isinstance(processor, ImageProcessor)
    grid, first = config.network.grid, config.network.image_tokens
    generator, rows = torch.Generator().manual_seed(SEED), []
    with method.evaluating():
        for i in chosen:
            image = method.prepared("image", [judged.pictures[i]])
            text = method.prepared("text", [judged.pairs.captions[i][0]])
            code = method.patch_codes(image)
            holes = some(torch.ones_like(code, dtype=torch.bool), config.masked_patches, generator)
            shown = [Item(image=_coloured(processor, method.patch_codes.pictures(code, grid)), note="its codes")]
            hole = (
                holes.view(1, 1, *grid).repeat_interleave(config.code_cells, 2).repeat_interleave(config.code_cells, 3)
            )
            left = method.patch_codes.pictures(code, grid).masked_fill(hole, 0.0)
            shown.append(Item(image=_coloured(processor, left), note="what is left"))
            for words, note in ((None, "filled alone"), (text, "filled beside the text")):
                x_BLD = method.network(image, words, hidden_BP=holes)
                guess = torch.where(holes, method.code_head(x_BLD[:, 1:first]).argmax(-1), code)
                shown.append(Item(image=_coloured(processor, method.patch_codes.pictures(guess, grid)), note=note))
            query = Item(image=judged.pictures[i], text=judged.pairs.captions[i][0])
            rows.append((query, shown))
    about = (
        "Patches are hidden (grey) and their codes predicted; a code is drawn as the mean colours that it stands for."
    )
    return Gallery("Filling holes in pictures", about, rows)


def _coloured(processor: ImageProcessor, prepared: torch.Tensor) -> Image.Image:
    """Return one prepared picture of mean colours as an image, enlarged."""
    (image,) = processor.decode(prepared.cpu())
    return image.resize((ENLARGED, ENLARGED), Image.Resampling.NEAREST)
