"""Recipes of CLIP: on the shipped emoji set, on photographs, and with SigLIP's loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

import torch

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError
from intermodal.core.progress import Progress
from intermodal.data.emoji import EmojiSource
from intermodal.data.flickr import Flickr8kSource
from intermodal.data.processors import ImageProcessor, Resize, TextProcessor
from intermodal.data.source import SourceConfig
from intermodal.data.tokenizers import special_ids, train_bpe, train_words
from intermodal.data.transforms import ImageAugment
from intermodal.evaluate.emoji import evaluate_on_emoji
from intermodal.evaluate.pairs import evaluate_on_pairs
from intermodal.evaluate.result import Evaluation
from intermodal.hub.load import load
from intermodal.methods.base import Method
from intermodal.methods.contrastive.clip import CLIP, CLIPConfig
from intermodal.nn.resnet import ResNetConfig
from intermodal.nn.text import TextConfig
from intermodal.nn.vit import ViTConfig
from intermodal.recipes.base import Expect, OptimConfig, Recipe, TrainConfig

DRAWN = ImageAugment(
    rotate=6, scale=(0.92, 1.06), translate=0.03, brightness=0.08, contrast=0.12, saturation=0.16, grey=0.04
)
"""How drawings (the emoji set) are changed in training."""


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig(Config):
    """The tokenizer that is trained on the training texts.

    Attributes:
        kind: ``bpe`` knows every text; ``words`` leaves unknown words out, for few texts.
        vocab_size: at most this many ids.
        context_length: longest text, in tokens, special ones included.
    """

    kind: Literal["bpe", "words"] = "bpe"
    vocab_size: int = 4096
    context_length: int = 32


@dataclass(frozen=True, kw_only=True)
class CLIPRecipe(Recipe):
    """CLIP on pairs of pictures and texts.

    Attributes:
        model: the two towers. Vocabulary, context length and special ids of the text's tower are set from the tokenizer.
        tokenizer: trained on the source's training texts.
        resize: how a picture of another shape is fitted.
        init: start from this checkpoint (ours, or a published folder or hub id) instead of from random weights; its
            towers, tokenizer and picture size then take the place of ``model``, ``tokenizer`` and ``resize``.
    """

    method: str = "clip"
    model: CLIPConfig
    tokenizer: TokenizerConfig = TokenizerConfig()
    resize: Resize = "crop"
    init: str | None = None

    def build(self) -> Method:
        """Train the tokenizer, build the processors and the towers."""
        if self.init is not None:
            method = load(self.init)
            if not isinstance(method, CLIP):
                raise ConfigError(f"{self.init} holds the method {method.id!r}; this recipe trains clip.")
            return method
        text, tower = trained_text(self.tokenizer, self.source, self.model.text)
        model = self.model.replace(text=tower)
        image = ImageProcessor(size=model.image.size, resize=self.resize)
        torch.manual_seed(self.train.seed)
        return CLIP(model, {"image": image, "text": text})

    def evaluate(self, method: Method, split: str, progress: Progress) -> Evaluation:
        """Judge by retrieval both ways, and on the emoji set by zero-shot naming of held-out styles too."""
        assert isinstance(method, CLIP)
        if isinstance(self.source, EmojiSource):
            return evaluate_on_emoji(method, split, progress)
        return evaluate_on_pairs(method, self.source, split, progress, full=split == self.final_split)

    def on(self, source: SourceConfig) -> Self:
        """Return the recipe on other data: 64 pixels, a BPE, two text blocks; photographs and sentences hold more."""
        if isinstance(source, EmojiSource):
            return super().on(source)
        size = max(64, *self.model.image.size)
        return (
            super().on(source).replace(model__image__image_size=size, model__text__depth=2, tokenizer=TokenizerConfig())
        )

    def smoke(self) -> Self:
        """Return the same path with towers and a budget that take seconds."""
        return self.replace(
            model=self.model.replace(
                image=ViTConfig(image_size=32, patch_size=8, width=32, depth=1, heads=2),
                text__width=32,
                text__depth=1,
                text__heads=2,
                embed_dim=32,
                project_image=True,
            ),
            tokenizer__vocab_size=600,
            train__steps=8,
            train__batch_size=32,
            train__eval_every=0,
            train__log_every=1,
            expect=(),
        )


def trained_processor(config: TokenizerConfig, source: SourceConfig) -> TextProcessor:
    """Return a text processor whose tokenizer is trained on the source's training texts."""
    train = train_bpe if config.kind == "bpe" else train_words
    tokenizer = train((text.lower() for text in source.training_texts()), config.vocab_size)
    pad, eos = special_ids(tokenizer)
    return TextProcessor(tokenizer, context_length=config.context_length, eos_id=eos, pad_id=pad, lower=True)


