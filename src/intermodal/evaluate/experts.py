"""Modality experts, judged as a dual encoder, as a fusion encoder and as a decoder, and with their experts exchanged.

N pictures   M texts   L tokens of a text   P patches
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from intermodal.core.progress import Progress
from intermodal.data.source import SourceConfig
from intermodal.evaluate.captions import caption_figures
from intermodal.evaluate.encoding import Steps, embed_texts, image_encoder
from intermodal.evaluate.pairs import KS, SEED, Pairs, embed_pairs, pair_figures
from intermodal.evaluate.result import Evaluation, Headline, in_percent
from intermodal.methods.vision_language.expert_parts import some
from intermodal.methods.vision_language.experts import BATCH, Experts
from intermodal.nn.expert_blocks import Swap

MOST, QUICK, TRAIN = 300, 150, 6000
AGAIN = 16
"""So many of the first answers of the dual encoder are ordered again by the fusion encoder."""
SWAPS: dict[str, Swap] = {
    "as trained": {},
    "vision and language exchanged": {"vision": "language", "language": "vision"},
    "vision in the fusion's place": {"fusion": "vision"},
    "language in the fusion's place": {"fusion": "language"},
}


@dataclass
class ExpertJudgement:
    """What the panels are drawn from.

    Attributes:
        method: the model.
        metrics: all figures by name.
        pairs: what was judged.
        pictures: read once.
        before: scores of texts and pictures ``(M, N)``, by the dual encoder.
        after: with its first answers ordered again.
        exchanged: a row for each exchange of experts: its name and four figures.
        captions: one for each picture, by the decoder.
    """

    method: Experts
    metrics: dict[str, float]
    pairs: Pairs
    pictures: list[Any]
    before: np.ndarray
    after: np.ndarray
    exchanged: list[list[Any]]
    captions: list[str]


@dataclass
class Prepared:
    """Held-out pairs as the network takes them.

    Attributes:
        image: ``(N, 3, H, W)``.
        text: all distinct texts, ``(M, L)``.
        own: each picture's first text, ``(N, L)``.
    """

    image: Tensor
    text: Tensor
    own: Tensor


def evaluate_experts(
    method: Experts, source: SourceConfig, split: str, progress: Progress, *, full: bool = True
) -> Evaluation:
    """Judge on up to 300 held-out pairs.

    Figures: ``r10`` and the others of retrieval by the dual encoder, both ways, with ``chance_r10``; ``reranked_r1``
    and so on, after the fusion encoder has ordered the first sixteen of each list again, and ``fusion_r1`` where it did
    so alone, without the dual encoder's score; ``told``, how often the fusion encoder is right about pairs and hard
    wrong pairs, half of each (chance 0.5). ``words`` and ``patches``, the share of hidden words and patches that are
    named beside the whole picture or text, with ``blind_`` beside that of another pair, ``alone_`` beside nothing, and
    ``chance_`` where the most frequent word or code of these is always said; ``words_nats`` and so on are the cross
    entropies, which tell smaller differences. ``cider`` and the other figures of
    captions, with ``nearest_cider`` of those of the nearest training picture.

    Args:
        method: the model.
        source: yields ``image`` and ``text``.
        split: of it.
        progress: told what is done.
        full: with all swaps and panels; else up to 150 pairs and the figures of the dual encoder alone.

    Raises:
        DataError: if the split is not there or empty.
    """
    from intermodal.evaluate.experts_panels import panels

    start = time.monotonic()
    weights = {"Embedding pictures": 1.0, "Embedding texts": 1.0}
    more = {"Ordering again": 6.0, "Exchanging experts": 6.0, "Captioning": 4.0}
    steps = Steps(progress, weights | (more if full else {}))
    report = steps.of("Embedding pictures")
    pairs, (image,) = embed_pairs(source.open(split), [image_encoder(method)], MOST if full else QUICK, source, report)
    text = embed_texts(method, pairs.texts, steps.of("Embedding texts"))
    found = pair_figures(image, text, pairs)
    metrics = {"r10": found.pop("r10"), "chance_r10": min(10 / len(pairs.indices), 1.0), **found}
    if not full:
        return Evaluation(split, metrics, [], time.monotonic() - start)
    pictures = [pairs.picture(i) for i in range(len(pairs.indices))]
    ready = prepared(method, pictures, pairs)
    similar = text @ image.T
    after, figures = reranked(method, ready, similar, pairs, steps)
    metrics |= figures
    rows: list[list[Any]] = []
    report = steps.of("Exchanging experts")
    for number, (name, swap) in enumerate(SWAPS.items()):
        exchanged = swapped(method, ready, pairs, (image, text), swap)
        rows.append([name, *exchanged.values()])
        report((number + 1) / len(SWAPS))
    metrics |= {"told": rows[0][2], "chance_told": 0.5, **masked(method, ready)}
    said, figures = captioned(method, source, pairs, image, pictures, steps)
    metrics |= figures
    judged = ExpertJudgement(method, metrics, pairs, pictures, similar, after, rows, said)
    sentence = (
        f"Among {len(pictures):,} pictures that it was not trained on, the right picture for a text, or text for a picture, "
        f"is within the first ten answers {in_percent(metrics['r10'])} of the time (guessing: "
        f"{in_percent(metrics['chance_r10'])}). It comes first {in_percent(metrics['r1'])} of the time, and "
        f"{in_percent(metrics['reranked_r1'])} once the fusion encoder has ordered the first {AGAIN} again."
    )
    headline = Headline(in_percent(metrics["r10"]), sentence)
    return Evaluation(split, metrics, panels(judged), time.monotonic() - start, headline)


def prepared(method: Experts, pictures: list[Any], pairs: Pairs) -> Prepared:
    """Return pairs as the network takes them."""
    own = [captions[0] for captions in pairs.captions]
    return Prepared(
        method.prepared("image", pictures), method.prepared("text", pairs.texts), method.prepared("text", own)
    )


# --8<-- [start:odds]
@torch.no_grad()
def odds(method: Experts, image: Tensor, text: Tensor, swap: Swap | None = None) -> np.ndarray:
    """Return the log-odds that pictures and texts belong together, float32 ``(N,)``, by the fusion encoder."""
    found = []
    with method.evaluating():
        for first in range(0, len(image), BATCH):
            part = slice(first, first + BATCH)
            logits_N2 = method.match_logits(image[part], text[part], swap).float()
            found.append(logits_N2[:, 1] - logits_N2[:, 0])
    return torch.cat(found).cpu().numpy()


def reranked(
    method: Experts, ready: Prepared, similar_MN: np.ndarray, pairs: Pairs, steps: Steps
) -> tuple[np.ndarray, dict[str, float]]:
    """Order the first answers of the dual encoder again, both ways.

    The wrong pairs of training were drawn from ``noise``, a mixture of the dual encoder's softmax and of all alike. The best
    judge of right against those says ``log(right / noise)``: the order of the first answers is therefore by the log-odds
    plus ``log(noise)``.

    Returns:
        the scores ``(M, N)`` of pictures for texts, and figures: ``reranked_`` of this order, ``fusion_`` of the
        log-odds alone.
    """
    scale, report = float(method.logit_scale.detach().exp().clamp(max=100.0)), steps.of("Ordering again")
    figures: dict[str, float] = {}
    tables = {}
    for number, (scores, way) in enumerate(((similar_MN, "t2i"), (similar_MN.T, "i2t"))):
        first = np.argsort(-scores, axis=1, kind="stable")[:, :AGAIN]
        query, answer = np.repeat(np.arange(len(first)), first.shape[1]), first.reshape(-1)
        image, text = (answer, query) if way == "t2i" else (query, answer)
        sure = odds(method, ready.image[image], ready.text[text]).reshape(first.shape)
        hardness, drawn = method.config.hardness, torch.from_numpy(scale * scores).softmax(1).numpy()
        noise = hardness * drawn + (1 - hardness) / scores.shape[1]
        for name, dual in (("reranked", np.log(np.take_along_axis(noise, first, 1))), ("fusion", 0.0)):
            again = sure + dual
            table = scores.astype(np.float64)
            order = np.argsort(np.argsort(-again, axis=1, kind="stable"), axis=1)
            np.put_along_axis(table, first, 2.0 - order / AGAIN, 1)  # above every cosine, in the new order
            tables[name, way] = table
        report((number + 1) / 2)
    for name in ("reranked", "fusion"):
        for k in KS:
            both = [_first(tables[name, "t2i"], pairs.owners, k), _first(tables[name, "i2t"], pairs.members, k)]
            figures[f"{name}_r{k}"] = float(np.mean(both))
    return tables["reranked", "t2i"], figures


# --8<-- [end:odds]


def _first(scores: np.ndarray, right: list[list[int]], k: int) -> float:
    """Return how often one of the right answers is among the first k."""
    found = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return float(np.mean([bool(set(row.tolist()) & set(own)) for row, own in zip(found, right, strict=True)]))


def swapped(
    method: Experts, ready: Prepared, pairs: Pairs, vectors: tuple[np.ndarray, np.ndarray], swap: Swap
) -> dict[str, float]:
    """Return ``r10``, ``told``, ``words`` and ``patches`` with experts that do the work of others.

    Wrong pairs are, for each picture, the text that the dual encoder as trained takes most easily for the right one.
    """
    image, text = vectors
    similar = image @ text.T
    for i, places in enumerate(pairs.members):
        similar[i, places] = -np.inf
    wrong = ready.text[similar.argmax(1)]
    said = [(odds(method, ready.image, texts, swap) > 0).mean() for texts in (ready.own, wrong)]
    if swap:
        with torch.no_grad(), method.evaluating():
            image = method.encode_image(ready.image, swap).float().cpu().numpy()
            text = method.encode_text(ready.text, swap).float().cpu().numpy()
    found = masked(method, ready, swap)
    return {
        "r10": pair_figures(image, text, pairs)["r10"],
        "told": float(said[0] + 1 - said[1]) / 2,
        "words": found["words"],
        "patches": found["patches"],
    }


@torch.no_grad()
def masked(method: Experts, ready: Prepared, swap: Swap | None = None) -> dict[str, float]:
    """Return the shares of hidden words and patches that are named right; the same are hidden each time.

    ``words`` and ``patches`` beside the whole other modality, ``blind_`` beside another pair's, ``alone_`` beside
    nothing, and ``chance_``: the share of the most frequent of them. With ``_nats`` behind it, the mean cross entropy.
    """
    generator, network, config = torch.Generator().manual_seed(SEED), method.network, method.config
    image, text, found = ready.image, ready.own, dict[str, float]()

    def note(name: str, logits_MV: Tensor, right_M: Tensor) -> None:
        found[name] = float((logits_MV.argmax(1) == right_M).float().mean())
        found[f"{name}_nats"] = float(F.cross_entropy(logits_MV.float(), right_M))

    with method.evaluating():
        hidden, code = some(network.words(text), config.masked, generator), method.patch_codes(image)
        holes = some(torch.ones_like(code, dtype=torch.bool), config.masked_patches, generator)
        holed, real = text.masked_fill(hidden, network.mask_id), network.real(text)
        first = network.config.image_tokens
        for name, other in (("", image), ("blind_", image.roll(1, 0)), ("alone_", None)):
            x_BLD = network(other, holed, real_BL=real, swap=swap)
            note(f"{name}words", method.word_head(x_BLD[:, -text.shape[1] :][hidden]), text[hidden])
        for name, words in (("", text), ("blind_", text.roll(1, 0)), ("alone_", None)):
            x_BLD = network(image, words, hidden_BP=holes, swap=swap)
            note(f"{name}patches", method.code_head(x_BLD[:, 1:first][holes]), code[holes])
        for name, right_M in (("words", text[hidden]), ("patches", code[holes])):
            found[f"chance_{name}"] = float((right_M == right_M.mode().values).float().mean())
    return found


def captioned(  # noqa: PLR0917 - one call, from above
    method: Experts, source: SourceConfig, pairs: Pairs, image: np.ndarray, pictures: list[Any], steps: Steps
) -> tuple[list[str], dict[str, float]]:
    """Return captions by the decoder, and their figures with CIDEr of the nearest training picture's."""
    report = steps.of("Captioning")
    said = [caption.text for caption in method.caption(pictures)]
    report(0.5)
    train, (known,) = embed_pairs(source.open("train"), [image_encoder(method)], TRAIN, source, lambda _: None)
    nearest = [train.captions[i][0] for i in (image @ known.T).argmax(1)]
    figures = caption_figures(said, pairs.captions, image, embed_texts(method, said))
    others = caption_figures(nearest, pairs.captions, image, embed_texts(method, nearest))
    report(1.0)
    return said, figures | {"nearest_cider": others["cider"]}
