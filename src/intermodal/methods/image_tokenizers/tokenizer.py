"""What the image tokenizers share: pictures to a latent, a latent to pictures, and how many bits the latent takes.

To its user a tokenizer is one thing, whether its latent is of codes or of real numbers: :meth:`ImageTokenizer.encode`,
:meth:`ImageTokenizer.decode`, a latent shape and a rate. Generators of pictures take any of them, by
:meth:`ImageTokenizer.to_latent` and :meth:`ImageTokenizer.to_image`, which work on tensors.

Shapes: B pictures, C, H, W channels, height and width in pixels; h, w places of the latent, Q codes at each place, Z
channels of a latent of real numbers; ``...`` the shape of one latent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from intermodal.core.errors import DataError
from intermodal.core.fields import SEED, Field
from intermodal.data.processors import ImageProcessor
from intermodal.methods.base import Method, check_generation, refuse_prompt

IMAGE = Field((), "image", "a picture")
CHUNK = 64
"""Pictures encoded or decoded at a time, at most."""
PIXELS = CHUNK * 64 * 64
"""Their pixels in all, unless one alone has more: larger pictures do not take more memory until one of them does."""


class ImageTokenizer(Method):
    """Base of the image tokenizers.

    A subclass has ``loss``, :meth:`to_latent`, :meth:`to_image` and :meth:`latent_shape`, sets :attr:`codebook_size` where
    its latent is of codes, and otherwise says in :meth:`rate` what a latent of real numbers costs. A loss that is random
    asks for the batch's seed: ``needs = {**PICTURE, "seed": SEED}``.

    Attributes:
        codebook_size: K, how many codes there are; None for a latent of real numbers.
        levels: Q where a place's codes ``(h, w, Q)`` refine each other (residual quantizers), so that :meth:`to_image` takes
            the first few of them, ``(B, h, w, q)``, and gives a coarser picture; 1 for every other latent.
    """

    needs: Mapping[str, Field] = {"image": IMAGE}
    codebook_size: int | None = None
    levels: int = 1

    # What generators use: tensors in, tensors out.

    def to_latent(self, image_BCHW: Tensor) -> Tensor:
        """Return the latents ``(B, ...)`` of prepared pictures, without chance: int64 codes, or float numbers (a mean)."""
        raise NotImplementedError

    def to_image(self, latent: Tensor) -> Tensor:
        """Return the prepared pictures ``(B, C, H, W)`` of latents ``(B, ...)``."""
        raise NotImplementedError

    def latent_shape(self) -> tuple[int, ...]:
        """Return the shape of one picture's latent."""
        raise NotImplementedError

    def rate(self, image_BCHW: Tensor) -> Tensor:
        """Return how many bits the latent of each prepared picture takes, float ``(B,)``.

        Codes of equal length: ``log2 K`` for each. A subclass with a latent of real numbers overrides it.
        """
        if self.codebook_size is None:
            raise NotImplementedError
        each = math.prod(self.latent_shape()) * math.log2(self.codebook_size)
        return torch.full((len(image_BCHW),), each, device=image_BCHW.device)

    # The capability: pictures in, pictures out.

    @property
    def chunk(self) -> int:
        """How many pictures are encoded or decoded at a time."""
        height, width = self.picture.size
        return max(1, min(CHUNK, PIXELS // (height * width)))

    def _parts(self, images: Sequence[Image.Image]) -> list[list[Image.Image]]:
        """Return pictures in lists of :attr:`chunk`."""
        return [list(images[first : first + self.chunk]) for first in range(0, len(images), self.chunk)]

    @property
    def picture(self) -> ImageProcessor:
        """The processor of pictures."""
        processor = self.processors["image"]
        assert isinstance(processor, ImageProcessor)
        return processor

    @torch.no_grad()
    def encode(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Return the latents ``(len(images), ...)`` of PIL images: int64 codes, or float32 numbers."""
        kind = np.float32 if self.codebook_size is None else np.int64
        found = [np.zeros((0, *self.latent_shape()), kind)]
        with evaluating(self):
            for part in self._parts(images):
                latent = self.to_latent(self.picture(part).to(self.device))
                found.append(latent.cpu().numpy().astype(kind))
        return np.concatenate(found)

    @torch.no_grad()
    def decode(self, latents: np.ndarray) -> list[Image.Image]:
        """Return the pictures of latents ``(N, ...)``.

        Raises:
            DataError: if their shape is another one, a code does not exist, or a number is not finite.
        """
        checked = torch.from_numpy(np.ascontiguousarray(self.check(latents)))
        found: list[Image.Image] = []
        with evaluating(self):
            for part in checked.split(self.chunk) if len(checked) else ():
                found += self.picture.decode(self.to_image(part.to(self.device)).float())
        return found

    @torch.no_grad()
    def bits(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Return how many bits each picture's latent takes, float32 ``(len(images),)``; see :meth:`rate`."""
        found = [np.zeros(0, np.float32)]
        with evaluating(self):
            for part in self._parts(images):
                found.append(self.rate(self.picture(part).to(self.device)).float().cpu().numpy())
        return np.concatenate(found)

    def check(self, latents: np.ndarray) -> np.ndarray:
        """Return latents in the type that the model takes, int64 or float32, having checked that they are of its kind.

        Raises:
            DataError: if their shape is another one, a code does not exist, or a number is not finite.
        """
        try:
            values, shape = np.asarray(latents), self.latent_shape()
        except ValueError as error:
            raise DataError("The latents of several pictures must be numbers in arrays of one shape.") from error
        if self.levels > 1 and values.ndim == len(shape) + 1 and 1 <= values.shape[-1] <= self.levels:
            shape = (*shape[:-1], values.shape[-1])
        if values.ndim != len(shape) + 1 or values.shape[1:] != shape:
            raise DataError(
                f"This model's latents have the shape {shape} for each picture, found {values.shape[1:]}: they were made by "
                "another model."
            )
        if self.codebook_size is None:
            if not np.issubdtype(values.dtype, np.integer) and not np.issubdtype(values.dtype, np.floating):
                raise DataError(f"This model's latents are real numbers, found {values.dtype}.")
            if not (np.abs(values) <= np.finfo(np.float32).max).all():
                raise DataError(
                    "There is a number that is not finite in the latents, or too large for single precision."
                )
            return values.astype(np.float32)
        if not np.issubdtype(values.dtype, np.integer):
            raise DataError(f"This model's latents are codes (whole numbers), found {values.dtype}.")
        if values.size and (values.min() < 0 or values.max() >= self.codebook_size):
            raise DataError(
                f"The codes run from {values.min()} to {values.max()}, this model knows 0 to {self.codebook_size - 1}: they "
                "were made by another model."
            )
        return values.astype(np.int64)


class UnitNormalPrior(ImageTokenizer):
    """Base of the tokenizers whose latents have a unit normal as their prior: what is drawn from it is decoded."""

    generates = "image"
    codebook_size = None

    @torch.no_grad()
    def generate(
        self, count: int, *, prompt: str | None = None, seed: int = 0, steps: int | None = None
    ) -> list[Image.Image]:
        """Return pictures of latents from the prior, as PIL images: the means of the pixels, without their noise.

        Args:
            count: how many, at least 1.
            prompt: must be None: the model is unconditional.
            seed: same seed, same samples.
            steps: has no meaning here: each picture is one pass of the decoder.

        Raises:
            DataError: if ``count`` or ``steps`` is below 1, or a prompt is given.
        """
        check_generation(count, steps)
        refuse_prompt(prompt)
        generator = torch.Generator().manual_seed(seed)
        found: list[Image.Image] = []
        with evaluating(self):
            for first in range(0, count, self.chunk):
                latent = torch.randn(min(self.chunk, count - first), *self.latent_shape(), generator=generator)
                found += self.picture.decode(self.to_image(latent.to(self.device)).float())
        return found


PICTURE: Mapping[str, Field] = {"image": IMAGE}
PICTURE_AND_SEED: Mapping[str, Field] = {"image": IMAGE, "seed": SEED}


class evaluating:
    """A context in which a model is in evaluation mode; it is as before afterwards."""

    def __init__(self, model: Method) -> None:
        self.model, self.was = model, model.training

    def __enter__(self) -> None:
        self.model.eval()

    def __exit__(self, *error: object) -> None:
        self.model.train(self.was)
