"""Judges a reader of isolated words, and what each step of its features buys.

- ``accuracy``: the share of recordings whose word is found; ``accuracy_worst_speaker``: of the speaker that it hears worst.
- ``chance_accuracy``: of always saying the most frequent word of training.
- ``probe_*``: accuracy of a linear reader (multinomial logistic regression on the means of the features over ten equal
  stretches of a recording) with one kind of features each, trained and judged on the same splits; ``left_out_*``: the mean
  over speakers of the same when it is trained on all others, training and judged recordings together. The linear readers
  share one penalty (:data:`PENALTY`) and know nothing that a convolution could find: what they reach is the features'.

Shapes: B recordings, N frames, F features of a frame, S stretches.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from intermodal.core.progress import Progress
from intermodal.data.audio import Waveform, resample
from intermodal.data.source import Source, SourceConfig
from intermodal.data.transcripts import padded
from intermodal.evaluate.encoding import Steps
from intermodal.evaluate.energy import spread_out
from intermodal.evaluate.result import Bars, Evaluation, Headline, Heatmap, Item, Panel, Table, in_percent
from intermodal.methods.speech.mel import MelReader
from intermodal.metrics.probe import fit_probe
from intermodal.nn.speech_features import FeatureConfig, SpecAugmentConfig, SpeechFeatures, spec_augment

MOST, QUICK, MOST_SPEAKERS = 4000, 256, 8
"""Recordings that are judged (and that probes train on), those while training, and speakers that are left out in turn."""
STRETCHES, PENALTY = 10, 0.03
CHUNK = 64
SLOW, FAST = 0.9, 1.1


@dataclass(frozen=True)
class _Step:
    """One row of the table: features, and how training recordings are changed on top."""

    key: str
    name: str
    config: FeatureConfig
    augment: SpecAugmentConfig | None = None
    speeds: tuple[float, ...] = ()


@dataclass(frozen=True)
class _Words:
    waves: list[Tensor]
    texts: list[str]
    speakers: list[str]


def evaluate_mel(method: MelReader, source: SourceConfig, split: str, progress: Progress, full: bool) -> Evaluation:
    """Judge a reader on a split.

    Args:
        method: the reader.
        source: the data; its training split is what the linear readers train on.
        split: what to judge on.
        progress: told what is done.
        full: all of the split, with the table of features; else some of it, and the accuracy alone.
    """
    start = time.monotonic()
    steps = Steps(
        progress, {"Reading recordings": 2, "Listening": 1, "Comparing features": 12} if full else {"Listening": 1}
    )
    if full:
        steps("Reading recordings")
    judged = _read(method, source.open(split), MOST if full else QUICK)
    steps("Listening")
    waves = [Waveform(wave.numpy(), method.sample_rate) for wave in judged.waves]
    found = [method.words[k] for k in method.scores(waves).argmax(1)]
    right = np.array([a == b for a, b in zip(found, judged.texts, strict=True)])
    metrics = {"accuracy": float(right.mean())}
    by_speaker = _by_speaker(right, judged.speakers)
    if len(by_speaker) > 1:
        metrics["accuracy_worst_speaker"] = min(by_speaker.values())
    if not full:
        return Evaluation(split, metrics, [], time.monotonic() - start)
    training = _read(method, source.open("train"), MOST)
    common = Counter(training.texts).most_common(1)[0][0]
    metrics["chance_accuracy"] = float(np.mean([text == common for text in judged.texts]))
    rows: list[list[str | float | None]] = []
    for number, step in enumerate(feature_steps(method)):
        steps("Comparing features", number / len(feature_steps(method)))
        published, left_out = _probe(step, training, judged, method.words)
        metrics[f"probe_{step.key}"] = published
        if left_out is not None:
            metrics[f"left_out_{step.key}"] = left_out
        rows.append([step.name, step.config.size, published, left_out])
    shown = [*_table(rows), *_panels(method, judged, found, by_speaker)]
    headline = Headline(
        in_percent(metrics["accuracy"]),
        f"So many of {len(found)} recordings of single words are read rightly; always saying the most frequent word "
        f"would be right for {in_percent(metrics['chance_accuracy'])}.",
    )
    return Evaluation(split, metrics, shown, time.monotonic() - start, headline)


def feature_steps(method: MelReader) -> list[_Step]:
    """Return the kinds of features that are compared, each with one step more than one before it."""
    own = method.config.features
    bins = own.bins
    plain = FeatureConfig(rate=own.rate, bins=bins, low=own.low, high=own.high, coefficients=min(13, bins))
    mfcc = plain.replace(kind="mfcc")
    slopes = mfcc.replace(deltas=2)
    hidden = SpecAugmentConfig(time_masks=1, time_width=8, frequency_masks=1, frequency_width=3)
    speeds = (SLOW, FAST)
    return [
        _Step("spectrum", "log spectrum", plain.replace(kind="spectrum")),
        _Step("htk", f"log-mel, HTK, {bins} bands", plain),
        _Step("slaney", f"log-mel, Slaney, {bins} bands", plain.replace(mel="slaney")),
        _Step("mfcc", f"MFCC, {plain.coefficients}", mfcc),
        _Step("mfcc_deltas", "MFCC and slopes", mfcc.replace(deltas=1)),
        _Step("mfcc_deltas2", "MFCC, slopes, slopes of slopes", slopes),
        _Step("mfcc_cmn", "... less the recording's mean", slopes.replace(cmvn="utterance", cmvn_variance=False)),
        _Step("mfcc_cmvn", "... and over its deviation", slopes.replace(cmvn="utterance")),
        _Step("speed", "MFCC and slopes of both orders, speeds 0.9 and 1.1", slopes, speeds=speeds),
        _Step("specaugment", "... and SpecAugment", slopes, hidden, speeds),
    ]


# --8<-- [start:stretches]
def stretch_means(feature_BNF: Tensor, frames_B: Tensor, stretches: int) -> Tensor:
    """Return the means of features over equal stretches of each recording, ``(B, S, F)``.

    Stretch s of a recording of N frames is that of frames ``floor(s N / S)`` to ``ceil((s + 1) N / S)``, at least one; a
    recording without a frame gives zeros.
    """
    side = torch.arange(stretches, device=feature_BNF.device)
    begin_BS = (side * frames_B[:, None]) // stretches
    end_BS = -(-(side + 1) * frames_B[:, None] // stretches)
    place = torch.arange(feature_BNF.shape[1], device=feature_BNF.device)
    weight_BSN = ((place >= begin_BS[..., None]) & (place < end_BS[..., None])).to(feature_BNF.dtype)
    return weight_BSN @ feature_BNF / (end_BS - begin_BS).clamp(min=1)[..., None]


# --8<-- [end:stretches]


def _read(method: MelReader, source: Source, most: int) -> _Words:
    """Return recordings at the model's rate, with the words that it knows."""
    waves, texts, speakers = [], [], []
    encode = method.processors["audio"].encode
    for row in spread_out(len(source), most):
        sample = source.sample(row)
        waves.append(encode(sample["audio"]))
        texts.append(sample["text"])
        speakers.append(sample["speaker"])
    return _Words(waves, texts, speakers)


