"""Recipes of vision transformers that tell the class of a picture: ViT, DeiT, Swin, Swin v2.

On the emoji set they see one of 98 sub-groups of unseen concepts; on FSDD the word that a speaker says whom they have never
heard, from a picture of the sound. All of one set share its pictures, their number a step and the steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch

from intermodal.core.errors import ConfigError, DataError
from intermodal.core.progress import Progress
from intermodal.data.emoji import EmojiSource
from intermodal.data.mixing import Mixing
from intermodal.data.processors import ImageProcessor, LabelProcessor, Processor, Resize
from intermodal.data.sonagrams import SonagramSource
from intermodal.data.source import Source, SourceConfig, read_or_next
from intermodal.data.speech import SpeechSource
from intermodal.data.transforms import ImageAugment
from intermodal.evaluate.classification import evaluate_classifier
from intermodal.evaluate.energy import spread_out
from intermodal.evaluate.result import Evaluation
from intermodal.hub.load import load
from intermodal.methods.base import Method
from intermodal.methods.vision_language.classifier import PictureClassifier
from intermodal.methods.vision_language.swin import Swin, SwinClassifierConfig
from intermodal.methods.vision_language.vit import ViT, ViTClassifierConfig
from intermodal.nn.patch_starts import begin
from intermodal.nn.swin import SwinConfig
from intermodal.nn.vit import ViTConfig
from intermodal.recipes.base import Expect, OptimConfig, Recipe, TrainConfig, reaches
from intermodal.recipes.first import loaded, trained_first
from intermodal.recipes.self_supervised import ImageEncoderRecipe, supervised

WHITENED = 500
"""Pictures whose patches are whitened."""
PHOTO_SIZE = 64
"""Pixels of a person's own pictures, which hold more than a drawing."""
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True, kw_only=True)
class ClassifierRecipe(Recipe):
    """A classifier of pictures.

    Attributes:
        model: the tower and the loss.
        resize: how a picture of another shape is fitted.
        teacher: a run or checkpoint of a model that knows the same classes, for distillation (DeiT).
        teaches: the recipe by which a teacher is trained first where none is named; None for no teacher.
        begins: ``whitened``: with patches whitened over training pictures and positions as waves
            (:mod:`intermodal.nn.patch_starts`); ``random``: with random ones.
        start: a run, checkpoint, published folder or hub id to go on from: its tower, pixels and architecture are taken, in
            the place of the model's, and a new head is trained; None to begin from nothing.
    """

    model: ViTClassifierConfig | SwinClassifierConfig
    resize: Resize = "crop"
    teacher: Path | None = None
    teaches: ImageEncoderRecipe | None = None
    begins: Literal["whitened", "random"] = "whitened"
    start: str | None = None

    def build(self) -> Method:
        """Read the classes, build the network or take up a trained one, and load the teacher if there is one.

        Raises:
            DataError: if the pictures have no classes, or all training pictures have the same one.
            ConfigError: if the teacher knows other classes, or none, or what to go on from is no ViT or Swin.
        """
        source = self.source.open("train")
        labels = LabelProcessor.of(source.labels())
        if len(labels.names) < 2:
            raise DataError(
                f"All {len(source):,} training pictures of {source.name} are of the class {labels.names[0]!r}: telling "
                "classes takes at least two. Sort the pictures into one folder for each class."
            )
        torch.manual_seed(self.train.seed)
        method = self._fresh(labels, source) if self.start is None else self._onward(labels, self.start)
        if self.teacher is not None:
            method.learn_from(load(self.teacher))
        elif self.teaches is not None:
            method.learn_from(trained_first(self.teaches))
        return method

    def _fresh(self, labels: LabelProcessor, source: Source) -> PictureClassifier:
        image = ImageProcessor(size=self.model.image.size, resize=self.resize, mean=HALF, std=HALF)
        processors: dict[str, Processor] = {"image": image, "label": labels}
        method = classifier_of(self.model, processors)
        if self.begins == "whitened":
            pictures = [read_or_next(source, i, None)[0]["image"] for i in spread_out(len(source), WHITENED)]
            begin(method.image, image(pictures), torch.Generator().manual_seed(self.train.seed))
        return method

    def _onward(self, labels: LabelProcessor, start: str) -> PictureClassifier:
        trained = loaded(start, self.name, "--start", self.name)
        if not isinstance(trained, ViT | Swin):
            raise ConfigError(f"{start} holds no ViT or Swin that tells classes but the method {trained.id!r}.")
        own, config = self.model, trained.config
        config = config.replace(
            label_smoothing=own.label_smoothing, mixing=own.mixing, image__drop_path=own.image.drop_path
        )
        method = classifier_of(config, {**trained.processors, "label": labels})
        method.image.load_state_dict(trained.image.state_dict())
        return method

    def evaluate(self, method: Method, split: str, progress: Progress) -> Evaluation:
        """Judge how often it is right, how sure it is, and where it looks."""
        assert isinstance(method, PictureClassifier)
        return evaluate_classifier(method, self.source, split, progress, full=split == self.final_split)

    def on(self, source: SourceConfig) -> Self:
        """Return the recipe on other data: pictures of at least 64 pixels, in patches of the same size."""
        recipe = super().on(source)
        if self.teaches is not None:
            recipe = recipe.replace(teaches=self.teaches.on(source))
        if isinstance(source, EmojiSource | SonagramSource) or self.start is not None:
            return recipe
        return recipe.replace(model__image__image_size=max(PHOTO_SIZE, *self.model.image.size))

    def smoke(self) -> Self:
        """Return the same path with a tower and a budget that take seconds."""
        if isinstance(self.model, ViTClassifierConfig):
            small: dict[str, Any] = {"width": 32, "depth": 2, "heads": 2, "mlp_width": 64, "patch_size": 8}
        else:
            small = {"width": 16, "depths": (2, 1), "heads": (1, 2), "patch_size": 4}
        return self.replace(
            **{f"model__image__{name}": value for name, value in small.items()},
            model__image__image_size=32,
            teacher=None,
            teaches=None,
            start=None,
            train=self.train.replace(steps=8, batch_size=32, eval_every=0, log_every=1, workers=0),
            expect=(),
        )