def trained_text(config: TokenizerConfig, source: SourceConfig, tower: TextConfig) -> tuple[TextProcessor, TextConfig]:
    """Return :func:`trained_processor`, and the tower that fits it."""
    text = trained_processor(config, source)
    fitted = tower.replace(
        vocab_size=text.vocab_size, context_length=text.context_length, eos_id=text.eos_id, pad_id=text.pad_id
    )
    return text, fitted


def clip_source(pictures: SourceConfig) -> SourceConfig:
    """Return captioned pictures with the texts that a CLIP learns from: of the emoji set, parts of them too."""
    return EmojiSource(unit="concept") if isinstance(pictures, EmojiSource) else pictures


def clip() -> CLIPRecipe:
    """CLIP on the shipped emoji set: 7 minutes on two cores reach R@10 0.43 over 300 unseen concepts (chance 0.04).

    ``intermodal train clip``; pictures in two unseen styles are named exactly 43 % of the time (raw pixels: 35 %).
    """
    return CLIPRecipe(
        name="clip",
        source=EmojiSource(unit="concept"),
        model=CLIPConfig(
            image=ResNetConfig(image_size=64, layers=(1, 1, 1, 1), width=32, heads=16, output_dim=256),
            text=TextConfig(
                vocab_size=4096,
                context_length=24,
                width=128,
                depth=0,
                heads=2,
                activation="gelu",
                eos_id=1,
                pad_id=0,
                causal=False,
                pool="mean",
            ),
            embed_dim=256,
            project_image=False,
        ),
        tokenizer=TokenizerConfig(kind="words", vocab_size=8192, context_length=24),
        augment=DRAWN,
        optim=OptimConfig(lr=2e-3, weight_decay=0.2, warmup=100, ema=0.99),
        train=TrainConfig(steps=700, batch_size=256, precision="bf16", workers=1, log_every=20, eval_every=350),
        expect=(
            Expect(
                metric="concept_r10",
                low=0.38,
                high=0.48,
                on="300 unseen concepts",
                hardware="two CPU cores",
                minutes=6.6,
            ),
            Expect(
                metric="style_top1", low=0.38, high=0.48, on="two unseen styles", hardware="two CPU cores", minutes=6.6
            ),
        ),
    )


def clip_small() -> CLIPRecipe:
    """CLIP on emoji of 32 x 32 pixels, in 91 CPU seconds: what captioners from its space are tried on.

    ``intermodal train clip-small``
    """
    recipe = clip()
    return recipe.replace(
        name="clip-small",
        model__image=recipe.model.image.replace(image_size=32, layers=(1, 1, 1)),
        optim__warmup=50,
        train=recipe.train.replace(steps=400, workers=0, eval_every=0, checkpoint_every=100),
        expect=(),
    )


def clip_photos() -> CLIPRecipe:
    """CLIP on Flickr8k's photographs with their five captions each (needs ``INTERMODAL_DATA``).

    ``intermodal train clip-photos``
    """
    recipe = clip().on(Flickr8kSource())
    return recipe.replace(
        name="clip-photos", final_split="validation", augment=ImageAugment(flip=0.5, scale=(1.0, 1.3))
    )


def siglip() -> CLIPRecipe:
    """The same towers and data as ``clip`` with SigLIP's sigmoid loss.

    ``intermodal train siglip``
    """
    return clip().replace(
        expect=(), name="siglip", model__loss="sigmoid", model__init_logit_scale=10.0, model__init_logit_bias=-10.0
    )
