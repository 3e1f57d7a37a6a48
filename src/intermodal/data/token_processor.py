"""Transcripts <-> the numbers of a published tokenizer, of varying length, without special tokens: what decoders write."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from tokenizers import Tokenizer
from torch import Tensor

from intermodal.data.processors import Processor, read_tokenizer
from intermodal.data.transcripts import TRANSCRIPT

FILE = "text-tokenizer.json"


class TokenProcessor(Processor):
    """Texts <-> int64 ``(U,)`` of varying length; special tokens are neither added nor spelt.

    Args:
        tokenizer: any.
        start: what a text is begun with before it is cut into tokens; Whisper's texts begin with a space.
    """

    raw = TRANSCRIPT
    varying = True

    def __init__(self, tokenizer: Tokenizer, *, start: str = "") -> None:
        self.tokenizer, self.start = tokenizer, start

    def encode(self, value: Any) -> Tensor:
        """Return a text's tokens."""
        text = " ".join(str(value).split())
        return torch.tensor(self.tokenizer.encode(self.start + text, add_special_tokens=False).ids, dtype=torch.int64)

    def decode(self, numbers: Sequence[int]) -> str:
        """Return the text of tokens, special ones left out, as it is: a leading space stays."""
        return self.tokenizer.decode(list(numbers), skip_special_tokens=True)

    def to_folder(self, folder: Path) -> dict[str, Any]:
        """Write ``text-tokenizer.json`` and return the other settings."""
        self.tokenizer.save(str(folder / FILE))
        return {"kind": "tokens", "start": self.start}

    @classmethod
    def restore(cls, data: dict[str, Any], folder: Path) -> Self:
        """Read ``text-tokenizer.json`` and the settings back.

        Raises:
            CheckpointError: if the file is missing or damaged.
        """
        return cls(read_tokenizer(folder / FILE), start=data["start"])
