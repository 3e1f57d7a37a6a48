"""What the recipes of image tokenizers share: pictures of one size, without labels, judged by what comes back.

A recipe of a method gives its configuration as ``model``, a small one for :meth:`TokenizerRecipe.smaller`, and where it has
more to show than :mod:`intermodal.evaluate.tokenizers` does, :meth:`TokenizerRecipe.extras`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Self

import torch

from intermodal.core.config import Config
from intermodal.core.progress import Progress
from intermodal.core.registry import load_class
from intermodal.data.emoji import EmojiSource
from intermodal.data.folder import FolderSource
from intermodal.data.pictures import PictureSource, without_classes
from intermodal.data.processors import ImageProcessor, Resize, signed_pixels
from intermodal.data.source import SourceConfig
from intermodal.data.transforms import ImageAugment
from intermodal.evaluate.result import Evaluation, Panel
from intermodal.evaluate.tokenizers import evaluate_tokenizer
from intermodal.methods.base import Method
from intermodal.methods.image_tokenizers.tokenizer import ImageTokenizer
from intermodal.nn.autoencoder import AutoencoderConfig
from intermodal.recipes.base import Expect, Recipe

PHOTO_SIZE = 64
"""Pixels of a person's own pictures, which hold more than a drawing."""
EMOJI = EmojiSource(unit="picture")
FLIPPED = ImageAugment(flip=0.5)


@dataclass(frozen=True, kw_only=True)
class TokenizerRecipe(Recipe):
    """An image tokenizer on pictures; a subclass narrows ``model`` to its method's configuration.

    Attributes:
        source: pictures; the shipped emoji set unless another is named.
        model: the networks and the loss.
        size: pixels of a side of the pictures, a multiple of the model's stride.
        resize: how a picture of another shape is fitted.
    """

    source: SourceConfig = EMOJI
    augment: ImageAugment | None = FLIPPED
    model: Config
    size: int = 32
    resize: Resize = "crop"

    def processor(self) -> ImageProcessor:
        """Return what turns pictures into values in -1..1 and back; a method of other values overrides it."""
        return signed_pixels(self.size, self.resize)

    def build(self) -> Method:
        """Build the networks for pictures of the recipe's size."""
        torch.manual_seed(self.train.seed)
        cls: type[Method] = load_class(self.method)
        return cls(self.model, {"image": self.processor()})

    def evaluate(self, method: Method, split: str, progress: Progress) -> Evaluation:
        """Judge by how much of held-out pictures comes back, and for how many bits; with :meth:`extras`."""
        assert isinstance(method, ImageTokenizer)
        full = split == self.final_split
        result = evaluate_tokenizer(method, self.source, split, progress, full=full)
        metrics, panels = self.extras(method, split, progress, full=full)
        return dataclasses.replace(
            result, metrics={**result.metrics, **metrics}, panels=[*result.panels, *panels] if full else []
        )

    def extras(
        self, method: ImageTokenizer, split: str, progress: Progress, *, full: bool
    ) -> tuple[dict[str, float], list[Panel]]:
        """Return figures and panels of a method's own, added after those that every tokenizer has; none here."""
        del method, split, progress, full
        return {}, []

    def on(self, source: SourceConfig) -> Self:
        """Return the recipe on other data: pictures of at least 64 pixels, whatever lies beside them."""
        if isinstance(source, FolderSource) and without_classes(source.path):
            source = PictureSource(path=source.path, max_unreadable=source.max_unreadable)
        size = self.size if isinstance(source, EmojiSource) else max(PHOTO_SIZE, self.size)
        return super().on(source).replace(size=size)

    def smaller(self) -> dict[str, Any]:
        """Return the changes (as :meth:`Config.replace` takes them) that make the networks small enough for seconds.

        ``{"model__network": ...}``; none here.
        """
        return {}

    def smoke(self) -> Self:
        """Return the same path with the networks of :meth:`smaller` and a budget that take seconds."""
        budget = self.train.replace(steps=6, batch_size=16, eval_every=0, log_every=1, checkpoint_every=3, workers=0)
        return self.replace(train=budget, expect=(), **self.smaller())


def small_network(
    channels: tuple[int, ...], latent_channels: int, *, mid_attention: bool = False, groups: int = 8
) -> AutoencoderConfig:
    """Return encoder and decoder of one block a level, without the 1 x 1 convolutions at the latent."""
    return AutoencoderConfig(
        channels=channels,
        blocks=1,
        latent_channels=latent_channels,
        groups=groups,
        mid_attention=mid_attention,
        quant_conv=False,
        post_quant_conv=False,
    )


def expected(psnr: float, minutes: float, usage: float | None = None) -> tuple[Expect, ...]:
    """Return bands around the figures of one run (seed 0): 1 dB either way, and of codes the least share that occurs."""
    bands = {"psnr": (psnr - 1, psnr + 1), **({} if usage is None else {"usage": (usage, 1.0)})}
    return tuple(
        Expect(
            metric=metric,
            low=round(low, 3),
            high=round(high, 3),
            on="512 emoji of unseen concepts",
            hardware="one CPU core",
            minutes=minutes,
        )
        for metric, (low, high) in bands.items()
    )
