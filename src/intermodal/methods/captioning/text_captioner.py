"""What every captioner with a text processor of its own shares: how its captions begin, and end up as words.

It is no method and has no card.
"""

from __future__ import annotations

from torch import Tensor

from intermodal.core.errors import DataError
from intermodal.data.processors import TextProcessor
from intermodal.methods.captioning.captioner import Captioner


class TextCaptioner(Captioner):
    """A captioner whose captions are texts of its own processor ``text``, first token and end included."""

    @property
    def tokenizer(self) -> TextProcessor:
        """The processor of texts.

        Raises:
            DataError: if the model has none.
        """
        processor = self.processors.get("text")
        if not isinstance(processor, TextProcessor):
            raise DataError("This model has no tokenizer for texts: load it from a folder with a tokenizer.json.")
        return processor

    def first(self, image: Tensor) -> Tensor:
        """Return the token that every text begins with, a prompt ``(B, 1)`` for each prepared picture."""
        return self.tokenizer.encode("")[:1].to(image.device).expand(len(image), 1)

    def words(self, tokens_N: Tensor) -> str:
        """Return the text of token ids."""
        return self.tokenizer.decode(tokens_N.unsqueeze(0))[0].strip()
