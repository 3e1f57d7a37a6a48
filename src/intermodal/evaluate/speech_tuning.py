"""The language model of the training transcripts, and its weight: chosen on validation data, never on what is judged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from intermodal.core.errors import ConfigError, DataError
from intermodal.core.transcript import Emissions, Transcribing, Transcript
from intermodal.data.source import SourceConfig
from intermodal.decode.ngram import NGram
from intermodal.evaluate.result import in_percent
from intermodal.evaluate.speech_set import Utterances, utterances
from intermodal.metrics.speech import errors, total

TUNED = 96
"""Utterances that weights are chosen on, at most."""
WEIGHTS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
BONUSES = (-1.0, -0.5, 0.5, 1.0, 2.0)
"""Weights of the language model that are tried, then bonuses, as multiples of the best weight."""


def language_model(texts: Sequence[str], order: int, path: Path) -> tuple[NGram, Path]:
    """Estimate a language model of texts by modified Kneser-Ney and write it to an ARPA file.

    Raises:
        ConfigError: if the texts are too few for one.
    """
    from intermodal.decode.arpa import write
    from intermodal.decode.kneser_ney import estimate

    try:
        model = estimate(texts, order).model
    except DataError as error:
        raise ConfigError(f"There is no language model of the training transcripts: {error}") from error
    write(model, path)
    return model, path


def lm_figures(model: NGram, texts: Sequence[str]) -> dict[str, float]:
    """Return the perplexity of texts a word, sentence ends included, and the share of words that the model does not know."""
    words = [text.split() for text in texts]
    count = sum(len(each) + 1 for each in words)
    unknown = sum(word not in model for each in words for word in each)
    score = sum(model.score(each) for each in words)
    return {
        "lm_perplexity": float(np.exp(-score / count)),
        "unknown_share": unknown / max(sum(map(len, words)), 1),
    }


def tuning_set(source: SourceConfig, split: str, held_out: Utterances) -> Utterances | None:
    """Return what weights are chosen on: the validation split, unless that is what is judged or there is none."""
    if split == "validation":
        return None
    try:
        found = source.open("validation")
    except DataError:
        return None
    judged = {held_out.source.sample_name(row) for row in held_out.rows}
    if judged & {found.sample_name(row) for row in range(len(found))}:
        return None
    try:
        return utterances(found, TUNED)
    except DataError:
        return None


def choose_weights(
    method: Any, tuning: Utterances | None, settings: Transcribing, report: Any
) -> tuple[Transcribing, str]:
    """Return settings with the weight and bonus that get most words right, and how they were found, in words.

    The model's own are tried first, then weights over two orders of magnitude, bonuses beside the best, and weights near it;
    of equals, the first is kept.

    Args:
        method: a recogniser.
        tuning: what they are chosen on; None keeps the model's own.
        settings: with the language model.
        report: told the share that is done.

    Raises:
        ConfigError: if the method takes no language model.
    """
    if tuning is None:
        return settings, "the model's own weight, since there is no other split to choose one on"
    tries = _Tries(method, tuning)
    rates: dict[tuple[float | None, float | None], float] = {}

    def rate(weight: float | None, bonus: float | None) -> float:
        key = (weight, bonus)
        if key not in rates:
            hypotheses = [t.text for t in tries.transcribe(settings.replace(lm_weight=weight, word_bonus=bonus))]
            rates[key] = total(errors(tuning.texts, hypotheses)).rate
            report(min(len(rates) / (len(WEIGHTS) + len(BONUSES) + 5), 1.0))
        return rates[key]

    def best() -> tuple[float | None, float | None]:
        return min(rates, key=rates.__getitem__)

    rate(None, None)
    for each in WEIGHTS:
        rate(each, 0.0)
    middle = min(WEIGHTS, key=lambda each: rates[each, 0.0])
    for times in BONUSES:
        rate(middle, times * middle)
    weight, bonus = best()
    if weight is not None:
        for factor in (0.7, 0.85, 1.2, 1.4):
            rate(round(factor * weight, 4), bonus)
    weight, bonus = best()
    where = (
        f"chosen on {len(tuning.rows)} validation utterances ({in_percent(rates[weight, bonus])} of their words wrong)"
    )
    own = "the model's own weight and bonus" if weight is None else f"weight {weight:g}, bonus {bonus:g} a word"
    return settings.replace(lm_weight=weight, word_bonus=bonus), f"{own}, {where}"


class _Tries:
    """Transcribes the same recordings many times; a method that emits and decodes apart hears them once."""

    def __init__(self, method: Any, held_out: Utterances) -> None:
        self.method, self.held_out = method, held_out
        self._emissions: list[Emissions] | None = None

    def transcribe(self, settings: Transcribing) -> list[Transcript]:
        if not (hasattr(self.method, "emissions") and hasattr(self.method, "decode")):
            return [t for chunk in self.held_out.chunks() for t in self.method.transcribe(chunk, settings)]
        if self._emissions is None:
            self._emissions = [self.method.emissions(a) for chunk in self.held_out.chunks() for a in chunk]
        return self.method.decode(self._emissions, settings)
