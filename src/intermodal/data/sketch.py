"""Line drawings of pictures: a third modality that every collection of pictures has, and that no text was paired with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from intermodal.core.errors import DataError
from intermodal.core.fields import Field
from intermodal.data.source import Sample, Source, SourceConfig

BLUR = 0.7
"""Standard deviation, in pixels, of the blur before edges are found: a texture's pixels are no edges."""
SMALLEST = 2.0
"""A picture whose strongest edge is below this, in grey levels a pixel, is flat: its drawing is an empty sheet."""


def sketch(picture: Image.Image) -> Image.Image:
    """Return a picture's edges as dark lines on white, in its own size, mode RGB.

    The magnitude of Sobel's gradient of the blurred brightness, scaled so that the strongest edge is black. Colours and
    filled areas are gone.
    """
    grey = np.asarray(picture.convert("L").filter(ImageFilter.GaussianBlur(BLUR)), np.float32)
    padded = np.pad(grey, 1, mode="edge")
    across = padded[:, 2:] - padded[:, :-2]
    down = padded[2:] - padded[:-2]
    dx = (across[:-2] + 2 * across[1:-1] + across[2:]) / 8
    dy = (down[:, :-2] + 2 * down[:, 1:-1] + down[:, 2:]) / 8
    strength = np.hypot(dx, dy)
    strongest = float(strength.max())
    lines = strength / strongest if strongest >= SMALLEST else np.zeros_like(strength)
    return Image.fromarray((255 * (1 - lines)).round().astype(np.uint8)).convert("RGB")


@dataclass(frozen=True, kw_only=True)
class SketchedSource(SourceConfig):
    """Another source's pictures with a line drawing of each.

    Attributes:
        pictures: the source; its samples have an ``image``.
    """

    pictures: SourceConfig

    def open(self, split: str) -> Source:
        """Open one split of the pictures.

        Raises:
            DataError: as the pictures' own source does, or if its samples have no ``image``.
        """
        return Sketched(self.pictures.open(split))

    def training_texts(self) -> list[str]:
        """Return the texts of the pictures' training split."""
        return self.pictures.training_texts()


class Sketched(Source):
    """Adds the field ``sketch`` to every sample."""

    def __init__(self, pictures: Source) -> None:
        if "image" not in pictures.fields:
            raise DataError(f"{pictures.name} has no pictures to draw: its samples hold {', '.join(pictures.fields)}.")
        self.pictures = pictures
        self.name = pictures.name
        self.fields: Mapping[str, Field] = {**pictures.fields, "sketch": Field((), "image", "a line drawing of it")}

    def __len__(self) -> int:
        return len(self.pictures)

    def sample(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """Return the sample with its drawing."""
        sample = self.pictures.sample(index, rng)
        return {**sample, "sketch": sketch(sample["image"])}

    def sample_name(self, index: int) -> str:
        """Return the sample's name."""
        return self.pictures.sample_name(index)

    def texts(self) -> list[str]:
        """Return every text; no picture is decoded."""
        return self.pictures.texts()
