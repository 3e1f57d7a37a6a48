"""What ``generators.py`` shows: the table as text, what each generator drew, and what it may have copied."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from intermodal.core.files import atomic_file
from intermodal.data.processors import ImageProcessor
from intermodal.data.source import SourceConfig
from intermodal.evaluate.generation_sets import Training, features_of, nearest_known

Named = Sequence[tuple[str, Sequence[Image.Image]]]
GAP, CLOSEST = 2, 12


def in_words(data: dict[str, Any]) -> str:
    """Return the table as text."""
    names = ["frechet", "frechet_spread", "kid", "precision", "recall", "novelty", "clip_score", "clip_r1", "clip_r10"]
    names += ["evaluations", "cpu_seconds", "frechet_ratio", "frechet_ratio_spread", "times_as_fast"]
    lines = [f"{'':30} {' '.join(f'{name:>9}' for name in names)}"]
    rows = [*data["rows"], *({"title": name, **values} for name, values in data["references"].items())]
    for row in rows:
        cells = ("-" if row.get(name) is None else f"{row[name]:.3g}" for name in names)
        lines.append(
            " ".join([f"{row['title']:30}", *(f"{c:>{max(9, len(n))}}" for n, c in zip(names, cells, strict=True))])
        )
    return "\n".join(lines)


def sheet(rows: Sequence[Sequence[Image.Image]]) -> np.ndarray:
    """Return pictures of one size in rows on white, with a gap around each."""
    width, height = rows[0][0].size
    canvas = np.full((len(rows) * (height + GAP), max(map(len, rows)) * (width + GAP), 3), 255, np.uint8)
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            top, left = y * (height + GAP), x * (width + GAP)
            canvas[top : top + height, left : left + width] = np.asarray(image)
    return canvas


def draw_sheet(path: Path, rows: Named, columns: Sequence[str], notes: Sequence[Sequence[str]] = ()) -> None:
    """Draw rows of pictures with a title beside each row, a prompt over each of its columns, and notes in the pictures."""
    array = sheet([images for _, images in rows])
    side = rows[0][1][0].width + GAP
    figure, axes = plt.subplots(figsize=(array.shape[1] / 55 + 2.4, array.shape[0] / 55 + 1.1))
    axes.imshow(array, interpolation="nearest")
    axes.set_yticks([(i + 0.5) * side for i in range(len(rows))], [name for name, _ in rows], fontsize=8)
    places = [i for i, column in enumerate(columns) if i == 0 or column != columns[i - 1]]
    axes.set_xticks(
        [(i + 0.5) * side for i in places], [columns[i] for i in places], fontsize=8, rotation=35, ha="left"
    )
    axes.xaxis.tick_top()
    for y, row in enumerate(notes):
        for x, note in enumerate(row):
            axes.text((x + 0.97) * side - GAP, (y + 0.95) * side - GAP, note, fontsize=5, ha="right", color="tab:red")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, bbox_inches="tight")
    plt.close(figure)


def grid_picture(path: Path, rows: Named, columns: Sequence[str]) -> None:
    """Draw the pictures of all generators for the same prompts and seeds."""
    draw_sheet(path, rows, columns)


def memory_picture(path: Path, rows: Named, source: SourceConfig, picture: ImageProcessor, training: Training) -> None:
    """Draw of each generator the pictures that are nearest to a training picture, above it, with the distance."""
    train, shown, notes = source.open("train"), list[tuple[str, list[Image.Image]]](), list[list[str]]()
    for name, images in rows:
        distance_N, place_N = nearest_known(features_of(images), training.features_MD)
        closest = distance_N.argsort(stable=True)[:CLOSEST].tolist()
        known = [picture.fitted(train.sample(training.places[int(place_N[i])])["image"]) for i in closest]
        shown += [(name, [images[i] for i in closest]), ("nearest in training", known)]
        notes += [[], [f"{float(distance_N[i]):.2f}" for i in closest]]
    draw_sheet(path, shown, [], notes)
