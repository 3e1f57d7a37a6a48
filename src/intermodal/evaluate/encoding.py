"""Many pictures or texts through anything that embeds, in batches, with progress."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from intermodal.core.capabilities import Embeds
from intermodal.core.errors import TrainingError
from intermodal.core.progress import Progress

Encoder = Callable[[list[Image.Image]], np.ndarray]
"""Turns pictures into one row of numbers each."""

BATCH = 256
BATCH_PIXELS = 64_000_000
"""A batch of pictures ends here even before it holds :data:`BATCH`: large photographs do not fill the
memory."""


class Steps:
    """Turns progress within named steps into progress of the whole.

    Args:
        progress: told what is being done and the share of the whole.
        weights: the steps in their order, and about how long each takes beside the others.
    """

    def __init__(self, progress: Progress, weights: Mapping[str, float]) -> None:
        self._progress = progress
        total = sum(weights.values())
        starts = np.cumsum([0.0, *weights.values()]) / total
        self._spans = {name: (starts[i], weights[name] / total) for i, name in enumerate(weights)}

    def __call__(self, step: str, share: float = 0.0) -> None:
        """Say that ``share`` (0 to 1) of one step is done."""
        start, length = self._spans[step]
        self._progress(step, float(min(start + length * share, 1.0)))

    def of(self, step: str) -> Callable[[float], None]:
        """Return a function of the share alone, for one step."""
        self(step)
        return lambda share: self(step, share)


def embed_pictures(
    encoders: Sequence[Encoder], pictures: Iterable[Image.Image], count: int, report: Callable[[float], None]
) -> list[np.ndarray]:
    """Turn pictures into rows of numbers, in one pass: each is read once and few are held at a time.

    Args:
        encoders: each returns one row a picture.
        pictures: read lazily.
        count: about how many there are, for progress.
        report: told the share that is done.

    Returns:
        one array ``(pictures, D)`` an encoder.

    Raises:
        TrainingError: if a row is not finite.
    """
    parts: list[list[np.ndarray]] = [[] for _ in encoders]
    done = 0
    for batch in _batches(pictures):
        for rows, encoder in zip(parts, encoders, strict=True):
            rows.append(_checked(encoder(batch), "pictures"))
        done += len(batch)
        report(min(done / max(count, 1), 1.0))
    return [np.concatenate(rows) if rows else np.zeros((0, 1), np.float32) for rows in parts]


def image_encoder(embedder: Embeds) -> Encoder:
    """Return an embedder's picture side, for :func:`embed_pictures`."""
    return lambda pictures: embedder.embed("image", pictures)


def embed_texts(embedder: Embeds, texts: Sequence[str], report: Callable[[float], None] | None = None) -> np.ndarray:
    """Embed texts in batches; each distinct text is embedded once. Returns float32 ``(len(texts), D)``."""
    distinct = list(dict.fromkeys(texts))
    parts = []
    for start in range(0, len(distinct), BATCH):
        parts.append(_checked(embedder.embed("text", distinct[start : start + BATCH]), "texts"))
        if report is not None:
            report(min((start + BATCH) / len(distinct), 1.0))
    if not parts:
        return embedder.embed("text", [])
    place = {text: i for i, text in enumerate(distinct)}
    return np.concatenate(parts)[[place[text] for text in texts]]


def label_vectors(embedder: Embeds, prompts: Sequence[Sequence[str]]) -> np.ndarray:
    """Return one unit vector a label, ``(labels, D)``: the normalised mean over its prompts.

    Radford 2021, section 3.1.4.

    Args:
        embedder: takes ``"text"``.
        prompts: for each label its prompts; every label has equally many.
    """
    vectors = embed_texts(embedder, [p for label in prompts for p in label])
    return unit(vectors.reshape(len(prompts), -1, vectors.shape[-1]).mean(1))


def unit(vectors: np.ndarray) -> np.ndarray:
    """Scale rows to length one; rows of zeros stay."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _checked(vectors: np.ndarray, what: str) -> np.ndarray:
    if not np.isfinite(vectors).all():
        raise TrainingError(f"The model turns {what} into vectors that are not finite: its weights are broken.")
    return vectors


def _batches(pictures: Iterable[Any]) -> Iterator[list[Any]]:
    batch: list[Any] = []
    pixels = 0
    for picture in pictures:
        batch.append(picture)
        pixels += picture.width * picture.height
        if len(batch) == BATCH or pixels > BATCH_PIXELS:
            yield batch
            batch, pixels = [], 0
    if batch:
        yield batch
