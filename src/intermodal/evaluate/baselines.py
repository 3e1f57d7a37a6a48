"""What a figure is compared with: guesses that need no learning of pictures, or next to none.

Both baselines embed pictures and texts in the space of words (tf-idf over the training texts), so they offer
:class:`~intermodal.core.capabilities.Embeds` and are judged by exactly the code that judges a method. A
picture's vector is

- with :class:`PixelNeighbours`: the mean words of the training pictures nearest in raw pixels;
- with :class:`ColourWords`: a linear map (ridge regression) of its colour histogram and an 8 x 8 thumbnail.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from intermodal.core.errors import DataError
from intermodal.evaluate.encoding import unit

_WORD = re.compile(r"\w+")
MOST_WORDS = 4096


class Words:
    """Texts as unit tf-idf vectors.

    Args:
        texts: the training texts; a word's weight is ``log((1 + texts) / (1 + texts with it)) + 1``.
        most: the vocabulary is this many most frequent words at most; other words are ignored.
    """

    def __init__(self, texts: Sequence[str], most: int = MOST_WORDS) -> None:
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(set(self.split(text)))
        frequent = sorted(counts, key=lambda word: (-counts[word], word))[:most]
        self.index = {word: i for i, word in enumerate(frequent)}
        document_counts = np.array([counts[word] for word in frequent], dtype=np.float32)
        self.weights = np.log((1 + len(texts)) / (1 + document_counts)) + 1

    @staticmethod
    def split(text: str) -> list[str]:
        """Return the words of a text, in lower case."""
        return _WORD.findall(text.lower())

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 ``(len(texts), V)``; a text of unknown words is all zeros."""
        out = np.zeros((len(texts), len(self.index)), np.float32)
        for row, text in enumerate(texts):
            for word in self.split(text):
                column = self.index.get(word)
                if column is not None:
                    out[row, column] += self.weights[column]
        return unit(out).astype(np.float32)


class WordBaseline:
    """Base of both: texts become words, pictures what :meth:`picture_words` says."""

    modalities: tuple[str, ...] = ("image", "text")

    def __init__(self, words: Words) -> None:
        self.words = words

    def embed(self, modality: str, inputs: Sequence[Any]) -> np.ndarray:
        """Return float32 unit vectors ``(len(inputs), V)`` of PIL images or strings."""
        if modality == "text":
            return self.words(inputs)
        if modality != "image":
            raise DataError(f"A baseline embeds image and text, not {modality!r}.")
        return unit(self.picture_words(inputs)).astype(np.float32)

    def picture_words(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """Return word weights ``(len(pictures), V)``."""
        raise NotImplementedError


class PixelNeighbours(WordBaseline):
    """The nearest training pictures by correlation of raw pixels, and their words.

    Args:
        words: the space of words.
        pixels: the training pictures, as :func:`raw_pixels` gives them, ``(N, P)``.
        vectors: their texts, as ``words`` gives them, ``(N, V)``.
        neighbours: how many training pictures speak.
    """

    def __init__(self, words: Words, pixels: np.ndarray, vectors: np.ndarray, neighbours: int = 20) -> None:
        super().__init__(words)
        self.pixels, self.vectors = pixels, vectors
        self.neighbours = min(neighbours, len(pixels))

    def similarities(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """Return the correlation of each picture with each training picture, ``(len(pictures), N)``."""
        return raw_pixels(pictures) @ self.pixels.T

    def picture_words(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """Return the mean words of each picture's nearest training pictures."""
        return self.vectors_of(self.similarities(pictures))

    def vectors_of(self, similarities: np.ndarray) -> np.ndarray:
        """Return the nearest training pictures' mean words as unit vectors, of similarities ``(M, N)``."""
        nearest = np.argpartition(-similarities, self.neighbours - 1, axis=1)[:, : self.neighbours]
        out = np.empty((len(nearest), self.vectors.shape[1]), np.float32)
        for row, rows in enumerate(nearest):
            out[row] = self.vectors[rows].mean(0)
        return unit(out).astype(np.float32)


class ColourWords(WordBaseline):
    """A bag of words predicted linearly from colours: what can be said without seeing a shape.

    Args:
        words: the space of words.
        features: the training pictures, as :func:`colour_features` gives them, ``(N, F)``.
        vectors: their texts, as ``words`` gives them, ``(N, V)``.
        ridge: the penalty on the map's weights, as a share of N (the features are standardised).
    """

    def __init__(self, words: Words, features: np.ndarray, vectors: np.ndarray, ridge: float = 0.1) -> None:
        super().__init__(words)
        x = features.astype(np.float64)
        self.mean, self.scale = x.mean(0), x.std(0) + 1e-6
        x = (x - self.mean) / self.scale
        centre = vectors.mean(0)
        gram = x.T @ x + ridge * len(x) * np.eye(x.shape[1])
        self.map = np.linalg.solve(gram, x.T @ (vectors - centre)).astype(np.float32)

    def picture_words(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """Return by how much each word is likelier than on average."""
        return (((colour_features(pictures) - self.mean) / self.scale).astype(np.float32)) @ self.map


def raw_pixels(pictures: Sequence[Image.Image], size: int = 32) -> np.ndarray:
    """Return pictures resized, centred and scaled to length one, float32 ``(N, 3 * size**2)``."""
    flat = [np.asarray(p.convert("RGB").resize((size, size), Image.Resampling.BOX), np.float32) for p in pictures]
    array = np.stack(flat).reshape(len(flat), -1) if flat else np.zeros((0, 3 * size * size), np.float32)
    return unit(array - array.mean(1, keepdims=True)).astype(np.float32)


def colour_features(pictures: Sequence[Image.Image]) -> np.ndarray:
    """Return a 4 x 4 x 4 colour histogram (square roots) and an 8 x 8 thumbnail, float32 ``(N, 256)``."""
    out = np.zeros((len(pictures), 64 + 192), np.float32)
    for row, picture in enumerate(pictures):
        small = np.asarray(picture.convert("RGB").resize((32, 32), Image.Resampling.BOX), np.int64)
        bins = (small // 64) @ np.array([16, 4, 1])
        out[row, :64] = np.sqrt(np.bincount(bins.ravel(), minlength=64) / bins.size)
        out[row, 64:] = small.reshape(8, 4, 8, 4, 3).mean((1, 3)).ravel() / 255
    return out
