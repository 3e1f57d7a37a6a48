"""Retrieval as pictures: what a text brought, what a picture brought, and where it went wrong.

Whatever is shown is picked by a rule that the caller states, never by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
from PIL import Image

from intermodal.evaluate.result import Heatmap, Item

Picture = Callable[[int], Image.Image]
ROWS = 1024
"""Queries whose scores are held at a time."""


def best(scores: np.ndarray, top: int, kind: Sequence[Hashable] | None = None) -> list[int]:
    """Return the indices of the highest scores, best first; with ``kind`` only the best of each kind."""
    order = np.argsort(-scores, kind="stable")
    if kind is None:
        return [int(i) for i in order[:top]]
    seen: set[Hashable] = set()
    chosen: list[int] = []
    for i in order:
        if kind[i] not in seen:
            seen.add(kind[i])
            chosen.append(int(i))
        if len(chosen) == top:
            break
    return chosen


def rank(scores: np.ndarray, right: Sequence[int] | np.ndarray) -> int:
    """Return the rank, from 1, of the best of the right items; ties count in its favour."""
    return 1 + int((scores > scores[np.asarray(right)].max()).sum())


def pictures_for(
    text: str,
    scores: np.ndarray,
    picture: Picture,
    *,
    right: Sequence[int] | None = None,
    kind: Sequence[Hashable] | None = None,
    caption: Callable[[int], str] | None = None,
    note: str = "",
    top: int = 10,
) -> tuple[Item, list[Item]]:
    """Return a gallery's row: a text and the pictures that it brings.

    Args:
        text: the query.
        scores: its similarity to each picture.
        picture: reads one.
        right: the pictures that belong to the text; None where there is no truth.
        kind: what each picture shows; of each kind only the best is shown.
        caption: a picture's own words, printed under it.
        note: printed under the query, beside the rank of the right picture.
        top: how many pictures.
    """
    found = f"right one at rank {rank(scores, right):,} of {len(scores):,}" if right is not None else ""
    items = [
        Item(
            image=picture(i),
            text=caption(i) if caption is not None else "",
            score=float(scores[i]),
            good=None if right is None else i in right,
        )
        for i in best(scores, top, kind)
    ]
    return Item(text=text, note=", ".join(n for n in (note, found) if n)), items


def texts_for(
    image: Image.Image,
    scores: np.ndarray,
    texts: Sequence[str],
    *,
    right: Sequence[int],
    title: str = "",
    note: str = "",
    top: int = 5,
) -> tuple[Item, list[Item]]:
    """Return a gallery's row: a picture and the texts that it brings; ``right`` belong to it."""
    found = f"right one at rank {rank(scores, right):,} of {len(scores):,}"
    items = [Item(text=texts[i], score=float(scores[i]), good=i in right) for i in best(scores, top)]
    return Item(image=image, text=title, note=", ".join(n for n in (note, found) if n)), items


def best_answers(queries: np.ndarray, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each query's most similar item and that similarity, of vectors ``(N, D)`` and ``(M, D)``."""
    first, similarity = np.zeros(len(queries), np.int64), np.zeros(len(queries), np.float32)
    for start in range(0, len(queries), ROWS):
        scores = queries[start : start + ROWS] @ items.T
        first[start : start + ROWS], similarity[start : start + ROWS] = scores.argmax(1), scores.max(1)
    return first, similarity


def confident_mistakes(
    queries: np.ndarray,
    items: np.ndarray,
    right: Sequence[Sequence[int]],
    top: int,
    kind: Sequence[Hashable],
) -> list[int]:
    """Return the queries whose best answer is wrong, the most similar wrong answers first.

    So that one confusion does not fill the page, one query of each kind and of each wrong answer is taken.

    Args:
        queries: vectors ``(N, D)``.
        items: vectors ``(M, D)``.
        right: for each query the items that are right.
        top: how many queries.
        kind: what each query shows.
    """
    first, similarity = best_answers(queries, items)
    seen: set[Hashable] = set()
    chosen: list[int] = []
    for i in np.argsort(-similarity, kind="stable"):
        marks = {("kind", kind[i]), ("answer", int(first[i]))}
        if int(first[i]) in right[i] or seen & marks:
            continue
        seen |= marks
        chosen.append(int(i))
        if len(chosen) == top:
            break
    return chosen


def similarity_map(
    title: str, about: str, scores: np.ndarray, pictures: Sequence[Image.Image], names: Sequence[str]
) -> Heatmap:
    """Return the similarities of pictures (rows) and texts (columns); row i belongs to column i."""
    rows = [Item(image=image, text=name) for image, name in zip(pictures, names, strict=True)]
    return Heatmap(title, about, scores, rows, [Item(text=name) for name in names])
