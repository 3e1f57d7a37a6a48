"""Pictures to tokens and back with a model that a person opened: what command line, page and API share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from intermodal.core.errors import ConfigError, DataError
from intermodal.data.images import MAX_PIXELS
from intermodal.data.processors import ImageProcessor
from intermodal.data.token_pictures import token_pictures
from intermodal.data.tokens import Tokenizer
from intermodal.index.embedding import fingerprint, reconstructs
from intermodal.methods.base import Method
from intermodal.metrics.pictures import psnr

BATCH = 64
"""Pictures that are decoded at a time."""


def tokenizer_of(model: Method) -> Tokenizer:
    """Return by what files of tokens know a model.

    Raises:
        ConfigError: if the model is no image tokenizer.
    """
    found = reconstructs(model, "To turn pictures into tokens and back")
    return Tokenizer(model.id, fingerprint(model), found.latent_shape(), found.codebook_size)


def levels_of(model: Method) -> int:
    """Return of how many codes a place has the first few alone give a coarser picture: 1 where there is no such choice."""
    return int(getattr(model, "levels", 1))


def kept(model: Method, latents: np.ndarray, levels: int | None) -> np.ndarray:
    """Return latents with the first ``levels`` codes of each place; all for None.

    Raises:
        ConfigError: if the model has no levels, or not so many.
    """
    most = levels_of(model)
    if levels is None or levels == most:
        return latents
    if most == 1:
        raise ConfigError(f"{model.id} has one level: there is no coarser picture in its tokens.")
    if not 1 <= levels <= most:
        raise ConfigError(f"This model has the levels 1 to {most}, found {levels}.")
    return latents[..., :levels]


@dataclass(frozen=True)
class Shown:
    """One picture, its tokens and what comes back.

    Attributes:
        original: the picture as the model takes it.
        latent: codes or numbers.
        tokens: these as pictures: one, or one for each of the codes of a place.
        returned: what they decode to.
        bits: what they take.
    """

    original: Image.Image
    latent: np.ndarray
    tokens: list[Image.Image]
    returned: Image.Image
    bits: float

    @property
    def bits_per_pixel(self) -> float:
        """Bits over the pixels of what the model takes."""
        return self.bits / (self.original.width * self.original.height)

    @property
    def psnr(self) -> float:
        """How near what comes back is, in decibels; infinite where nothing was lost."""
        one, other = (torch.from_numpy(np.array(i)).permute(2, 0, 1)[None] for i in (self.original, self.returned))
        return float(psnr(one, other, peak=255.0))

    def in_words(self, codebook: int | None) -> str:
        """Return the figures in one line; ``codebook`` is K, None for real numbers."""
        shape = " x ".join(map(str, self.latent.shape))
        if codebook is None:
            what = f"{shape} numbers"
        else:
            what = f"{shape} codes of {codebook:,} ({len(np.unique(self.latent)):,} different ones)"
        near = "nothing is lost" if math.isinf(self.psnr) else f"{self.psnr:.1f} dB"
        size = f"{self.original.width} x {self.original.height} pixels"
        return f"{size}: {what}, {self.bits:,.0f} bits, {self.bits_per_pixel:.3g} bits per pixel, {near}."


def show(model: Method, image: Image.Image, levels: int | None = None) -> Shown:
    """Encode a picture and decode it again.

    Raises:
        ConfigError: if the model is no image tokenizer, or has no such level.
    """
    able = reconstructs(model, "To turn pictures into tokens")
    latents = able.encode([image])
    bits = float(able.bits([image])[0])
    coarse = kept(model, latents, levels)
    returned = able.decode(coarse)[0]
    processor = model.processors.get("image")
    fitted = processor.fitted(image) if isinstance(processor, ImageProcessor) else image.resize(returned.size)
    share = coarse.shape[-1] / latents.shape[-1]  # codes of equal length; 1 but where levels were left out
    return Shown(fitted, coarse[0], token_pictures(coarse[0], able.codebook_size), returned, bits * share)


def decoded(model: Method, latents: np.ndarray) -> Iterator[Image.Image]:
    """Yield the pictures of latents, a few held at a time."""
    able = reconstructs(model, "To turn tokens into pictures")
    for first in range(0, len(latents), BATCH):
        yield from able.decode(latents[first : first + BATCH])


def as_it_was(image: Image.Image, size: tuple[int, int], processor: ImageProcessor) -> Image.Image:
    """Return a decoded picture as large as the part of the original that it shows.

    The whole original where it was squashed or padded, whose margin is cut off again; else the centre that was kept.

    Args:
        image: of the processor's size.
        size: the original's width and height.
        processor: what fitted the original.
    """
    width, height = size
    if min(size) < 1 or width * height > MAX_PIXELS:
        raise DataError(f"A picture of {width} x {height} pixels is no size to return to.")
    if processor.resize == "squash":
        return image.resize(size, Image.Resampling.BICUBIC)
    if processor.resize == "pad":
        scale = min(image.width / width, image.height / height)
        inner = max(1, round(width * scale)), max(1, round(height * scale))
        left, top = (image.width - inner[0]) // 2, (image.height - inner[1]) // 2
        return image.crop((left, top, left + inner[0], top + inner[1])).resize(size, Image.Resampling.BICUBIC)
    scale = max(image.width / width, image.height / height)
    part = min(width, max(1, round(image.width / scale))), min(height, max(1, round(image.height / scale)))
    return image.resize(part, Image.Resampling.BICUBIC)
