"""Image tokenizers with random weights, small enough for any test: codes, codes that refine each other, real numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intermodal.core.config import Config
from intermodal.data.processors import Processor, signed_pixels
from intermodal.methods.base import Batch, Losses
from intermodal.methods.image_tokenizers.tokenizer import ImageTokenizer

STRIDE = 4


@dataclass(frozen=True, kw_only=True)
class ToyConfig(Config):
    """A mean colour of each 4 x 4 pixels, as ``levels`` codes of ``codes`` random colours, as itself, or as one vector."""

    kind: Literal["codes", "map", "vector"] = "codes"
    codes: int = 16
    levels: int = 1


class Toy(ImageTokenizer):
    """Codes: the nearest colour, then the nearest to what is left. Numbers: the mean colours."""

    id = "toy"
    config: ToyConfig

    def __init__(self, config: ToyConfig, processors: Mapping[str, Processor]) -> None:
        super().__init__(config, processors)
        self.levels = config.levels
        self.codebook_size = config.codes if config.kind == "codes" else None
        self.book_QKC = nn.Parameter(torch.rand(config.levels, config.codes, 3) * 2 - 1)
        with torch.no_grad():
            self.book_QKC[1:, 0] = 0  # a further level may leave a colour as it is
            self.book_QKC[1:] *= 0.5

    def latent_shape(self) -> tuple[int, ...]:
        height, width = (side // STRIDE for side in self.picture.size)
        if self.config.kind == "codes":
            return (height, width) if self.levels == 1 else (height, width, self.levels)
        return (3, height, width) if self.config.kind == "map" else (3 * height * width,)

    def to_latent(self, image_BCHW: Tensor) -> Tensor:
        mean_BChw = F.avg_pool2d(image_BCHW, STRIDE)
        if self.config.kind != "codes":
            return mean_BChw if self.config.kind == "map" else mean_BChw.flatten(1)
        rest_BhwC, found = mean_BChw.movedim(1, -1), []
        for book_KC in self.book_QKC:
            code_Bhw = torch.cdist(rest_BhwC.flatten(0, 2), book_KC).argmin(1).view(rest_BhwC.shape[:3])
            rest_BhwC = rest_BhwC - book_KC[code_Bhw]
            found.append(code_Bhw)
        return found[0] if self.levels == 1 else torch.stack(found, -1)

    def to_image(self, latent: Tensor) -> Tensor:
        if self.config.kind == "codes":
            code_BhwQ = latent[..., None] if self.levels == 1 else latent
            pairs = zip(self.book_QKC, code_BhwQ.unbind(-1), strict=False)
            small_BChw = sum(book[code] for book, code in pairs).movedim(-1, 1)
        else:
            small_BChw = latent.view(len(latent), 3, *(side // STRIDE for side in self.picture.size))
        return small_BChw.repeat_interleave(STRIDE, 2).repeat_interleave(STRIDE, 3)

    def rate(self, image_BCHW: Tensor) -> Tensor:
        if self.codebook_size is not None:
            return super().rate(image_BCHW)
        return torch.full((len(image_BCHW),), 8.0 * math.prod(self.latent_shape()))

    def loss(self, batch: Batch) -> Losses:
        return Losses(F.mse_loss(self.to_image(self.to_latent(batch["image"])), batch["image"]))


class ToyVAE(Toy):
    """The same with a posterior."""

    id = "toy-vae"

    def posterior(self, image_BCHW: Tensor) -> Tensor:
        return self.to_latent(image_BCHW)


def toy(size: int = 32, resize: str = "crop", **changes) -> Toy:
    torch.manual_seed(0)
    return Toy(ToyConfig(**changes), {"image": signed_pixels(size, resize)}).eval()
