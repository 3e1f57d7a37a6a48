"""The processor of pairs of texts: both in one sequence, and which token belongs to which."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from intermodal.core.fields import Field
from intermodal.data.processors import TextProcessor


class TextPairProcessor(TextProcessor):
    """Two strings -> ``(2, L)`` int64: token ids, and segment ids that are 0 in the first text and 1 in the second.

    The tokenizer's post-processor frames a pair (``[CLS] first [SEP] second [SEP]``). Where both do not fit, the longer
    loses tokens at its end until they do, as in transformers' tokenizers (``longest_first``). Arguments are those of
    :class:`~intermodal.data.processors.TextProcessor`.
    """

    raw = Field((), "list[str]", "two texts")
    kind = "text-pair"

    def __init__(
        self, tokenizer: Tokenizer, *, context_length: int, eos_id: int, pad_id: int, lower: bool = True
    ) -> None:
        super().__init__(tokenizer, context_length=context_length, eos_id=eos_id, pad_id=pad_id, lower=lower)
        self._framed = Tokenizer.from_str(tokenizer.to_str())
        self._framed.enable_truncation(context_length, strategy="longest_first")
        self._framed.enable_padding(length=context_length, pad_id=pad_id, pad_token=tokenizer.id_to_token(pad_id))

    def encode(self, value: Any) -> Tensor:
        """Return the ids and segments of two texts, int64 ``(2, L)``."""
        first, second = (" ".join(t.lower().split()) if self.lower else t for t in value)
        framed = self._framed.encode(first, second)
        return torch.tensor([framed.ids, framed.type_ids])

    def to_folder(self, folder: Path) -> dict[str, Any]:
        """Write ``tokenizer.json`` and return the other settings."""
        return {**super().to_folder(folder), "kind": self.kind}
