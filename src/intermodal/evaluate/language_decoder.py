"""Judges a language decoder: its perplexity on held-out sentences, beside a Kneser-Ney 3-gram of the same tokens.

Perplexity is ``exp`` of the mean negative log-probability of a token, the end of a sentence included. Both models
have the same tokens; the 3-gram is estimated on all training sentences, however few of them the decoder has read.
"""

from __future__ import annotations

import math
import time

import numpy as np

from intermodal.core.progress import Progress
from intermodal.data.source import SourceConfig
from intermodal.decode.kneser_ney import estimate
from intermodal.evaluate.language_model import BATCH, QUICK, model_figures
from intermodal.evaluate.result import Bars, Evaluation, Gallery, Headline, Item, Panel, Table
from intermodal.methods.captioning.language import LanguageDecoder

ORDER = 3
BEGINNINGS = ("the man", "it was", "in the", "a small", "he said", "my dear")


def evaluate_language_decoder(
    method: LanguageDecoder, source: SourceConfig, split: str, progress: Progress, full: bool
) -> Evaluation:
    """Judge a language decoder on held-out sentences.

    Args:
        method: the decoder.
        source: the data; the 3-gram reads its training split.
        split: what to judge on.
        progress: told what is done.
        full: all sentences, beside the 3-gram, with panels; else a thousand and the figures of the decoder alone.
    """
    start = time.monotonic()
    held_out = source.open(split)
    found = model_figures(method, held_out, progress, None if full else QUICK)
    metrics = {"perplexity": math.exp(-found["mean"]), "bits": -found["mean"] / math.log(2), "top1": found["right"]}
    if not full:
        return Evaluation(split, metrics, [], time.monotonic() - start)
    progress("Counting tokens", 0.0)
    counted = estimate(_as_words(method, source.training_texts()), ORDER).model.perplexity(
        _as_words(method, held_out.texts())
    )
    metrics |= {
        "chance_perplexity": float(method.text.vocab_size),
        "trigram_perplexity": counted.perplexity,
        "held_out_tokens": float(found["words"]),
        "trigram_tokens": float(counted.words + counted.sentences),
    }
    tokens = f"{found['words']:,} held-out tokens, a vocabulary of {method.text.vocab_size:,}"
    headline = Headline(
        f"perplexity {metrics['perplexity']:.1f}",
        f"So many equally likely tokens would be as hard to guess as the next one is ({tokens}); counting three tokens in "
        f"a row gives {counted.perplexity:.1f}.",
    )
    return Evaluation(split, metrics, _panels(method, metrics), time.monotonic() - start, headline)


def _as_words(method: LanguageDecoder, texts: list[str]) -> list[str]:
    """Return the tokens of sentences as words of digits, as the 3-gram reads them, cut where the decoder's are."""
    sentences = []
    for first in range(0, len(texts), BATCH):
        tokens_BL = method.text(texts[first : first + BATCH])
        real = np.asarray(method.text.real(tokens_BL))
        begins = int(method.text.bos_id is not None)
        for row, keep in zip(tokens_BL.numpy(), real, strict=True):
            sentences.append(" ".join(map(str, row[keep][begins:-1].tolist())))
    return sentences


def _panels(method: LanguageDecoder, metrics: dict[str, float]) -> list[Panel]:
    bars = Bars(
        "Perplexity",
        "On held-out sentences; lower is better. Both know the same tokens.",
        ["the decoder", "3-gram, Kneser-Ney"],
        [metrics["perplexity"], metrics["trigram_perplexity"]],
        emphasis=0,
    )
    rows = [
        (Item(text=begin), [Item(text=text) for text in method.generate(3, prompt=begin, seed=3 * i)])
        for i, begin in enumerate(BEGINNINGS)
    ]
    written = Gallery("What it writes", "Three samples after each beginning, seeds 0 to 17, not picked.", rows)
    table = Table("Figures", "Held-out tokens.", ["figure", "value"], [[k, v] for k, v in metrics.items()])
    return [bars, written, table]