def classifier_of(
    config: ViTClassifierConfig | SwinClassifierConfig, processors: Mapping[str, Processor]
) -> PictureClassifier:
    """Return a classifier of a configuration, freshly initialised."""
    return ViT(config, processors) if isinstance(config, ViTClassifierConfig) else Swin(config, processors)


MOVED = ImageAugment(
    flip=0.5,
    crop=(0.6, 1.0),
    brightness=0.2,
    contrast=0.2,
    saturation=0.2,
)
VIT_32 = ViTConfig(
    image_size=32,
    patch_size=8,
    width=128,
    depth=6,
    heads=4,
    activation="gelu",
    norm_eps=1e-6,
    pre_norm=False,
    patch_bias=True,
    pool="flat",
    drop_path=0.1,
)
SWIN_32 = SwinConfig(
    image_size=32,
    patch_size=4,
    width=64,
    depths=(2, 4),
    heads=(2, 4),
    window=4,
    pool="flat",
    drop_path=0.1,
)
OPTIM = OptimConfig(lr=2e-3, betas=(0.9, 0.99), weight_decay=0.05, warmup=100)
TRAIN = TrainConfig(steps=1500, batch_size=64, precision="bf16", log_every=50, checkpoint_every=500)
DIGITS = SonagramSource(speech=SpeechSource(path=Path("fsdd"), validation_share=0.0, left_out="theo"))
DIGIT_STEPS = 700
UNHEARD = "500 spoken digits of a speaker who is not in the training set"
HEARD = ImageAugment(translate=0.12, scale=(0.85, 1.15), contrast=0.3, brightness=0.2)
"""Words said earlier or later, higher or lower, faster or slower, louder or softer."""


