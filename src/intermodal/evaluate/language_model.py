"""Judges a language model of words: its perplexity on held-out text, beside models that only count.

Perplexity is ``exp`` of the mean negative log probability of a word, the end of a text included, every distribution
normalised over the whole vocabulary. All models have the same vocabulary; a word outside of it counts as one unknown word,
whose share is stated. ``unigram``: how often each word occurs. ``bigram``: the word before, by interpolated Kneser-Ney
smoothing (Kneser & Ney 1995; Chen & Goodman 1998, equation 22 with one discount).

    N words of a text   V words of the vocabulary
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from intermodal.core.errors import DataError
from intermodal.core.progress import Progress
from intermodal.data.loader import eval_batches
from intermodal.data.processors import TextProcessor
from intermodal.data.source import Source, SourceConfig
from intermodal.data.tokenizers import UNKNOWN
from intermodal.evaluate.result import Bars, Evaluation, Gallery, Headline, Item, Line, Lines, Panel, Table

BATCH = 64
QUICK = 1000
"""Texts that are judged while training."""
PROMPTS = ("the president", "it was", "in the", '" i', "he said", "my dear")
DISCOUNT = 0.75


@dataclass(frozen=True)
class Counts:
    """What the counting models know of the training texts.

    Attributes:
        unigram_V: how often each word is predicted (the start of a text never is).
        pairs: the distinct pairs ``before * V + after``, sorted.
        times: how often each occurs.
    """

    unigram_V: np.ndarray
    pairs: np.ndarray
    times: np.ndarray

    @staticmethod
    def of(texts: Sequence[np.ndarray], vocab_size: int) -> Counts:
        """Count framed texts: each an int64 array that begins with the start and ends with the end.

        Raises:
            DataError: if there is no word to predict.
        """
        texts = [text for text in texts if len(text) > 1]
        if not texts:
            raise DataError("There is no text to count words in.")
        pair = np.concatenate([text[:-1] * vocab_size + text[1:] for text in texts])
        unigram = np.bincount(pair % vocab_size, minlength=vocab_size)
        pairs, times = np.unique(pair, return_counts=True)
        return Counts(unigram, pairs, times)

    def unigram(self, word_N: np.ndarray) -> np.ndarray:
        """Return log probabilities of words; a word never seen is given half a count."""
        smooth = np.maximum(self.unigram_V, 0.5)
        return np.log(smooth[word_N] / smooth.sum())

    def kneser_ney(self, before_N: np.ndarray, word_N: np.ndarray) -> np.ndarray:
        """Return log probabilities of words given the one before: interpolated Kneser-Ney with one discount.

        ``(c(v, w) - d) / c(v) + d * n(v) / c(v) * p(w)``, with n(v) the distinct words after v, and p(w) the share of
        distinct pairs that end in w, itself smoothed by half a pair. After a word that was never followed it is p(w).
        """
        vocab = len(self.unigram_V)
        endings_V = np.maximum(np.bincount(self.pairs % vocab, minlength=vocab), 0.5)
        lower_N = (endings_V / endings_V.sum())[word_N]
        kinds_V = np.bincount(self.pairs // vocab, minlength=vocab)
        total_V = np.bincount(self.pairs // vocab, weights=self.times, minlength=vocab)
        key_N = before_N * vocab + word_N
        place = np.minimum(np.searchsorted(self.pairs, key_N), len(self.pairs) - 1)
        found_N = np.where(self.pairs[place] == key_N, self.times[place], 0)
        total_N = np.maximum(total_V[before_N], 1)
        held_N = np.where(total_V[before_N] > 0, DISCOUNT * kinds_V[before_N] / total_N, 1.0)
        return np.log(np.maximum(found_N - DISCOUNT, 0) / total_N + held_N * lower_N)


def encode_texts(texts: Sequence[str], processor: TextProcessor) -> list[np.ndarray]:
    """Return texts as framed ids without padding, cut to the processor's length."""
    found: list[np.ndarray] = []
    for start in range(0, len(texts), 4096):
        part = [" ".join(t.lower().split()) if processor.lower else t for t in texts[start : start + 4096]]
        for one in processor.tokenizer.encode_batch(part):
            ids = one.ids[: processor.context_length]
            if len(one.ids) > processor.context_length:
                ids[-1] = processor.eos_id
            found.append(np.array(ids, np.int64))
    return found


