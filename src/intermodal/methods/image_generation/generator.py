"""What generators of pictures share: their processors, and a text encoder that may be frozen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from intermodal.data.processors import ImageProcessor, TextProcessor
from intermodal.methods.base import Method
from intermodal.methods.image_generation.text import TextEncoder
from intermodal.methods.image_tokenizers.tokenizer import CHUNK, PIXELS


class PictureGenerator(Method):
    """Base of the generators of pictures.

    Attributes:
        text: the encoder of prompts; None for a model that takes none.
        takes_prompt: whether prompts mean something to it.
    """

    generates = "image"
    text: TextEncoder | None
    takes_prompt: bool = False

    @property
    def picture(self) -> ImageProcessor:
        """The processor of pictures."""
        processor = self.processors["image"]
        assert isinstance(processor, ImageProcessor)
        return processor

    @property
    def chunk(self) -> int:
        """How many pictures are drawn at a time."""
        height, width = self.picture.size
        return max(1, min(CHUNK, PIXELS // (height * width)))

    def tokens_of(self, texts: Sequence[str]) -> Tensor:
        """Return the token ids ``(B, L)`` of texts, on the model's device."""
        processor = self.processors["text"]
        assert isinstance(processor, TextProcessor)
        return processor(texts).to(self.device)

    def nothing(self) -> Tensor:
        """Return the token ids ``(1, L)`` of the empty text."""
        return self.tokens_of([""])

    def dropped(self, tokens_BL: Tensor, share: float, generator: torch.Generator) -> Tensor:
        """Return token ids of which, in training, a share is that of the empty text, so that it is known as well."""
        if not self.training or not share:
            return tokens_BL
        dropped_B = torch.rand(len(tokens_BL), generator=generator) < share
        return torch.where(dropped_B[:, None].to(tokens_BL.device), self.nothing(), tokens_BL)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Ask for gradients of all that is trained; a frozen text encoder asks for none."""
        super().requires_grad_(requires_grad)
        if self.text is not None and self.text.config.frozen:
            self.text.requires_grad_(False)
        return self
