"""Judges wav2vec 2.0's pre-training on recordings that it has not heard.

- ``accuracy``: how often the true target of a masked frame is told from K others of its utterance, all masked; masks and
  negatives are the same in every evaluation. ``chance_accuracy`` is that of lots: above 1 / (K + 1), since negatives with
  the target's own codes do not count.
- ``contrastive``: the loss of equation 3, in nats.
- ``perplexity``: how many codes the codebooks' use is worth, all groups together; ``codes`` is the most.
- ``speaker_accuracy``: how often the nearest other recording, by the cosine of the mean of its frames, is of the same
  speaker; ``chance_speaker`` that of a recording by lot.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from intermodal.core.progress import Progress
from intermodal.data.loader import eval_batches
from intermodal.data.source import SourceConfig
from intermodal.evaluate.result import Bars, Evaluation, Figure, Headline, Panel, in_percent
from intermodal.evaluate.wav2vec2_picture import draw_told_apart
from intermodal.methods.speech.wav2vec2 import Wav2Vec2

RECORDINGS, QUICK, BATCH = 512, 64, 8


def evaluate_wav2vec2(
    method: Wav2Vec2, source: SourceConfig, split: str, progress: Progress, *, full: bool = True
) -> Evaluation:
    """Judge a pre-trained model on a split; see the module's text.

    Args:
        method: the model.
        source: recordings.
        split: what to judge on.
        progress: told what is done.
        full: up to 512 recordings, the speakers and panels; else 64 and the loss alone.
    """
    with method.evaluating():
        return _judged(method, source, split, progress, full)


def _judged(method: Wav2Vec2, source: SourceConfig, split: str, progress: Progress, full: bool) -> Evaluation:
    start, data = time.monotonic(), source.open(split)
    most = min(len(data), RECORDINGS if full else QUICK)
    sums: dict[str, float] = {}
    counted = 0
    with torch.no_grad():
        for indices, tensors in eval_batches(data, method.inputs, BATCH):
            if indices.start >= most:
                break
            batch = method.prepare({k: v.to(method.device) for k, v in tensors.items()})
            batch["seed"] = torch.tensor(list(indices))
            for name, value in method.loss(batch).parts.items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(indices)
            counted += len(indices)
            progress("Telling frames apart", min(1.0, counted / most))
    config = method.config
    metrics = {
        "accuracy": sums["accuracy"] / counted,
        "chance_accuracy": sums["chance"] / counted,
        "contrastive": sums["contrastive"] / counted,
        "perplexity": sums["perplexity"] / counted,
        "codes": float(config.quantizer.groups * config.quantizer.codes),
    }
    if not full:
        return Evaluation(split, metrics, [], time.monotonic() - start)
    samples = [data.sample(i) for i in range(most)]
    speakers = np.array([s["speaker"] for s in samples])
    if len(set(speakers)) > 1:
        vectors = method.embed("audio", [s["audio"] for s in samples])
        like = vectors @ vectors.T
        np.fill_diagonal(like, -np.inf)
        same = speakers[:, None] == speakers[None, :]
        metrics["speaker_accuracy"] = float(np.mean(speakers[like.argmax(1)] == speakers))
        metrics["chance_speaker"] = float((same.sum(1) - 1).mean() / (most - 1))
    panels: list[Panel] = [
        Bars(
            "Told apart",
            f"How often a masked frame is told from {config.negatives} others of its utterance, and a speaker from others.",
            ["masked frames", *(["speakers"] if "speaker_accuracy" in metrics else [])],
            [metrics[name] for name in ("accuracy", "speaker_accuracy") if name in metrics],
            unit="%",
            baseline=[metrics[name] for name in ("chance_accuracy", "chance_speaker") if name in metrics],
            baseline_name="chance",
        ),
        Figure(
            "One recording",
            "The split's first. Above what is masked and each frame's codes; below how like what is said of a masked frame "
            "is to all masked frames' targets, and how many wrong ones seem likelier than the right one.",
            draw_told_apart(method, samples[0]["audio"], str(samples[0]["text"])),
            alt="Masked spans, codes, and a matrix of cosines whose diagonal is the right answer.",
        ),
    ]
    words = (
        f"of the masked frames are told from {config.negatives} others of the same recording; by lot it would be "
        f"{in_percent(metrics['chance_accuracy'])}. The codebooks' use is worth {metrics['perplexity']:.0f} of "
        f"{metrics['codes']:.0f} codes."
    )
    return Evaluation(
        split, metrics, panels, time.monotonic() - start, Headline(in_percent(metrics["accuracy"]), words)
    )
