"""Sentences <-> the tokens of a language model: whole ones with an end, and beginnings to go on from without."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, Self

import torch
from tokenizers import Tokenizer
from torch import Tensor

from intermodal.data.processors import TextProcessor


def up_to_end(tokens_BL: Tensor, end: int) -> Tensor:
    """Return which tokens are no padding, bool ``(B, L)``: up to the first ``end``, and that too."""
    end_BL = tokens_BL == end
    return end_BL.cumsum(1) - end_BL.long() == 0


class SentenceProcessor(TextProcessor):
    """Strings <-> ``(L,)`` int64 token ids that end with ``eos_id``, cut to the context and padded.

    Args:
        tokenizer: whether it frames texts by itself or not.
        context_length: L.
        eos_id: ends a sentence.
        pad_id: fills up; what comes after the first end is padding, also where both are the same token.
        bos_id: begins a sentence; None where nothing does (GPT-2).
        lower: lower-case and strip the text first.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        context_length: int,
        eos_id: int,
        pad_id: int,
        bos_id: int | None = None,
        lower: bool = False,
    ) -> None:
        super().__init__(tokenizer, context_length=context_length, eos_id=eos_id, pad_id=pad_id, lower=lower)
        self.bos_id = bos_id

    def prompt(self, text: str) -> list[int]:
        """Return the ids of a text to go on from: its beginning, no end; of no text, what a sentence follows."""
        if self.lower:
            text = " ".join(text.lower().split())
        ids = self.tokenizer.encode(text, add_special_tokens=False).ids
        if self.bos_id is not None:
            return [self.bos_id, *ids]
        return ids or [self.eos_id]

    def encode(self, value: Any) -> Tensor:
        """Return the ids of one sentence, int64 ``(L,)``; a long one is cut and still ends with ``eos_id``."""
        ids = [*self.prompt(str(value))[: self.context_length - 1], self.eos_id]
        out = torch.full((self.context_length,), self.pad_id, dtype=torch.int64)
        out[: len(ids)] = torch.tensor(ids, dtype=torch.int64)
        return out

    def real(self, tokens_BL: Tensor) -> Tensor:
        """Return which tokens of encoded sentences are theirs, ``(B, L)``: up to the first end after the first token."""
        return torch.cat(
            [torch.ones_like(tokens_BL[:, :1], dtype=torch.bool), up_to_end(tokens_BL[:, 1:], self.eos_id)], 1
        )

    def decode_each(self, sequences: Iterable[Tensor], ends: Collection[int] = ()) -> list[str]:
        """Return the texts of sequences of ids ``(N,)``, each up to its first end (``eos_id``, or one of ``ends``)."""
        stop, texts = {self.eos_id, *ends}, []
        for sequence in sequences:
            ids = sequence.tolist()
            texts.append(self.tokenizer.decode(ids[: next((i for i, t in enumerate(ids) if t in stop), len(ids))]))
        return texts

    def to_folder(self, folder: Path) -> dict[str, Any]:
        """Write ``tokenizer.json`` and return the other settings."""
        return {**super().to_folder(folder), "kind": "sentence", "bos_id": self.bos_id}

    @classmethod
    def restore(cls, data: dict[str, Any], folder: Path) -> Self:
        """Read ``tokenizer.json`` and the settings back.

        Raises:
            CheckpointError: if the file is missing or damaged.
        """
        restored = super().restore(data, folder)
        restored.bos_id = data["bos_id"]
        return restored

    def _settings(self) -> tuple[Any, ...]:
        return (*super()._settings(), self.bos_id)