def model_figures(method: Any, source: Source, progress: Progress, most: int | None = None) -> dict[str, Any]:
    """Return what a language model gives the words of a source.

    Args:
        method: has ``log_probabilities(tokens) -> (log p, log normaliser, right)`` and a processor ``text``.
        source: held-out texts.
        progress: told what is done.
        most: judge the first so many texts only.
    """
    method.eval()
    total, right, words = 0.0, 0, 0
    normalisers: list[np.ndarray] = []
    count = len(source) if most is None else min(most, len(source))
    for indices, tensors in eval_batches(source, {"text": method.processors["text"]}, BATCH):
        if indices.start >= count:
            break
        with torch.no_grad():
            chosen, normaliser, hit = method.log_probabilities(tensors["text"].to(method.device))
        total += float(chosen.double().sum())
        right += int(hit.sum())
        words += len(chosen)
        normalisers.append(normaliser.cpu().numpy())
        progress("Reading held-out text", min(indices.stop / count, 1.0))
    if not words:
        raise DataError(f"{source.name} holds no word to predict.")
    return {"mean": total / words, "right": right / words, "words": words, "normalisers": np.concatenate(normalisers)}


def evaluate_language_model(
    method: Any, source: SourceConfig, split: str, progress: Progress, full: bool
) -> Evaluation:
    """Judge a language model on held-out texts.

    Args:
        method: see :func:`model_figures`; ``generate`` writes the texts that are shown.
        source: the data; the counting models read its training split.
        split: what to judge on.
        progress: told what is done.
        full: all texts, beside the counting models, with panels; else a thousand texts and the figures of the model alone.
    """
    start = time.monotonic()
    held_out = source.open(split)
    found = model_figures(method, held_out, progress, None if full else QUICK)
    own = {
        "log_likelihood": found["mean"],
        "perplexity": math.exp(-found["mean"]),
        "top1": found["right"],
        "log_normaliser_mean": float(found["normalisers"].mean()),
        "log_normaliser_std": float(found["normalisers"].std()),
    }
    if not full:
        return Evaluation(split, own, [], time.monotonic() - start)
    progress("Counting words", 0.0)
    processor = method.processors["text"]
    vocab = processor.vocab_size
    counts = Counts.of(encode_texts(source.training_texts(), processor), vocab)
    progress("Counting words", 0.7)
    pieces = [text for text in encode_texts(held_out.texts(), processor) if len(text) > 1]
    word, before = np.concatenate([p[1:] for p in pieces]), np.concatenate([p[:-1] for p in pieces])
    unigram, bigram = float(counts.unigram(word).mean()), float(counts.kneser_ney(before, word).mean())
    metrics = {
        "log_likelihood": own["log_likelihood"],
        "perplexity": own["perplexity"],
        "bigram_perplexity": math.exp(-bigram),
        "chance_perplexity": math.exp(-unigram),
        "chance_log_likelihood": unigram,
        "bigram_log_likelihood": bigram,
        **{k: v for k, v in own.items() if k not in ("log_likelihood", "perplexity")},
        "chance_top1": float((word == counts.unigram_V.argmax()).mean()),
        "unknown_share": float((word == (processor.tokenizer.token_to_id(UNKNOWN) or -1)).mean()),
        "held_out_words": float(len(word)),
    }
    shown = _panels(method, metrics, found["normalisers"])
    words = f"{len(word):,} held-out words, a vocabulary of {vocab:,}"
    headline = Headline(
        f"perplexity {metrics['perplexity']:.0f}",
        f"So many equally likely words would be as hard to guess as the next one is ({words}); counting pairs of words "
        f"gives {metrics['bigram_perplexity']:.0f}, counting words {metrics['chance_perplexity']:.0f}.",
    )
    return Evaluation(split, metrics, shown, time.monotonic() - start, headline)


def _panels(method: Any, metrics: dict[str, float], normaliser_N: np.ndarray) -> list[Panel]:
    names = ["perplexity", "bigram_perplexity", "chance_perplexity"]
    bars = Bars(
        "Perplexity",
        "On held-out documents; lower is better. Every distribution is normalised over the vocabulary.",
        ["the model", "bigram, Kneser-Ney", "unigram"],
        [metrics[n] for n in names],
        emphasis=0,
    )
    counts, edges = np.histogram(normaliser_N, bins=60)
    middle = (edges[1:] + edges[:-1]) / 2
    lines = Lines(
        "The normaliser that was held at one",
        "The logarithm of the sum of exp(score) over the vocabulary, at every held-out place: 0 where the model is "
        "normalised by itself.",
        "log normaliser (nats)",
        "share of places",
        [Line("log normaliser", middle.tolist(), (counts / max(counts.sum(), 1)).tolist())],
    )
    rows = [
        (Item(text=prompt), [Item(text=text) for text in method.generate(3, prompt=prompt, seed=i, steps=24)])
        for i, prompt in enumerate(PROMPTS)
    ]
    written = Gallery(
        "What it writes", "Three samples after each prompt (temperature 1, seeds 0 to 5), not picked.", rows
    )
    table = Table(
        "Figures",
        "Held-out words.",
        ["figure", "value"],
        [[name, value] for name, value in metrics.items()],
    )
    return [bars, lines, written, table]
