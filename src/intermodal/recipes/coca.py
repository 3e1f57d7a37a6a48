"""Recipes of CoCa: on the shipped emoji set, and on photographs with sentences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch

from intermodal.core.progress import Progress
from intermodal.data.emoji import EmojiSource
from intermodal.data.flickr import Flickr8kSource
from intermodal.data.processors import ImageProcessor, Resize
from intermodal.data.source import SourceConfig
from intermodal.data.transforms import ImageAugment
from intermodal.evaluate.captions import evaluate_captions
from intermodal.evaluate.result import Evaluation
from intermodal.methods.base import Method
from intermodal.methods.captioning.coca import CoCa, CoCaConfig
from intermodal.nn.resnet import ResNetConfig
from intermodal.nn.text import TextConfig
from intermodal.recipes.base import OptimConfig, Recipe, TrainConfig, reaches
from intermodal.recipes.clip import DRAWN, TokenizerConfig, trained_text

SENTENCES = TokenizerConfig()


@dataclass(frozen=True, kw_only=True)
class CoCaRecipe(Recipe):
    """CoCa on pairs of pictures and texts.

    Attributes:
        model: sizes. Vocabulary, context length and special ids of the text are set from the tokenizer.
        tokenizer: trained on the source's training texts.
        resize: how a picture of another shape is fitted.
    """

    method: str = "coca"
    model: CoCaConfig
    tokenizer: TokenizerConfig = SENTENCES
    resize: Resize = "crop"

    def build(self) -> Method:
        """Train the tokenizer, build the processors and the network."""
        text, tower = trained_text(self.tokenizer, self.source, self.model.text)
        image = ImageProcessor(size=self.model.image.size, resize=self.resize)
        torch.manual_seed(self.train.seed)
        return CoCa(self.model.replace(text=tower), {"image": image, "text": text})

    def evaluate(self, method: Method, split: str, progress: Progress) -> Evaluation:
        """Judge captions beside their baselines, and retrieval."""
        assert isinstance(method, CoCa)
        return evaluate_captions(method, self.source, split, progress, full=split == self.final_split)

    def on(self, source: SourceConfig) -> Self:
        """Return the recipe on other data: a BPE for its sentences."""
        found = super().on(source)
        return found if isinstance(source, EmojiSource) else found.replace(tokenizer=SENTENCES)

    def smoke(self) -> Self:
        """Return the same path with a network and a budget that take seconds."""
        return self.replace(
            model=self.model.replace(
                image=ResNetConfig(image_size=32, layers=(1, 1, 1), width=8, pool="mean"),
                text__width=32,
                text__heads=2,
                multimodal_depth=1,
                multimodal_heads=2,
                queries=4,
                pooler_heads=2,
            ),
            tokenizer__vocab_size=600,
            train__steps=8,
            train__batch_size=32,
            train__eval_every=0,
            train__log_every=1,
            expect=(),
        )


def coca() -> CoCaRecipe:
    """CoCa on the shipped emoji set: names and keywords of concepts that it never saw.

    ``intermodal train coca``, 68 CPU minutes: CIDEr 0.36, chance 0.01, the nearest picture's caption 0.33.
    """
    return CoCaRecipe(
        name="coca",
        source=EmojiSource(unit="concept", single=0.0, part=0.0),
        model=CoCaConfig(
            image=ResNetConfig(image_size=64, layers=(1, 1, 1), width=32, pool="mean"),
            text=TextConfig(
                vocab_size=4096, context_length=24, width=192, depth=1, heads=4, activation="gelu", eos_id=1, pad_id=0
            ),
            multimodal_depth=2,
            multimodal_heads=4,
            queries=16,
            pooler_heads=4,
        ),
        tokenizer=TokenizerConfig(kind="words", vocab_size=8192, context_length=24),
        augment=DRAWN,
        optim=OptimConfig(lr=2e-3, weight_decay=0.2, warmup=100, ema=0.99),
        train=TrainConfig(steps=4000, batch_size=128, precision="bf16", workers=1, log_every=20, eval_every=500),
        expect=reaches("cider", 0.26, 0.46, "300 pictures of unseen emoji concepts", 68.0),
    )


def coca_flickr() -> CoCaRecipe:
    """CoCa on Flickr8k's photographs with five captions each (needs ``INTERMODAL_DATA``).

    ``intermodal train coca-flickr``, 10.5 CPU minutes: CIDEr 0.21, the nearest photograph's caption 0.10, chance 0.03.
    """
    return (
        coca()
        .on(Flickr8kSource())
        .replace(
            name="coca-flickr",
            final_split="validation",
            train__steps=1000,
            tokenizer=TokenizerConfig(kind="bpe", vocab_size=3000, context_length=28),
            augment=ImageAugment(flip=0.5, scale=(1.0, 1.3)),
            expect=reaches("cider", 0.17, 0.25, "742 validation photographs", 10.5),
        )
    )