def _probe(step: _Step, training: _Words, judged: _Words, words: tuple[str, ...]) -> tuple[float, float | None]:
    """Return the accuracy of a linear reader on the judged recordings, and over left-out speakers."""
    place = {word: k for k, word in enumerate(words)}
    train, test = (torch.tensor([place.get(text, -1) for text in part.texts]) for part in (training, judged))
    read, judge = _vectors(step.config, training.waves, None), _vectors(step.config, judged.waves, None)
    more_train, more_test = _augmented(step, training.waves), _augmented(step, judged.waves)
    found = _accuracy([read, *more_train], train, judge, test)
    every, labels = torch.cat([read, judge]), torch.cat([train, test])
    more = [torch.cat(both) for both in zip(more_train, more_test, strict=True)]
    speakers = np.array([*training.speakers, *judged.speakers])
    names = sorted(set(speakers.tolist()) - {""})
    if len(names) < 2:
        return found, None
    each = []
    for name in [names[i] for i in spread_out(len(names), MOST_SPEAKERS)]:
        out = torch.from_numpy(speakers == name)
        parts = [part[~out] for part in (every, *more)]
        if len(labels[~out].unique()) > 1:
            each.append(_accuracy(parts, labels[~out], every[out], labels[out]))
    return found, float(np.mean(each)) if each else None


