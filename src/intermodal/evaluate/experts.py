"""Modality experts, judged as a dual encoder and as a fusion encoder, and with their experts exchanged."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from intermodal.core.progress import Progress
from intermodal.data.source import SourceConfig
from intermodal.evaluate.encoding import Steps, embed_texts, image_encoder
from intermodal.evaluate.galleries import pictures_for
from intermodal.evaluate.looking_picture import draw_looking
from intermodal.evaluate.pairs import SEED, Pairs, embed_pairs, pair_figures
from intermodal.evaluate.result import Evaluation, Figure, Gallery, Headline, Panel, Table, in_percent
from intermodal.methods.vision_language.experts import Experts
from intermodal.nn.experts import Swap

MOST, QUICK = 300, 150
AGAIN = 10
"""So many of the first answers of the dual encoder are ordered again by the fusion encoder."""
SHOWN, LOOKED = 8, 3
SWAPS: dict[str, Swap] = {
    "as trained": {},
    "vision and language exchanged": {"vision": "language", "language": "vision"},
    "vision in the fusion's place": {"fusion": "vision"},
    "language in the fusion's place": {"fusion": "language"},
}


def evaluate_experts(
    method: Experts, source: SourceConfig, split: str, progress: Progress, *, full: bool = True
) -> Evaluation:
    """Judge on up to 300 held-out pairs.

    Figures: ``r10`` and the others of retrieval by the dual encoder, both ways, with ``chance_r10``; ``t2i_first`` and
    ``reranked_first``, how often the right picture comes first for a text, before and after the fusion encoder has ordered
    the first ten again; ``told``, how often the fusion encoder is right about pairs and hard wrong pairs, half of each
    (chance 0.5); ``words``, the share of hidden words that it names, and ``blind_words``, the same beside another picture.

    Args:
        method: the model.
        source: yields ``image`` and ``text``.
        split: of it.
        progress: told what is done.
        full: with all swaps and panels; else up to 150 pairs and the figures of the dual encoder alone.

    Raises:
        DataError: if the split is not there or empty.
    """
    start = time.monotonic()
    weights = {"Embedding pictures": 1.0, "Embedding texts": 1.0}
    steps = Steps(progress, weights | ({"Ordering again": 6.0, "Exchanging experts": 8.0} if full else {}))
    report = steps.of("Embedding pictures")
    pairs, (image,) = embed_pairs(source.open(split), [image_encoder(method)], MOST if full else QUICK, source, report)
    text = embed_texts(method, pairs.texts, steps.of("Embedding texts"))
    found = pair_figures(image, text, pairs)
    metrics = {"r10": found.pop("r10"), "chance_r10": min(10 / len(pairs.indices), 1.0), **found}
    if not full:
        return Evaluation(split, metrics, [], time.monotonic() - start)
    pictures = [pairs.picture(i) for i in range(len(pairs.indices))]
    metrics["t2i_first"] = metrics.pop("t2i_r1")
    scores, metrics["reranked_first"] = rerank(method, pictures, pairs, text @ image.T, steps)
    rows, report = [], steps.of("Exchanging experts")
    for number, (name, swap) in enumerate(SWAPS.items()):
        figures = swapped(method, pictures, pairs, (image, text), swap)
        if not swap:
            metrics |= {"told": figures["told"], "chance_told": 0.5, "words": figures["words"]}
            metrics["blind_words"] = masked_words(method, [*pictures[1:], pictures[0]], pairs, {})
        rows.append([name, *figures.values()])
        report((number + 1) / len(SWAPS))
    shown = _panels(method, metrics, rows, (pictures, pairs, text @ image.T, scores))
    sentence = (
        f"Among {len(pictures):,} pictures that it was not trained on, the right picture for a text, or text for a picture, "
        f"is within the first ten answers {in_percent(metrics['r10'])} of the time (guessing: "
        f"{in_percent(metrics['chance_r10'])}). It comes first for {in_percent(metrics['t2i_first'])} of the texts, and for "
        f"{in_percent(metrics['reranked_first'])} once the fusion encoder has ordered the first {AGAIN} again."
    )
    return Evaluation(split, metrics, shown, time.monotonic() - start, Headline(in_percent(metrics["r10"]), sentence))


def rerank(
    method: Experts, pictures: list[Any], pairs: Pairs, similar: np.ndarray, steps: Steps
) -> tuple[np.ndarray, float]:
    """Return each text's scores of pictures with the first ordered again, and how often the right one is then first."""
    scores, report = similar.copy(), steps.of("Ordering again")
    first = np.argsort(-scores, axis=1, kind="stable")[:, :AGAIN]
    right = 0
    for query, found in enumerate(first):
        sure = method.match([pictures[i] for i in found], [pairs.texts[query]] * len(found))
        scores[query, found] = 2.0 + sure  # above every cosine
        right += int(found[sure.argmax()] in pairs.owners[query])
        report((query + 1) / len(first))
    return scores, right / len(first)


