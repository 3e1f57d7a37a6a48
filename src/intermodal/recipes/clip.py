"""Recipes of CLIP: on the shipped emoji set, on photographs, and with SigLIP's loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError
from intermodal.data.emoji import EmojiSource
from intermodal.data.flickr import Flickr8kSource
from intermodal.data.processors import ImageProcessor, Resize, TextProcessor
from intermodal.data.tokenizers import special_ids, train_bpe
from intermodal.data.transforms import ImageAugment
from intermodal.evaluate.emoji import evaluate_on_emoji
from intermodal.evaluate.pairs import evaluate_on_pairs
from intermodal.evaluate.result import Evaluation
from intermodal.hub.load import load
from intermodal.methods.base import Method
from intermodal.methods.contrastive.clip import CLIP, CLIPConfig
from intermodal.nn.text import TextConfig
from intermodal.nn.vit import ViTConfig
from intermodal.recipes.base import OptimConfig, Progress, Recipe, TrainConfig


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig(Config):
    """The BPE that is trained on the training texts.

    Attributes:
        vocab_size: at most this many ids.
        context_length: longest text, in tokens, special ones included.
    """

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
        tokenizer = train_bpe((t.lower() for t in self.source.training_texts()), self.tokenizer.vocab_size)
        pad, eos = special_ids(tokenizer)
        text = TextProcessor(
            tokenizer, context_length=self.tokenizer.context_length, eos_id=eos, pad_id=pad, lower=True
        )
        model = self.model.replace(
            text__vocab_size=text.vocab_size,
            text__context_length=text.context_length,
            text__eos_id=eos,
            text__pad_id=pad,
        )
        size = model.image.image_size
        image = ImageProcessor(size=(size, size) if isinstance(size, int) else size, resize=self.resize)
        torch.manual_seed(self.train.seed)
        return CLIP(model, {"image": image, "text": text})

    def evaluate(self, method: Method, split: str, progress: Progress) -> Evaluation:
        """Judge by retrieval both ways, and on the emoji set by zero-shot naming of held-out styles too."""
        assert isinstance(method, CLIP)
        if isinstance(self.source, EmojiSource):
            return evaluate_on_emoji(method, self.source, split, progress)
        return evaluate_on_pairs(method, self.source, split, progress)

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


def clip() -> CLIPRecipe:
    """CLIP on the shipped emoji set.

    ``intermodal train clip``
    """
    return CLIPRecipe(
        name="clip",
        source=EmojiSource(unit="concept"),
        model=CLIPConfig(
            image=ViTConfig(image_size=64, patch_size=8, width=192, depth=6, heads=3),
            text=TextConfig(vocab_size=4096, context_length=32, width=192, depth=2, heads=3, eos_id=1, pad_id=0),
            embed_dim=192,
        ),
        augment=ImageAugment(
            rotate=15,
            scale=(0.8, 1.15),
            translate=0.08,
            brightness=0.2,
            contrast=0.3,
            saturation=0.4,
            grey=0.1,
        ),
        optim=OptimConfig(lr=1e-3, warmup=100),
        train=TrainConfig(steps=1000, batch_size=512, precision="bf16"),
    )


def clip_photos() -> CLIPRecipe:
    """CLIP on Flickr8k's photographs with their five captions each (needs ``INTERMODAL_DATA``).

    ``intermodal train clip-photos``
    """
    return clip().replace(name="clip-photos", source=Flickr8kSource(), model__image__image_size=96)


def siglip() -> CLIPRecipe:
    """The same towers and data as ``clip`` with SigLIP's sigmoid loss.

    ``intermodal train siglip``
    """
    return clip().replace(
        name="siglip", model__loss="sigmoid", model__init_logit_scale=10.0, model__init_logit_bias=-10.0
    )