def _accuracy(parts: list[Tensor], label: Tensor, judge: Tensor, truth: Tensor) -> float:
    known = label >= 0
    classes = int(max(label.max(), truth.max())) + 1
    probe = fit_probe(
        torch.cat([part[known] for part in parts]), label[known].repeat(len(parts)), classes=classes, l2=PENALTY
    )
    return float((probe(judge).argmax(1) == truth).float().mean())


def _augmented(step: _Step, waves: list[Tensor]) -> list[Tensor]:
    return [
        _vectors(step.config, [_at(wave, speed, step.config.rate) for wave in waves], step.augment)
        for speed in step.speeds
    ]


def _at(wave: Tensor, speed: float, rate: int) -> Tensor:
    return torch.from_numpy(resample(wave.numpy(), rate * speed, rate))


@torch.inference_mode()
def _vectors(config: FeatureConfig, waves: list[Tensor], augment: SpecAugmentConfig | None) -> Tensor:
    """Return what a linear reader sees of recordings, ``(len(waves), S F)``."""
    features, generator = SpeechFeatures(config), torch.Generator().manual_seed(0)
    parts = []
    for first in range(0, len(waves), CHUNK):
        part = waves[first : first + CHUNK]
        feature, frames = features(*padded(part))
        if augment is not None:
            mean = float(feature.mean())
            feature = spec_augment(feature, frames, augment, generator, blocks=1 + config.deltas, fill=mean)
        parts.append(stretch_means(feature, frames, STRETCHES).flatten(1))
    return torch.cat(parts)


def _by_speaker(right: np.ndarray, speakers: list[str]) -> dict[str, float]:
    names = sorted(set(speakers) - {""})
    return {name: float(right[np.array(speakers) == name].mean()) for name in names}


def _table(rows: list[list[str | float | None]]) -> list[Panel]:
    about = (
        f"Share of words that a linear reader of {STRETCHES} stretches finds with each kind of features: on the judged "
        "split, and for speakers that it was not trained on (mean over speakers, each left out in turn). "
        "All readers have the same penalty."
    )
    columns = ["features", "in a frame", "judged split", "left-out speakers"]
    panels: list[Panel] = [Table("What each step of the features buys", about, columns, rows)]
    if all(row[3] is not None for row in rows):
        values = [float(row[3] or 0.0) for row in rows]
        text = "The same readers on speakers that they were not trained on."
        panels.append(Bars("Features and new speakers", text, [str(row[0]) for row in rows], values, unit="%"))
    return panels


def _panels(method: MelReader, judged: _Words, found: list[str], by_speaker: dict[str, float]) -> list[Panel]:
    words = sorted(set(judged.texts) | set(found))[:40]
    place = {word: i for i, word in enumerate(words)}
    counts = np.zeros((len(words), len(words)))
    for said, heard in zip(judged.texts, found, strict=True):
        if said in place and heard in place:
            counts[place[said], place[heard]] += 1
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    items = [Item(text=word) for word in words]
    panels: list[Panel] = [
        Heatmap("What is heard for what is said", "Rows: the word; columns: what was heard.", shares, items, items)
    ]
    if len(by_speaker) > 1:
        names, values = list(by_speaker), list(by_speaker.values())
        panels.append(Bars("Speakers", "Accuracy for each speaker of the judged split.", names, values, unit="%"))
    wrong = Counter((a, b) for a, b in zip(judged.texts, found, strict=True) if a != b)
    if wrong:
        rows: list[list[str | float | None]] = [[a, b, float(n)] for (a, b), n in wrong.most_common(12)]
        panels.append(Table("Mistakes", "The most frequent.", ["said", "heard", "times"], rows))
    del method
    return panels
