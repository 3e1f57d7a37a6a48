"""What a model remembers of a chat from one question to the next, so that only what is new is computed.

A chat grows at its end: the earlier turns stand before every later question. Their keys and values are kept, with the tokens
and pictures that they are of. What a chat no longer has in common with them (a turn was changed, another picture shown, the
answer spelt in other tokens than it was written in) is forgotten, so that answers are those without a memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from PIL import Image

from intermodal.decode.generate import Token
from intermodal.nn.causal import CausalTransformer


class ChatMemory:
    """Keys and values of one chat.

    Args:
        network: whose.

    Attributes:
        cache: the keys and values.
        read: tokens that were computed so far, of all questions.
    """

    def __init__(self, network: CausalTransformer) -> None:
        self.cache = network.new_cache(0)
        self.read = 0
        self._ids: list[int] = []
        self._pictures: list[str] = []

    def common(self, ids: Sequence[int], pictures: Sequence[Image.Image], image_id: int) -> tuple[int, int]:
        """Forget what a chat does not begin with, and take note of it.

        Args:
            ids: all its tokens.
            pictures: that it shows, in their order.
            image_id: the token of a picture; each has as many.

        Returns:
            how many tokens and how many pictures need not be read any more; at least one token always must.
        """
        most = min(len(ids) - 1, self.cache.length)
        kept = next((i for i in range(most) if ids[i] != self._ids[i]), most)
        marks = [_mark(picture) for picture in pictures]
        places = [i for i, token in enumerate(ids) if token == image_id]
        size, known = len(places) // max(len(pictures), 1), 0
        for number, mark in enumerate(marks):
            first, last = places[number * size], places[(number + 1) * size - 1]
            if first >= kept:
                break
            if last >= kept or self._pictures[number] != mark:  # a picture is kept whole or not at all
                kept = first
                break
            known += 1
        self.cache.forget(kept)
        self._ids, self._pictures = list(ids), marks
        self.read += len(ids) - kept
        return kept, known

    def noting(self, steps: Iterator[Token]) -> Iterator[Token]:
        """Yield the steps of one answer, each noted: what was written has been read, but for the last token."""
        for step in steps:
            self._ids.append(int(step.token_B[0]))
            self.read += 1
            yield step


def _mark(picture: Image.Image) -> str:
    return hashlib.sha256(f"{picture.mode}{picture.size}".encode() + picture.tobytes()).hexdigest()
