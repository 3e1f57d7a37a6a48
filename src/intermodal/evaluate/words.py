"""Judges word vectors: people's judgements of similarity, analogies, the loss on held-out text; and shows them.

Metrics: ``wordsim353_rho`` and ``simlex999_rho`` (Spearman), ``analogies``, ``analogies_semantic``, ``analogies_syntactic``
(accuracy of 3CosAdd), each test set's out-of-vocabulary rate ``..._oov``, and ``loss`` on held-out text. ``chance_`` is the
same for random vectors of the same words (for the loss: for tables that know nothing). The test sets are not the library's
to ship: they are looked for where data is (:mod:`intermodal.data.catalog`); the table of scores says what is missing.

Shapes: N words, D features.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from itertools import islice

import numpy as np
import torch

from intermodal.core.errors import DataError
from intermodal.core.progress import Progress
from intermodal.data.batches import stack
from intermodal.data.catalog import CATALOG, find
from intermodal.data.text import TextSource
from intermodal.data.words import Vocabulary
from intermodal.evaluate.result import Evaluation, Headline, Panel
from intermodal.evaluate.words_panels import analogy_panels, map_of, neighbour_gallery, score_table
from intermodal.evaluate.words_sets import AnalogyScore, Judged, PairScore, read_analogies, read_pairs
from intermodal.methods.contrastive.word2vec import Word2Vec

PAIR_SETS = {"wordsim353": "WordSim-353", "simlex999": "SimLex-999"}
ANALOGIES = "google-analogies"
HELD_OUT, BATCH = 4096, 64
"""Units of held-out text that the loss is taken over at most, and how many at a time."""


def evaluate_words(model: Word2Vec, source: TextSource, split: str, progress: Progress, *, full: bool) -> Evaluation:
    """Judge a word2vec; ``full`` adds the analogies, the held-out loss, the baselines and the panels."""
    start = time.monotonic()
    judged = Judged(model.words, model.word_vectors())
    missing: list[str] = []
    pairs = _pair_scores(judged, missing)
    metrics = {f"{name}_rho": score.rho for name, score in pairs.items()}
    if not full:
        quick = {name: value for name, value in metrics.items() if math.isfinite(value)}
        quick = quick or {"loss": held_out_loss(model, source, split, progress)}
        return Evaluation(split, quick, seconds=time.monotonic() - start)
    questions = _questions(missing)
    analogies = None if questions is None else judged.analogies(questions, progress)
    random = Judged(model.words, np.random.default_rng(0).standard_normal(model.word_vectors().shape, np.float32))
    chance_pairs = _pair_scores(random, [])
    chance_analogies = None if questions is None else random.analogies(questions, progress)
    metrics |= {f"chance_{name}_rho": score.rho for name, score in chance_pairs.items()}
    metrics |= {f"{name}_oov": score.unknown for name, score in pairs.items()}
    for prefix, score in (("", analogies), ("chance_", chance_analogies)):
        if score is not None:
            for kind in ("", "semantic", "syntactic"):
                metrics[f"{prefix}analogies{'_' * bool(kind)}{kind}"] = score.accuracy(kind)
    if analogies is not None:
        metrics["analogies_oov"] = analogies.unknown
    metrics["loss"] = held_out_loss(model, source, split, progress)
    metrics["chance_loss"] = math.log(2) * (1 + model.config.negatives)
    first = next((f"{name}_rho" for name, score in pairs.items() if math.isfinite(score.rho)), "loss")
    metrics = {first: metrics[first], **metrics}  # the headline: the loss, where the test sets know none of the words
    progress("drawing the map", 0.9)
    panels: list[Panel] = [score_table(metrics, pairs, analogies, missing), neighbour_gallery(model)]
    if analogies is not None:
        panels += analogy_panels(analogies)
    panels.append(map_of(model))
    headline = _headline(pairs, analogies, metrics)
    defined = {
        name: value for name, value in metrics.items() if math.isfinite(value)
    }  # a test may know none of the words
    return Evaluation(split, defined, panels, time.monotonic() - start, headline)


@torch.no_grad()
def held_out_loss(model: Word2Vec, source: TextSource, split: str, progress: Progress) -> float:
    """Return the mean loss over held-out text; the random draws are the same every time.

    Words that the vocabulary does not hold are left out, as in training.
    """
    vocabulary = model.processors["text"]
    assert isinstance(vocabulary, Vocabulary)
    texts = source.open(split)
    chosen = np.linspace(0, len(texts) - 1, min(HELD_OUT, len(texts))).astype(int).tolist()
    total = pairs = 0.0
    rows = iter(chosen)
    while some := list(islice(rows, BATCH)):
        progress("loss on held-out text", some[0] / len(texts))
        batch = stack([{"text": vocabulary.encode(texts.text(i)), "seed": torch.tensor(i)} for i in some])
        losses = model.loss(batch)
        count = float(losses.parts["pairs"]) if losses.parts else 0.0
        total, pairs = total + float(losses.total) * count, pairs + count
    return total / pairs if pairs else math.nan


def _pair_scores(judged: Judged, missing: list[str]) -> dict[str, PairScore]:
    found = {}
    for name in PAIR_SETS:
        try:
            path = find(name)
        except DataError:
            missing.append(CATALOG[name].file)
            continue
        found[name] = judged.pairs(read_pairs(path))
    return found


def _questions(missing: list[str]) -> Sequence[tuple[str, str, str, str, str]] | None:
    try:
        return read_analogies(find(ANALOGIES))
    except DataError:
        missing.append(CATALOG[ANALOGIES].file)
        return None


def _headline(
    pairs: dict[str, PairScore], analogies: AnalogyScore | None, metrics: dict[str, float]
) -> Headline | None:
    score = pairs.get("wordsim353")
    if score is None or not math.isfinite(score.rho):
        return Headline(
            f"{metrics['loss']:.2f}",
            f"The loss on held-out text is {metrics['loss']:.2f}, where vectors that know nothing have "
            f"{metrics['chance_loss']:.2f}; the published test sets of word similarity are not here, or know none of "
            "its words.",
        )
    said = f"Its similarities of words rank 353 pairs as people do with a correlation of {score.rho:.2f} (0 is chance)"
    if analogies is not None and math.isfinite(analogies.accuracy()):
        said += f", and it answers {analogies.accuracy():.0%} of the analogies whose words it knows"
    return Headline(f"{score.rho:.2f}", said + ".")
