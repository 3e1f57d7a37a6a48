"""The figures that the recipes have reached, with date and hardware."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

FILE = "measured.json"
LESS_IS_BETTER = ("frechet", "wer", "cer", "lm_wer", "lm_cer", "beam_wer", "beam_cer", "perplexity")
"""Figures that are better the smaller they are; all others are better the larger they are."""


def measured() -> dict[str, dict[str, Any]]:
    """Return each measured recipe's entry: metric, value, baseline, split, date, hardware, minutes."""
    file = resources.files("intermodal.recipes") / FILE
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def beats_baseline(figure: dict[str, Any]) -> bool:
    """Say whether an entry's value is better than its baseline."""
    value, baseline = figure["value"], figure["baseline"]
    return value < baseline if figure["metric"] in LESS_IS_BETTER else value > baseline


def in_words(figure: dict[str, Any]) -> str:
    """Return an entry as one line."""
    text = f"{figure['metric']} {figure['value']:.3f}"
    if figure.get("baseline") is not None:
        less = "; less is better" if figure["metric"] in LESS_IS_BETTER else ""
        text += f" (baseline {figure['baseline']:.3f}{less})"
    if figure.get("split"):
        text += f" on {figure['split']}"
    if figure.get("minutes") is not None:
        text += f", {figure['minutes']:.0f} min"
    where = ", ".join(str(figure[key]) for key in ("hardware", "date") if figure.get(key))
    return f"{text} ({where})" if where else text
