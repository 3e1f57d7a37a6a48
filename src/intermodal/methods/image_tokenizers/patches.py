"""Patches: the tokens that need no code, and what one patch by itself knows of a picture.

Every token is a linear map of one patch (Dosovitskiy et al. 2021, equation 1), or the output of a few convolutions (Xiao et
al. 2021). The linear one is trained to give the patch back through its own transpose, which makes it the principal
components of patches, up to a rotation, and a transform coder of the oldest kind (Huang & Schultheiss 1963). Beside it a
small head reads one token at a time and votes for the picture's class; a picture's class is the mean of its patches' votes,
so that each vote has a place and the votes are a map (Brendel & Bethge 2019).

Shapes: B pictures, C, H, W channels, height and width in pixels; h, w places of the tokens, L = h w; P numbers of a patch; D
numbers of a token; K classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.core.fields import Field
from intermodal.core.registry import MethodCard
from intermodal.data.processors import LabelProcessor, Processor
from intermodal.losses.distances import precise
from intermodal.methods.base import Batch, Losses
from intermodal.methods.image_tokenizers.tokenizer import CHUNK, IMAGE, ImageTokenizer, evaluating
from intermodal.nn.patches import ConvStem, PatchConfig, join, split

CARD = MethodCard(
    id="patches",
    title="Patches: continuous patch tokens, and the class that each patch votes for",
    paper="Dosovitskiy et al. 2021; Xiao et al. 2021; Brendel & Bethge 2019",
    cls="Patches",
    capabilities=("reconstruct", "classify"),
    recipes=("patches",),
    reference="transformers ViTPatchEmbeddings, SwinPatchEmbeddings; exact: PCA of patches",
)

LABEL = Field((), "str", "its class")
LENGTH = 0.1
"""Of the rows at the start. Their directions alone matter, and a step of training turns short rows farther."""
RAW_BITS = 32
"""Of a number that is not rounded."""


@dataclass(frozen=True, kw_only=True)
class PatchesConfig(Config):
    """What the tokens and the head are made of.

    Attributes:
        patches: how pictures are cut; with a stem the patches that its tokens are decoded to, side by side.
        width: D; of the linear map at most P, and with D = P nothing is lost.
        stem: channels of the layers of a convolutional stem; none for the linear map.
        step: to what multiple of it a token's numbers are rounded, with pixels in -1..1; 0 for not at all. A rounded number
            costs what a Laplace distribution of its channel's width says, one that is not 32 bits.
        hidden: width of the head's two layers.
        classify: weight of the classification, where there are classes.

    Raises:
        ConfigError: if a number is out of range, or two do not go together.
    """

    patches: PatchConfig
    width: int
    stem: tuple[int, ...] = ()
    step: float = 0.0
    hidden: int = 256
    classify: float = 1.0

    def __post_init__(self) -> None:
        numbers = self.patches.numbers(3)
        if self.width < 1 or self.hidden < 1 or self.step < 0 or self.classify < 0:
            raise ConfigError(
                "Patches: width and hidden must be at least 1, step and classify at least 0, found "
                f"{self.width}, {self.hidden}, {self.step} and {self.classify}."
            )
        if not self.stem and self.width > numbers:
            raise ConfigError(f"Patches: {self.width} numbers of a token are more than a patch's own {numbers}.")
        if self.stem and (self.step or self.patches != PatchConfig(size=2 ** len(self.stem), edge="pad")):
            raise ConfigError(
                f"Patches: with a stem of {len(self.stem)} layers the patches lie side by side, have "
                f"{2 ** len(self.stem)} pixels a side and edge pad, and tokens are not rounded (step 0)."
            )


class Patches(ImageTokenizer):
    """Patch tokens, their way back, and the head; see the module's text.

    Args:
        config: sizes.
        processors: ``image``, and ``label`` where there are classes to learn.

    Raises:
        ConfigError: if the patches do not cover the processor's pictures.
    """

    id = "patches"
    config: PatchesConfig

    def __init__(self, config: PatchesConfig, processors: Mapping[str, Processor]) -> None:
        super().__init__(config, processors)
        size, width, numbers = self.picture.size, config.width, config.patches.numbers(3)
        try:
            covers = config.patches.covers(*size)
        except DataError as error:
            raise ConfigError(str(error)) from error
        if not covers:
            raise ConfigError(
                f"Patches: some pixels of pictures of {size[0]} x {size[1]} lie in no patch: set patches.edge to pad, a "
                "stride of at most the size, or another size of pictures."
            )
        self.grid = config.patches.grid(*size)
        if config.stem:
            self.stem = ConvStem(3, width, config.stem)
            self.back = nn.Linear(width, numbers)
        else:
            self.weight = nn.Parameter(nn.init.orthogonal_(torch.empty(width, numbers), LENGTH))
            self.centre = nn.Parameter(torch.zeros(numbers))
        if config.step:
            self.log_width = nn.Parameter(torch.zeros(width))
        labels = processors.get("label")
        self.classes = labels.names if isinstance(labels, LabelProcessor) else ()
        if self.classes:
            self.needs = {"image": IMAGE, "label": LABEL}
            self.head = nn.Sequential(
                nn.Linear(width, config.hidden),
                nn.GELU(),
                nn.LayerNorm(config.hidden),
                nn.Linear(config.hidden, config.hidden),
                nn.GELU(),
                nn.Linear(config.hidden, len(self.classes)),
            )
        self._seen: dict[str, Tensor] = {}  # what health() speaks of; read there, so that a step waits for no device

    # --8<-- [start:tokens]
    def matrix(self) -> Tensor:
        """Return the linear map ``(D, P)`` with orthonormal rows: the weights, made so by Gram and Schmidt's steps.

        Raises:
            ConfigError: if the tokens come from a stem.
        """
        if self.config.stem:
            raise ConfigError("The tokens of a convolutional stem are no linear map of patches.")
        with torch.autocast(self.weight.device.type, enabled=False):
            weight = precise(self.weight)
            lower = torch.linalg.cholesky(weight @ weight.T)  # of the rows' products
            return torch.linalg.solve_triangular(lower, weight, upper=False).to(self.weight.dtype)

    def tokens(self, image_BCHW: Tensor) -> Tensor:
        """Return the tokens ``(B, L, D)`` of prepared pictures, row after row, not rounded."""
        if self.config.stem:
            return self.stem(image_BCHW)
        return F.linear(split(image_BCHW, self.config.patches) - self.centre, self.matrix())

    def pictures(self, token_BLD: Tensor) -> Tensor:
        """Return the pictures ``(B, C, H, W)`` of tokens: by the transpose of the linear map, or learnt behind a stem.

        The transpose is the inverse where D = P, and else the nearest patch of the space that the rows span. A pixel in
        several patches is their mean.
        """
        linear = not self.config.stem
        patches = F.linear(token_BLD, self.matrix().T) + self.centre if linear else self.back(token_BLD)
        return join(patches, self.config.patches, *self.picture.size)

    # --8<-- [end:tokens]

    # --8<-- [start:loss]
    def loss(self, batch: Batch) -> Losses:
        """Return the mean squared error of prepared ``image`` ``(B, C, H, W)``, and the loss of the classes in ``label``.

        Where tokens are rounded the bits that they cost are added at the price at which finer rounding would buy less
        error: rounding to multiples of ``step`` costs an error of ``step^2 / 12`` for each number, and a nat more for each
        divides that by ``e^2``, so that a nat is worth ``step^2 / 6``. The head learns from the linear map's tokens without
        changing them.
        """
        image_BCHW = batch["image"]
        token_BLD = self.tokens(image_BCHW)
        error = F.mse_loss(precise(self.pictures(token_BLD)), precise(image_BCHW))
        total, parts = error, {"error": error.detach()}
        if self.config.step:
            cost = self._nats(token_BLD).mean()
            total = total + (self.config.step**2 / 6) * cost / image_BCHW[0].numel()
            parts["bits"] = cost.detach() / math.log(2)
        if self.classes:
            vote_BLK = precise(self.head(token_BLD if self.config.stem else token_BLD.detach()))
            entropy = F.cross_entropy(vote_BLK.mean(1), batch["label"])
            total = total + self.config.classify * entropy
            right = (vote_BLK.detach().mean(1).argmax(1) == batch["label"]).float().mean()
            parts |= {"cross_entropy": entropy.detach(), "accuracy": right}
        self._seen = parts
        return Losses(total, parts)

    def _nats(self, token_BLD: Tensor) -> Tensor:
        """Return what the tokens of each picture cost in nats, ``(B,)``; between multiples of ``step`` interpolated."""
        width_D = precise(self.log_width).clamp(-3, 12).exp()
        return laplace_nats(precise(token_BLD) / self.config.step, width_D).flatten(1).sum(1)

    # --8<-- [end:loss]

    # The image tokenizer.

    def to_latent(self, image_BCHW: Tensor) -> Tensor:
        """Return the tokens ``(B, D, h, w)`` of prepared pictures, rounded to multiples of ``step``."""
        token_BLD = self.tokens(image_BCHW)
        if self.config.step:
            token_BLD = (token_BLD / self.config.step).round() * self.config.step
        return token_BLD.transpose(1, 2).unflatten(2, self.grid)

    def to_image(self, latent: Tensor) -> Tensor:
        """Return the prepared pictures ``(B, C, H, W)`` of tokens ``(B, D, h, w)``."""
        like = self.back.weight if self.config.stem else self.weight
        return self.pictures(latent.to(like.dtype).flatten(2).transpose(1, 2))

    def latent_shape(self) -> tuple[int, ...]:
        """Return ``(D, h, w)``."""
        return (self.config.width, *self.grid)

    def rate(self, image_BCHW: Tensor) -> Tensor:
        """Return how many bits the tokens of each prepared picture take, ``(B,)``: see ``config.step``."""
        if not self.config.step:
            raw = float(RAW_BITS * math.prod(self.latent_shape()))
            return torch.full((len(image_BCHW),), raw, device=image_BCHW.device)
        return self._nats(self.to_latent(image_BCHW).flatten(2).transpose(1, 2)) / math.log(2)

    # The classes.

    @torch.no_grad()
    def votes(self, images: Sequence[Image.Image]) -> Tensor:
        """Return the logits of each patch of PIL images, ``(len(images), h, w, K)``, on the CPU.

        Raises:
            DataError: if the model was trained without classes.
        """
        if not self.classes:
            raise DataError(
                "This model was trained on pictures without classes, so that its patches vote for none: train it on one "
                "folder of pictures for each class."
            )
        found = [torch.zeros(0, *self.grid, len(self.classes))]
        with evaluating(self):
            for first in range(0, len(images), CHUNK):
                image_BCHW = self.picture(images[first : first + CHUNK]).to(self.device)
                found.append(self.head(self.tokens(image_BCHW)).unflatten(1, self.grid).float().cpu())
        return torch.cat(found)

    def classify(
        self, images: Sequence[Image.Image], labels: Sequence[str], templates: Sequence[str] = ("{}",)
    ) -> np.ndarray:
        """Return probabilities ``(len(images), len(labels))`` among some of the classes: of the mean of the patches' logits.

        Args:
            images: PIL images.
            labels: names of classes that the model knows (:attr:`classes`), at least one.
            templates: have no meaning here: the classes are those of training.

        Raises:
            DataError: if there is no label, one is unknown, or the model was trained without classes.
        """
        mean_NK = self.votes(images).mean((1, 2))
        return mean_NK[:, self._places(labels)].softmax(1).numpy()

    def class_maps(self, images: Sequence[Image.Image], label: str) -> np.ndarray:
        """Return how probable each patch by itself finds a class, float32 ``(len(images), h, w)``.

        Raises:
            DataError: if the class is unknown, or the model was trained without classes.
        """
        return self.votes(images).softmax(3)[..., self._places([label])[0]].numpy()

    def _places(self, labels: Sequence[str]) -> list[int]:
        names = self.processors["label"]
        assert isinstance(names, LabelProcessor)
        return names.places(labels)

    def health(self) -> list[str]:
        """Warn of tokens that say nothing: all of them round to nothing."""
        bits = self._seen.get("bits")
        if bits is None or float(bits) > 1.0:
            return []
        return [
            f"A picture's tokens take {float(bits):.2g} bits: nearly all of their numbers round to 0. Lower model.step, or "
            "train on pictures that differ."
        ]

    def train_flops(self, batch_size: int) -> float:
        """Return the operations of one step: tokens, pictures and votes forward, and twice as many backward."""
        token = 4 * self.config.width * self.config.patches.numbers(3)
        if self.classes:
            token += 2 * self.config.hidden * (self.config.width + self.config.hidden + len(self.classes))
        return 3.0 * batch_size * math.prod(self.grid) * token


def laplace_nats(count: Tensor, width: Tensor) -> Tensor:
    """Return what whole numbers cost in nats if they are a Laplace distribution's, rounded.

    With ``r = exp(-1 / width)``: 0 has the probability ``1 - r^(1/2)``, k and -k together ``r^|k| (r^(-1/2) - r^(1/2))``,
    and all of them sum to one. Between whole numbers the second formula goes on, where it costs more than 0 does: so
    numbers that would be rounded to 0 are not pulled there, and all others are.

    Args:
        count: numbers in units of the rounding, any shape.
        width: above 0, that broadcasts to it: the distribution's scale, in units of the rounding.
    """
    rate = 1 / width
    nothing = -torch.log(-torch.expm1(-rate / 2))
    log_sinh = rate / 2 + torch.log(-torch.expm1(-rate)) - math.log(2)  # of half the rate, without overflow
    return torch.maximum(nothing, count.abs() * rate - log_sinh)