def swapped(
    method: Experts, pictures: list[Any], pairs: Pairs, vectors: tuple[np.ndarray, np.ndarray], swap: Swap
) -> dict[str, float]:
    """Return ``r10``, ``told`` and ``words`` with experts that do the work of others.

    Wrong pairs are, for each picture, the text that the dual encoder as trained takes most easily for the right one.
    """
    image, text = vectors
    similar = image @ text.T
    for i, places in enumerate(pairs.members):
        similar[i, places] = -np.inf
    wrong = [pairs.texts[i] for i in similar.argmax(1)]
    right = [captions[0] for captions in pairs.captions]
    said = [(method.match(pictures, texts, swap=swap) > 0.5).mean() for texts in (right, wrong)]
    if swap:
        image = np.concatenate(
            [method.embed("image", pictures[i : i + 64], swap=swap) for i in range(0, len(pictures), 64)]
        )
        text = np.concatenate(
            [method.embed("text", pairs.texts[i : i + 64], swap=swap) for i in range(0, len(pairs.texts), 64)]
        )
    return {
        "r10": pair_figures(image, text, pairs)["r10"],
        "told": float(said[0] + 1 - said[1]) / 2,
        "words": masked_words(method, pictures, pairs, swap),
    }


@torch.no_grad()
def masked_words(method: Experts, pictures: list[Any], pairs: Pairs, swap: Swap) -> float:
    """Return the share of hidden words that are named right; the same words are hidden each time."""
    generator, network = torch.Generator().manual_seed(SEED), method.network
    right = count = 0
    method.eval()
    for first in range(0, len(pictures), 64):
        image = method.processors["image"](pictures[first : first + 64]).to(method.device)
        text = method.processors["text"]([c[0] for c in pairs.captions[first : first + 64]]).to(method.device)
        hidden = method.holes(text, generator)
        holed = text.masked_fill(hidden, network.mask_id)
        x_BLD = network(image, holed, real_BL=network.real(text), swap=swap)[:, network.config.image_tokens :]
        right += int((method.word_head(x_BLD[hidden]).argmax(1) == text[hidden]).sum())
        count += int(hidden.sum())
    return right / max(count, 1)


def _panels(
    method: Experts,
    metrics: Mapping[str, float],
    rows: list[list[Any]],
    judged: tuple[list[Any], Pairs, np.ndarray, np.ndarray],
) -> list[Panel]:
    pictures, pairs, before, after = judged
    rng = np.random.default_rng(SEED)
    queries = [int(i) for i in rng.permutation(len(pairs.texts))[:SHOWN]]
    two: list[list[str | float | None]] = [
        ["dual encoder", metrics["t2i_first"], None, None],
        ["fusion encoder orders the first ten again", metrics["reranked_first"], metrics["told"], metrics["words"]],
        ["fusion encoder, another picture", None, None, metrics["blind_words"]],
    ]
    shown: list[Panel] = [
        Table(
            "Two ways to use one set of weights",
            f"{len(pictures):,} held-out pairs. Told: right about pairs and hard wrong pairs, half of each. Words: hidden "
            "words that are named.",
            ["", "right picture first", "told", "words"],
            two,
            emphasis=1,
        ),
        Table(
            "What each expert has learnt",
            "The same weights with experts exchanged. What falls is what the expert put aside did; attention stays.",
            ["", "R@10, dual", "told, fusion", "words, fusion"],
            rows,
            emphasis=0,
        ),
    ]
    for title, scores in (("By the dual encoder", before), ("Ordered again by the fusion encoder", after)):
        found = [pictures_for(pairs.texts[t], scores[t], pairs.picture, right=pairs.owners[t]) for t in queries]
        shown.append(Gallery(title, "Texts drawn at random, and the pictures that they bring.", found))
    chosen = [int(i) for i in rng.permutation(len(pictures))[:LOOKED]]
    looks, grid = method.looks_of([pictures[i] for i in chosen], [pairs.captions[i][0] for i in chosen])
    drawn = [row for row in looks if row[1]]
    if drawn:
        about = (
            "Each word of a text, and the patches that it looks at more than the other words do, in the fusion encoder."
        )
        shown.append(Figure("Where words look", about, draw_looking(drawn, grid), about))
    return shown
