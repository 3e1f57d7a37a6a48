"""What the recipes of picture generators share: pictures of one size with or without texts, judged by what is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.data.emoji import EmojiSource
from intermodal.data.folder import FolderSource
from intermodal.data.pictures import PictureSource, without_classes
from intermodal.data.processors import ImageProcessor, Processor, Resize, signed_pixels
from intermodal.data.source import SourceConfig
from intermodal.data.transforms import ImageAugment
from intermodal.hub.load import load
from intermodal.methods.image_generation.text import TextEncoderConfig, taken_from
from intermodal.nn.text import TextConfig
from intermodal.recipes.base import Expect, Recipe
from intermodal.recipes.clip import TokenizerConfig, trained_text

EMOJI = EmojiSource(unit="picture")
FLIPPED = ImageAugment(flip=0.5)
OWN_TOWER = TextConfig(
    vocab_size=4096,
    context_length=24,
    width=128,
    depth=2,
    heads=4,
    activation="gelu",
    eos_id=1,
    pad_id=0,
    causal=False,
    pool="mean",
)
"""An encoder that learns with the generator; vocabulary and special ids are set from the tokenizer."""
WORDS = TokenizerConfig(kind="words", vocab_size=8192, context_length=24)
BPE = TokenizerConfig(kind="bpe", vocab_size=4096, context_length=32)


@dataclass(frozen=True, kw_only=True)
class TextChoice(Config):
    """Where a generator's text encoder comes from.

    Attributes:
        encoder: a run, checkpoint, published folder or hub id of a clip or bert, whose text encoder is taken as it is;
            None trains one along.
        tower: the one that is trained along.
        tokenizer: of the one that is trained along, trained on the data's texts.
    """

    encoder: str | None = None
    tower: TextConfig = OWN_TOWER
    tokenizer: TokenizerConfig = WORDS


def text_encoder(
    choice: TextChoice, source: SourceConfig, recipe: str
) -> tuple[TextEncoderConfig, dict[str, Tensor] | None, Processor]:
    """Return a text encoder's configuration, its weights (None if it is to be trained), and the texts' processor.

    Args:
        choice: where it comes from.
        source: whose training texts a tokenizer is trained on.
        recipe: its name, for errors.

    Raises:
        ConfigError: if there is no such model, or it has no text encoder.
        DataError: if the data has no texts.
    """
    if "text" not in source.open("train").fields:
        raise DataError(f"The recipe {recipe!r} draws from texts, and these pictures have none.")
    if choice.encoder is None:
        processor, tower = trained_text(choice.tokenizer, source, choice.tower)
        return TextEncoderConfig(tower=tower, frozen=False), None, processor
    if choice.encoder.startswith("runs/") and not Path(choice.encoder).exists():
        raise ConfigError(
            f"The recipe {recipe!r} is told texts by a trained CLIP, and there is none at {choice.encoder}: run `intermodal "
            f"train clip --run {choice.encoder}` first, or name another model, or None to train an encoder along."
        )
    return taken_from(load(choice.encoder))


def expected(frechet: float, minutes: float) -> tuple[Expect, ...]:
    """Return the band around the Fréchet distance of one run (seed 0): a quarter either way."""
    return (
        Expect(
            metric="frechet",
            low=round(0.75 * frechet, 2),
            high=round(1.25 * frechet, 2),
            on="256 emoji of unseen concepts",
            hardware="one CPU core",
            minutes=minutes,
        ),
    )


@dataclass(frozen=True, kw_only=True)
class GeneratorRecipe(Recipe):
    """A generator of pictures; a subclass builds it.

    Attributes:
        source: pictures, with texts where the model takes them.
        size: pixels of a side.
        resize: how a picture of another shape is fitted.
        texts: where the text encoder comes from; None for a model that takes no texts.
        judge: a run of a CLIP that is not the encoder, which judges whether pictures show what was asked; None for none.
        count: how many pictures are drawn to be judged.
    """

    source: SourceConfig = EMOJI
    augment: ImageAugment | None = None
    size: int = 32
    resize: Resize = "crop"
    texts: TextChoice | None = None
    judge: str | None = None
    count: int = 256

    def processor(self) -> ImageProcessor:
        """Return what turns pictures into values in -1..1 and back."""
        return signed_pixels(self.size, self.resize)

    def on(self, source: SourceConfig) -> Self:
        """Return the recipe on other data: with texts it trains its own encoder, without them any pictures will do."""
        changed = super().on(source)
        if isinstance(source, EmojiSource):
            return changed
        if self.texts is not None:
            return changed.replace(texts=TextChoice(tokenizer=BPE, tower=OWN_TOWER.replace(context_length=32)))
        if isinstance(source, FolderSource) and without_classes(source.path):
            changed = changed.replace(source=PictureSource(path=source.path, max_unreadable=source.max_unreadable))
        return changed.replace(augment=FLIPPED)

    def smaller(self) -> dict[str, Any]:
        """Return the changes that make the networks small enough for seconds; none here."""
        return {}

    def smoke(self) -> Self:
        """Return the same path with the networks of :meth:`smaller` and a budget that take seconds."""
        budget = self.train.replace(steps=6, batch_size=16, eval_every=0, log_every=1, checkpoint_every=3, workers=0)
        texts = None if self.texts is None else TextChoice(tower=OWN_TOWER.replace(width=32, depth=1, heads=2))
        return self.replace(train=budget, expect=(), texts=texts, size=16, count=8, judge=None, **self.smaller())

    def seeded(self) -> None:
        """Set the seed of the weights."""
        torch.manual_seed(self.train.seed)
