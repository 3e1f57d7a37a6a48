"""Judges DALL-E by what its texts and codes cost: how far a text tells the codes of a picture that was never seen.

- ``log2_likelihood``: the mean of ``log2 p(codes | text)`` over held-out pictures: minus ``bits``, which an arithmetic coder
  with the model's probabilities would spend on a picture once the text is known. ``chance_log2_likelihood`` is that of the
  unigram model: at every place the frequencies that codes have there in training pictures
  (:class:`intermodal.evaluate.prior.Unigram`).
- ``untold_bits``: the same by the same model, no text being told; ``unigram_bits``, ``uniform_bits``: of the unigram model
  and of codes that are all equally likely. What the text tells is ``untold_bits - bits``.
- ``text_bits``: what the text itself costs.
- ``right_text``: how often the codes of a picture are likelier with its own text than with another picture's; chance is one
  half. ``wrong_bits``: what they cost with the other's.
- ``bits_per_pixel``: ``bits`` over the picture's pixels.

N pictures   L codes of a picture   T places of a text
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from intermodal.core.progress import Progress
from intermodal.data.source import SourceConfig
from intermodal.evaluate.encoding import Steps
from intermodal.evaluate.energy import spread_out
from intermodal.evaluate.prior import (
    CHUNK,
    COMPLETED,
    COUNTED,
    PICTURES,
    QUICK,
    Unigram,
    by_place,
    codes_of,
    upper_half_given,
)
from intermodal.evaluate.result import Bars, Gallery, Headline, Item, Panel
from intermodal.methods.image_generation.dalle import DALLE
from intermodal.methods.image_tokenizers.tokenizer import evaluating

NAMES = {
    "bits": "with its text",
    "untold_bits": "without a text",
    "wrong_bits": "with another's text",
    "unigram_bits": "unigram at each place",
    "uniform_bits": "all codes equally likely",
}
"""What each figure is the cost of a picture's codes by."""


def judge_codes(
    method: DALLE, source: SourceConfig, split: str, progress: Progress, *, full: bool = True
) -> tuple[dict[str, float], list[Panel]]:
    """Return the figures of the module's text, and panels.

    Args:
        method: the model.
        source: pictures with texts; its training split gives the unigram model.
        split: what to judge on.
        progress: told what is done.
        full: 512 pictures, and panels; else 128 pictures and the figures alone.
    """
    steps = Steps(progress, {"Encoding": 4, "Reading": 4, "Completing": 2})
    with evaluating(method), torch.no_grad():
        held_out, train = source.open(split), source.open("train")
        most = PICTURES if full else QUICK
        steps("Encoding")
        codes_NL = codes_of(method, held_out, most, lambda done: steps("Encoding", done / 3))
        texts = [str(held_out.sample(i)["text"]) for i in spread_out(len(held_out), most)]
        known_NL = codes_of(
            method, train, COUNTED if full else QUICK, lambda done: steps("Encoding", (1 + 2 * done) / 3)
        )
        unigram = Unigram(known_NL, method.codebook_size)
        unigram.fit(codes_NL)
        by_model = {
            "bits": code_bits(method, codes_NL, texts),
            "untold_bits": code_bits(method, codes_NL, None),
            "unigram_bits": unigram.bits(codes_NL),
        }
        steps("Reading", 0.5)
        metrics = {name: float(bits_NL.sum(1).mean()) for name, bits_NL in by_model.items()}
        metrics["uniform_bits"] = codes_NL.shape[1] * math.log2(method.codebook_size)
        metrics |= wrong_texts(method, codes_NL, texts, by_model["bits"].sum(1))
        text_NT = method.tokens_of(texts)
        metrics["text_bits"] = float(torch.cat([method.text_bits(part) for part in text_NT.split(CHUNK)]).mean())
        metrics["bits_per_pixel"] = metrics["bits"] / math.prod(method.picture.size)
        likelihood = {"log2_likelihood": -metrics["bits"], "chance_log2_likelihood": -metrics["unigram_bits"]}
        metrics = {**likelihood, **metrics}
        if not full:
            return metrics, []
        steps("Completing")
        places = spread_out(len(held_out), COMPLETED)
        samples = [held_out.sample(i) for i in places]
        panels: list[Panel] = [
            _bars(metrics),
            by_place({NAMES[name]: bits_NL for name, bits_NL in by_model.items()}),
            _completed(method, [(method.picture.fitted(s["image"]), str(s["text"])) for s in samples]),
        ]
    return metrics, panels


def code_bits(method: DALLE, codes_NL: Tensor, texts: Sequence[str] | None) -> Tensor:
    """Return ``-log2 p`` of every code given a text for each picture, or none, ``(N, L)``, on the CPU."""
    text_NT = None if texts is None else method.tokens_of(texts)
    found = []
    for first in range(0, len(codes_NL), CHUNK):
        part = slice(first, first + CHUNK)
        codes_BL = codes_NL[part].to(method.device)
        logits_BLK = method.logits(codes_BL, None if text_NT is None else text_NT[part])
        found.append(method.bits_of(codes_BL, logits_BLK).cpu())
    return torch.cat(found)


def wrong_texts(method: DALLE, codes_NL: Tensor, texts: Sequence[str], bits_N: Tensor) -> dict[str, float]:
    """Return ``wrong_bits`` and ``right_text``; another's text is the next different one from half of the set further on.

    Nothing of pictures whose texts are all the same.
    """
    count = len(texts)
    other = [
        next((j % count for j in range(i + count // 2, i + count // 2 + count) if texts[j % count] != texts[i]), None)
        for i in range(count)
    ]
    kept = [i for i, j in enumerate(other) if j is not None]
    if not kept:
        return {}
    wrong_N = code_bits(method, codes_NL[kept], [texts[j] for j in other if j is not None]).sum(1)
    right = (bits_N[kept] < wrong_N).double().mean()
    return {"wrong_bits": float(wrong_N.mean()), "right_text": float(right)}


def headline(metrics: dict[str, float]) -> Headline:
    """Return the result in words."""
    words = (
        f"are what the codes of a held-out picture cost once its text is known; {metrics['untold_bits']:.0f} without the "
        f"text, and {metrics['unigram_bits']:.0f} without context, by how often each code occurs at its place."
    )
    if "right_text" in metrics:
        words += (
            f" Its own text makes them likelier than another's {metrics['right_text']:.0%} of the time (chance 50%)."
        )
    return Headline(f"{metrics['bits']:.0f}\N{NO-BREAK SPACE}bits", words)


def _bars(metrics: dict[str, float]) -> Bars:
    shown = [name for name in NAMES if name in metrics]
    return Bars(
        "Bits of a picture",
        "What the codes of a held-out picture cost; less is better.",
        [NAMES[name] for name in shown],
        [metrics[name] for name in shown],
        unit="bits",
    )


def _completed(method: DALLE, pairs: list[tuple[Image.Image, str]]) -> Gallery:
    """Return held-out pictures of which the upper half is given and the lower is drawn for their text, three times."""
    images, texts = [image for image, _ in pairs], [text for _, text in pairs]
    tries = [method.complete(images, prompt=texts, seed=len(images) * i) for i in range(3)]
    originals = [Item(image=image, text=text) for image, text in pairs]
    return upper_half_given(originals, method.decode(method.encode(images)), tries)
