"""Judges DeCap: its captions as every captioner's, and the gap between pictures and texts that it has to cross."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from intermodal.core.capabilities import Embeds
from intermodal.core.progress import Progress
from intermodal.data.source import SourceConfig
from intermodal.evaluate.captions import evaluate_captions
from intermodal.evaluate.encoding import embed_texts, image_encoder
from intermodal.evaluate.modality_gap import draw_gap, gap, told_apart
from intermodal.evaluate.pairs import embed_pairs
from intermodal.evaluate.result import Evaluation, Figure
from intermodal.methods.captioning.decap import DeCap

MOST = 500
ABOUT = (
    "Pictures and their texts in the plane of the first two principal components; a cross is a mean, a line joins a picture "
    "with its own text."
)


def evaluate_decap(
    method: DeCap, source: SourceConfig, split: str, progress: Progress, *, judge: Embeds, full: bool
) -> Evaluation:
    """Judge captions beside their baselines, and in full the gap before and after the projection.

    Args:
        method: what is judged.
        source: captioned pictures.
        split: of them.
        progress: told what is done.
        judge: of the CLIP score and the nearest picture.
        full: with baselines, panels and the gap.
    """
    found = evaluate_captions(method, source, split, progress, judge=judge, full=full)
    if not full:
        return found
    metrics, sets = gap_figures(method, source, split)
    panel = Figure("The gap between texts and pictures", ABOUT, draw_gap(sets), ABOUT)
    return dataclasses.replace(found, metrics=found.metrics | metrics, panels=[*found.panels, panel])


def gap_figures(method: DeCap, source: SourceConfig, split: str) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Return the gap of a split's pictures to its texts, before and after the projection, and the vectors.

    Returns:
        ``gap`` and ``told_apart`` (which share of the vectors a plane between the means tells apart), and with a memory
        the same with ``projected_`` before them; and the vectors by name.
    """
    pairs, (image,) = embed_pairs(source.open(split), [image_encoder(method.clip)], MOST, source, lambda _: None)
    text = embed_texts(method.clip, [captions[0] for captions in pairs.captions])
    sets = {"texts": text, "pictures": image}
    if method.config.memory:
        with torch.no_grad():
            sets["projected"] = method.project(torch.from_numpy(image).to(method.memory_MD)).cpu().numpy()
    metrics: dict[str, float] = {}
    for name, prefix in (("pictures", ""), ("projected", "projected_")):
        if name in sets:
            metrics |= {f"{prefix}gap": gap(sets[name], text), f"{prefix}told_apart": told_apart(sets[name], text)}
    return metrics, sets
