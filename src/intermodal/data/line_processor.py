"""Lines of text <-> tensors: one height, each its own width, ink on paper whatever the scan was."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError
from intermodal.core.fields import Field
from intermodal.data.images import open_image
from intermodal.data.processors import Processor

LEAST_RANGE = 64.0
"""Grey values between paper and the darkest ink at least: less is not stretched further, so that noise stays noise."""
LEAST_WIDTH = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class LineProcessor(Config, Processor):
    """A picture of a line to its ink, ``(W, H)`` uint8 when encoded, ``(B, 1, H, W)`` float32 when prepared.

    Encoded, 1 is paper and 255 the darkest ink, and 0 is nothing (what stands behind a shorter line of a batch); prepared,
    paper is 0, ink 1, and nothing below 0. Light text on a dark ground is turned round.

    Attributes:
        height: H, to which a line is scaled.
        most_width: a line that would be wider is squeezed to this width.
    """

    height: int = 32
    most_width: int = 512

    raw = Field((), "image", "a picture of a line of text")
    varying = True

    def __post_init__(self) -> None:
        if self.height < 1 or self.most_width < LEAST_WIDTH:
            raise ConfigError(f"A line's height must be at least 1 and most_width at least {LEAST_WIDTH}.")

    def encode(self, value: Any) -> Tensor:
        """Return a picture (PIL image, encoded bytes or path) as uint8 ``(W, H)``."""
        return torch.from_numpy(np.ascontiguousarray(self._ink(self.fitted(value)).T))

    def fitted(self, value: Any) -> Image.Image:
        """Return a picture at the processor's height and at most its widest width, grey."""
        image = open_image(value).convert("L")
        width = min(max(round(image.width * self.height / image.height), LEAST_WIDTH), self.most_width)
        return image.resize((width, self.height), Image.Resampling.BILINEAR)

    def _ink(self, image: Image.Image) -> np.ndarray:
        grey = np.asarray(image, np.float32)
        low, middle, high = np.percentile(grey, (1, 50, 99))
        if middle - low < high - middle:  # more of it is dark
            grey, low, high = 255 - grey, 255 - high, 255 - low
        paper = np.percentile(grey, 75)
        ink = (paper - grey) / max(paper - low, LEAST_RANGE)
        return (1 + 254 * ink.clip(0, 1)).round().astype(np.uint8)

    def prepare(self, batch: Tensor) -> Tensor:
        """Return float ``(B, 1, H, W)``."""
        return ((batch.float() - 1) / 254).transpose(1, 2).unsqueeze(1)

    def together(self, values: list[Any]) -> Tensor:
        """Return several pictures as one prepared batch."""
        encoded = [self.encode(value) for value in values]
        return self.prepare(torch.nn.utils.rnn.pad_sequence(encoded, batch_first=True))

    def to_folder(self, folder: Path) -> dict[str, Any]:
        """Return the configuration; there are no assets."""
        del folder
        return self.to_dict()
