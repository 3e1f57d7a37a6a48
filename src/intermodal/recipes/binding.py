"""Recipes of binding: pictures, texts and line drawings of the shipped emoji set in one space."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch

from intermodal.core.errors import DataError
from intermodal.core.progress import Progress
from intermodal.data.emoji import EmojiSource
from intermodal.data.processors import ImageProcessor, Processor, Resize
from intermodal.data.sketch import SketchedSource
from intermodal.data.source import SourceConfig
from intermodal.data.speech import SpeechSource
from intermodal.data.spoken import KeyProcessor, SpokenPicturesSource
from intermodal.data.transcripts import AudioProcessor
from intermodal.data.transforms import ImageAugment
from intermodal.evaluate.binding import evaluate_binding
from intermodal.evaluate.result import Evaluation
from intermodal.methods.base import Method
from intermodal.methods.contrastive.binding import Binding, BindingConfig
from intermodal.nn.sound import SoundConfig
from intermodal.nn.spec_augment import SpecAugmentConfig
from intermodal.nn.speech_encoders import CNNEncoderConfig
from intermodal.nn.speech_features import FeatureConfig
from intermodal.nn.text import TextConfig
from intermodal.nn.vit import ViTConfig
from intermodal.recipes.base import Expect, OptimConfig, Recipe, TrainConfig
from intermodal.recipes.clip import TokenizerConfig, trained_text

WORDS = TokenizerConfig(kind="words", vocab_size=8192, context_length=24)


@dataclass(frozen=True, kw_only=True)
class BindingRecipe(Recipe):
    """Binding on captioned pictures and their line drawings.

    Attributes:
        model: the towers. Vocabulary, context length and special ids of the text's tower are set from the tokenizer.
        tokenizer: trained on the source's training texts.
        resize: how a picture of another shape is fitted.
    """

    method: str = "binding"
    model: BindingConfig
    tokenizer: TokenizerConfig = WORDS
    resize: Resize = "crop"

    def build(self) -> Method:
        """Train the tokenizer, build the processors and the towers."""
        text, tower = trained_text(self.tokenizer, self.source, self.model.text)
        model = self.model.replace(text=tower)
        processors: dict[str, Processor] = {
            "image": ImageProcessor(size=model.image.size, resize=self.resize),
            "text": text,
        }
        if model.sketch is not None:
            processors["sketch"] = ImageProcessor(size=model.sketch.size, resize=self.resize)
        if model.sound is not None:
            processors["audio"] = AudioProcessor(rate=model.sound.features.rate)
            processors["audio_image"] = processors["image"]
            processors["audio_key"] = KeyProcessor()
        torch.manual_seed(self.train.seed)
        return Binding(model, processors)

    def evaluate(self, method: Method, split: str, progress: Progress) -> Evaluation:
        """Judge by retrieval between every two modalities, the untrained pair included, and by the cross-modal block."""
        assert isinstance(method, Binding)
        return evaluate_binding(method, self.source, split, progress, full=split == self.final_split)

    def on(self, source: SourceConfig) -> Self:
        """Return the recipe on other captioned pictures, of which drawings are made; a BPE and two text blocks."""
        if self.model.sound is not None:
            raise DataError("The sounds of this recipe belong to the emoji set's pictures: it takes no other data.")
        if not isinstance(source, SketchedSource):
            source = SketchedSource(pictures=source)
        return super().on(source).replace(model__text__depth=2, tokenizer=TokenizerConfig())

    def smoke(self) -> Self:
        """Return the same path with towers and a budget that take seconds."""
        small = ViTConfig(image_size=32, patch_size=8, width=32, depth=1, heads=2)
        changes: dict[str, Any] = {} if self.model.sketch is None else {"sketch": small}
        if self.model.sound is not None:
            changes |= {"sound__encoder__width": 32, "sound__encoder__depth": 1}
        return self.replace(
            model=self.model.replace(
                image=small, text__width=32, text__heads=2, embed_dim=32, cross_heads=2, **changes
            ),
            tokenizer__vocab_size=600,
            train__steps=8,
            train__batch_size=32,
            train__eval_every=0,
            train__log_every=1,
            expect=(),
        )


PICTURE = ViTConfig(
    image_size=48,
    patch_size=8,
    width=128,
    depth=4,
    heads=4,
    activation="gelu",
    pre_norm=False,
    pool="mean",
    patch_bias=True,
)
TEXT = TextConfig(
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
)
AUGMENT = ImageAugment(
    rotate=6, scale=(0.92, 1.06), translate=0.05, brightness=0.08, contrast=0.12, saturation=0.16, grey=0.04
)
OPTIM = OptimConfig(lr=1e-3, weight_decay=0.1, warmup=60, ema=0.99)
TRAIN = TrainConfig(steps=600, batch_size=128, precision="bf16", workers=0, log_every=20, eval_every=300)


def binding() -> BindingRecipe:
    """Texts and line drawings, never paired, find each other: R@10 0.22 over 300 unseen concepts (chance 0.04).

    ``intermodal train binding`` takes 12 minutes on one busy thread (6.6 CPU minutes). Text finds pictures with R@10 0.37.
    """
    return BindingRecipe(
        name="binding",
        source=SketchedSource(pictures=EmojiSource(unit="concept")),
        model=BindingConfig(
            image=PICTURE,
            sketch=PICTURE.replace(width=96, depth=3, heads=3),
            text=TEXT,
            embed_dim=192,
        ),
        augment=AUGMENT,
        optim=OPTIM,
        train=TRAIN,
        expect=(
            Expect(
                metric="emergent_r10",
                low=0.18,
                high=0.27,
                on="300 unseen concepts",
                hardware="one thread of a two-core CPU",
                minutes=12.1,
            ),
        ),
    )


def binding_sound() -> BindingRecipe:
    """Spoken digits join pictures and texts: no sound is ever paired with a text.

    ``intermodal train binding-sound``, 6 CPU minutes: 57 % of an unheard speaker's digits find their text
    among ten, where chance finds 10 %.
    """
    return BindingRecipe(
        name="binding-sound",
        source=SpokenPicturesSource(
            pictures=EmojiSource(unit="concept"),
            speech=SpeechSource(path=Path("fsdd"), left_out="theo", speeds=(0.8, 0.9, 1.0, 1.1, 1.2)),
        ),
        model=BindingConfig(
            image=PICTURE,
            text=TEXT,
            sound=SoundConfig(
                features=FeatureConfig.kaldi(rate=8000, bins=40, cmvn="utterance"),
                encoder=CNNEncoderConfig(width=128, depth=4, kernel=9, dropout=0.2),
                augment=SpecAugmentConfig(time_width=12, time_share=0.3, frequency_width=10),
            ),
            embed_dim=192,
            match_weight=0.0,
        ),
        augment=AUGMENT,
        optim=OPTIM,
        train=TRAIN.replace(steps=900),
        expect=(
            Expect(
                metric="audio_to_text_accuracy",
                low=0.42,
                high=0.72,
                on="500 recordings of an unheard speaker",
                hardware="one thread of a two-core CPU",
                minutes=11.8,
            ),
        ),
    )
