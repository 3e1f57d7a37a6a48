"""Judges the sounds of a binding model: do texts and spoken words, which were never paired, find each other?

All recordings of one split (a speaker who was not trained on) and the texts of the emoji that they belong to:
``audio_to_text_accuracy`` gives each recording the text that is nearest among those of all spoken words, and
``text_to_audio_map`` is the mean average precision of the recordings in the order of a text. Neither was trained.
``audio_to_image_accuracy`` is the trained way, with pictures in styles that were not trained on. ``audio_to_text_r10`` looks
among the texts of all training concepts. Baselines: chance, and the same towers with random weights.
"""

from __future__ import annotations

import numpy as np

from intermodal.core.progress import Progress
from intermodal.data.spoken import SpokenPictures
from intermodal.evaluate.encoding import BATCH
from intermodal.evaluate.result import Heatmap, Item, Table
from intermodal.methods.contrastive.binding import Binding


def judge_sounds(
    method: Binding, opened: SpokenPictures, texts: list[str], untrained: Binding | None, progress: Progress
) -> tuple[dict[str, float], list[Heatmap | Table]]:
    """Return the figures and panels of the sounds.

    Args:
        method: with a tower for sounds.
        opened: the split.
        texts: of other concepts, among which a sound's text is looked for.
        untrained: with random weights; None leaves it, chance and the panels out.
        progress: told what is done.
    """
    words = list(dict.fromkeys(opened.recordings.texts()))
    own = [opened.picture_of(word) for word in words]
    truth = np.array([words.index(word) for word in opened.recordings.texts()])
    progress("Embedding sounds", 0.5)
    recordings = [opened.recordings.sample(i)["audio"] for i in range(len(opened.recordings))]
    gallery = [text for _, text in own] + [t for t in texts if t not in {text for _, text in own}]

    def figures(model: Binding) -> tuple[dict[str, float], np.ndarray]:
        audio = np.concatenate(
            [model.embed("audio", recordings[at : at + BATCH]) for at in range(0, len(recordings), BATCH)]
        )
        text, image = model.embed("text", gallery), model.embed("image", [picture for picture, _ in own])
        scores = audio @ text.T
        by_text = scores[:, : len(words)]
        rank = (scores > scores[np.arange(len(truth)), truth][:, None]).sum(1)
        found = {
            "audio_to_text_accuracy": float((by_text.argmax(1) == truth).mean()),
            "text_to_audio_map": average_precision(by_text.T, truth),
            "audio_to_image_accuracy": float(((audio @ image.T).argmax(1) == truth).mean()),
            "audio_to_text_r10": float((rank < 10).mean()),
        }
        return found, by_text

    metrics, scores = figures(method)
    if untrained is None:
        return metrics, []
    random, _ = figures(untrained)
    metrics |= {f"random_{name}": value for name, value in random.items()}
    shares = np.bincount(truth) / len(truth)
    metrics |= {
        "chance_audio_to_text_accuracy": 1 / len(words),
        "chance_text_to_audio_map": float(shares.mean()),
        "chance_audio_to_image_accuracy": 1 / len(words),
        "chance_audio_to_text_r10": 10 / len(gallery),
    }
    confusion = np.zeros((len(words), len(words)))
    np.add.at(confusion, (truth, scores.argmax(1)), 1)
    rows: list[list[str | float | None]] = [
        ["sound to text, of all spoken words", "emergent", *(metrics[p + "audio_to_text_accuracy"] for p in _COLUMNS)],
        ["text to sound, average precision", "emergent", *(metrics[p + "text_to_audio_map"] for p in _COLUMNS)],
        [
            f"sound to text, first ten of {len(gallery):,}",
            "emergent",
            *(metrics[p + "audio_to_text_r10"] for p in _COLUMNS),
        ],
        ["sound to picture", "trained", *(metrics[p + "audio_to_image_accuracy"] for p in _COLUMNS)],
    ]
    names = [Item(text=word) for word in words]
    return metrics, [
        Table(
            "Sounds look for texts and pictures",
            f"{len(truth)} recordings of a speaker who was not heard in training. No sound was ever paired with a text.",
            ["query and gallery", "pair", "figure", "random weights", "chance"],
            rows,
        ),
        Heatmap(
            "Which text each spoken word finds",
            "Rows: what is said. Columns: the emoji whose text is nearest. Shares of each row.",
            confusion / np.maximum(confusion.sum(1, keepdims=True), 1),
            names,
            [Item(text=text.partition(",")[0]) for _, text in own],
        ),
    ]


_COLUMNS = ("", "random_", "chance_")


def average_precision(scores_QN: np.ndarray, truth_N: np.ndarray) -> float:
    """Return the mean over queries of the average precision: of row q, items n with ``truth_N[n] == q`` are right."""
    found = []
    for query, scores in enumerate(scores_QN):
        right = truth_N[np.argsort(-scores, kind="stable")] == query
        if right.any():
            precision = np.cumsum(right) / np.arange(1, len(right) + 1)
            found.append(float(precision[right].mean()))
    return float(np.mean(found))