def expected(
    top1: float, minutes: float, *, on: str = "1,775 emoji of unseen concepts, 98 sub-groups"
) -> tuple[Expect, ...]:
    """Return a band around the figure of one run (seed 0): 0.025 either way."""
    return reaches("top1", round(top1 - 0.025, 3), round(top1 + 0.025, 3), on, minutes, "one CPU core")


def vit() -> ClassifierRecipe:
    """A vision transformer of 8 x 8 patches that tells the emoji's sub-groups: 2.1 CPU minutes, 0.295 of unseen concepts.

    ``intermodal train vit``. The nearest raw pixels reach 0.245, a linear probe of the ``supervised`` ResNet 0.299. The head
    reads all patches, each in its place (``pool="flat"``); a class token on patches of 4 had 0.177 after 3.2 CPU minutes.
    ``--data FOLDER`` trains it on your own pictures, one folder for each class; ``--start PATH`` goes on from a trained
    tower.
    """
    return ClassifierRecipe(
        name="vit",
        method="vit",
        source=EmojiSource(unit="picture"),
        model=ViTClassifierConfig(image=VIT_32, label_smoothing=0.1),
        augment=MOVED,
        optim=OPTIM,
        train=TRAIN,
        expect=expected(0.295, 2.1),
    )


def deit() -> ClassifierRecipe:
    """DeiT's training: the same on mixed pictures, with a second head that learns from a teacher.

    ``intermodal train deit``, 1.9 CPU minutes, 0.256 of unseen concepts (pixels 0.245): here mixing costs more than
    it gives. With a teacher of your own, ``--teacher runs/teacher``. Otherwise the teacher, the ResNet of
    the recipe ``supervised``, is trained first (0.8 CPU minutes). The paper's two tokens: ``--model.no-second-head
    --model.image.pool cls --model.image.distillation``.
    """
    return vit().replace(
        name="deit",
        expect=expected(0.256, 1.9),
        teaches=supervised(),
        model__second_head=True,
        model__mixing=Mixing(mixup=0.2, cutmix=1.0),
    )


def swin() -> ClassifierRecipe:
    """A Swin of two stages, with windows of 4 x 4 places, that tells the emoji's sub-groups: 0.341 of unseen concepts.

    ``intermodal train swin``, 2.2 CPU minutes; ``--data FOLDER`` trains it on your own pictures, one folder for each class.
    """
    return vit().replace(
        name="swin",
        method="swin",
        expect=expected(0.341, 2.2),
        model=SwinClassifierConfig(image=SWIN_32, label_smoothing=0.1),
    )


def swin_v2() -> ClassifierRecipe:
    """The same as version 2: cosines, norms after attention and MLP, position biases from log-spaced offsets.

    ``intermodal train swin-v2``, 2.5 CPU minutes, 0.297 of unseen concepts.
    """
    return swin().replace(name="swin-v2", expect=expected(0.297, 2.5), model__image__version=2)


def vit_digits() -> ClassifierRecipe:
    """A vision transformer that reads spoken digits off pictures of their sound, of a speaker whom it has never heard.

    ``intermodal train vit-digits``, 2.3 CPU minutes: 0.82 (the nearest pixels 0.65; chance 0.10).
    """
    return vit().replace(
        name="vit-digits",
        expect=expected(0.818, 2.3, on=UNHEARD),
        source=DIGITS,
        model__image__image_size=64,
        augment=HEARD,
        train__steps=DIGIT_STEPS,
    )


def swin_digits() -> ClassifierRecipe:
    """A Swin that reads spoken digits off pictures of their sound, of a speaker whom it has never heard.

    ``intermodal train swin-digits``, 0.7 CPU minutes: 0.80 (the nearest pixels 0.65; chance 0.10).
    """
    return swin().replace(
        name="swin-digits",
        expect=expected(0.796, 0.7, on=UNHEARD),
        source=DIGITS,
        model__image__image_size=64,
        model__image__patch_size=8,
        augment=HEARD,
        train__steps=DIGIT_STEPS,
    )
