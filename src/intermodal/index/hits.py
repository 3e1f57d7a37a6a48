"""What a search brings (pictures or texts), what an index is, and the index in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from PIL import Image

from intermodal.core.errors import DataError


@dataclass(frozen=True)
class Hit:
    """One picture or text that a search found.

    Attributes:
        path: its file, or the name of the sample.
        score: the cosine of query and hit, -1 to 1.
        caption: what is said of the picture, empty where nothing is; or the text itself.
        picture: opens the picture; raises a DataError if its file has gone in the meantime. None for a text.
    """

    path: str
    score: float
    caption: str = ""
    picture: Callable[[], Image.Image] | None = field(default=None, repr=False, compare=False, kw_only=True)


class SearchIndex(Protocol):
    """Pictures or texts that can be searched by a vector."""

    name: str
    """What a person calls them."""

    def __len__(self) -> int: ...

    def search(self, vector: np.ndarray, k: int) -> list[Hit]:
        """Return the ``k`` whose unit vectors are closest to the unit vector ``(D,)``, best first.

        Raises:
            DataError: if ``vector`` is not of the index's dimension or ``k`` is below one.
        """
        ...


class MemoryIndex:
    """A matrix of unit vectors and what each row stands for.

    Args:
        name: what a person calls them.
        vectors: float32 ``(N, D)``, rows of length one.
        paths: N names.
        sample: reads what is behind a row: its ``image`` and, where there is one, its ``text``.
    """

    def __init__(
        self,
        name: str,
        vectors: np.ndarray,
        paths: Sequence[str],
        sample: Callable[[int], Mapping[str, Any]],
    ) -> None:
        self.name, self.vectors, self.paths, self._sample = name, vectors, paths, sample

    def __len__(self) -> int:
        return len(self.vectors)

    def search(self, vector: np.ndarray, k: int) -> list[Hit]:
        """Return the ``k`` closest rows, best first; see :meth:`SearchIndex.search`."""
        check_query(vector, k, self.vectors.shape[1])
        scores = self.vectors @ vector
        k = min(k, len(scores))
        best = np.argsort(-scores, kind="stable")[:k]
        return [self._hit(int(row), float(scores[row])) for row in best]

    def caption(self, row: int) -> str:
        """Return the text of a row; empty where there is none."""
        return str(self._sample(row).get("text", ""))

    def _hit(self, row: int, score: float) -> Hit:
        sample = self._sample(row)
        picture = (lambda: self._sample(row)["image"]) if "image" in sample else None
        return Hit(self.paths[row], score, str(sample.get("text", "")), picture=picture)


def check_query(vector: np.ndarray, k: int, dim: int) -> None:
    """Raise a DataError if a query does not fit an index of ``dim`` dimensions."""
    if vector.shape != (dim,):
        raise DataError(f"The index holds vectors of {dim} dimensions; the query has the shape {vector.shape}.")
    if k < 1:
        raise DataError(f"A search brings at least 1 hit; {k} were asked for.")
