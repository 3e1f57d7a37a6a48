"""What methods over the codes of a frozen tokenizer share: pictures to sequences of codes, and back.

Such a method holds a trained tokenizer, which stays as it is, and learns how codes go together. Being asked for codes and
pictures it answers as the tokenizer inside does.

Shapes: B pictures, C, H, W channels, height and width in pixels; L codes of a picture, K codes of the codebook; ``...`` the
shape of one latent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError
from intermodal.core.registry import load_class
from intermodal.data.processors import Processor
from intermodal.methods.image_tokenizers.tokenizer import ImageTokenizer, evaluating


@dataclass(frozen=True, kw_only=True)
class OverCodesConfig(Config):
    """A method over the codes of a tokenizer.

    Attributes:
        tokenizer: the frozen tokenizer's configuration.
        method: its id.
    """

    tokenizer: Config
    method: str


class OverCodes(ImageTokenizer):
    """A frozen tokenizer; a subclass adds what it learns over its codes.

    Args:
        config: the tokenizer.
        processors: ``image``, that of the tokenizer, and the subclass's own.

    Raises:
        ConfigError: if the tokenizer's latent is not of codes.
    """

    generates = "image"
    config: OverCodesConfig
    codebook_size: int

    def __init__(self, config: OverCodesConfig, processors: Mapping[str, Processor]) -> None:
        super().__init__(config, processors)
        cls = load_class(config.method)
        tokenizer: ImageTokenizer = cls(config.tokenizer, {"image": processors["image"]})
        self.codebook_size, self.levels = codebook_of(tokenizer), tokenizer.levels
        self.tokenizer = tokenizer.requires_grad_(False).eval()

    @property
    def length(self) -> int:
        """L."""
        return math.prod(self.latent_shape())

    @torch.no_grad()
    def codes(self, image_BCHW: Tensor) -> Tensor:
        """Return the codes of prepared pictures as sequences, int64 ``(B, L)``: row by row, in single precision always."""
        with torch.autocast(image_BCHW.device.type, enabled=False):
            return self.tokenizer.to_latent(image_BCHW).flatten(1)

    @torch.no_grad()
    def pictures(self, codes_BL: Tensor) -> list[Any]:
        """Return the PIL images of sequences ``(B, L)``."""
        with evaluating(self):
            return self.picture.decode(self.to_image(codes_BL.unflatten(1, self.latent_shape())).float())

    @staticmethod
    def bits_of(codes_BL: Tensor, logits_BLK: Tensor) -> Tensor:
        """Return ``-log2`` of the probability that logits give to every code of sequences, ``(B, L)``."""
        nats_BL = F.cross_entropy(logits_BLK.float().transpose(1, 2), codes_BL, reduction="none")
        return nats_BL / math.log(2)

    def to_latent(self, image_BCHW: Tensor) -> Tensor:
        """Return the tokenizer's codes ``(B, ...)`` of prepared pictures."""
        return self.tokenizer.to_latent(image_BCHW)

    def to_image(self, latent: Tensor) -> Tensor:
        """Return the prepared pictures ``(B, C, H, W)`` of codes ``(B, ...)``."""
        return self.tokenizer.to_image(latent)

    def latent_shape(self) -> tuple[int, ...]:
        """Return the shape of the tokenizer's latent."""
        return self.tokenizer.latent_shape()

    def train(self, mode: bool = True) -> Self:
        """Set training mode for what is learnt; the tokenizer stays as it was trained."""
        super().train(mode)
        self.tokenizer.eval()
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Ask for gradients of what is learnt; the tokenizer stays frozen."""
        super().requires_grad_(requires_grad)
        self.tokenizer.requires_grad_(False)
        return self


def codebook_of(tokenizer: ImageTokenizer) -> int:
    """Return K.

    Raises:
        ConfigError: if the latent is of real numbers.
    """
    if tokenizer.codebook_size is None:
        raise ConfigError(
            f"Codes are modelled here, and the latent of this {tokenizer.id} is of real numbers: give it a vqgan, vqvae or "
            "dvae."
        )
    return tokenizer.codebook_size
