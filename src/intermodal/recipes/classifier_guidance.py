"""The recipe of classifier guidance: a diffusion model without classes, and a classifier of noisy pictures."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Self

from intermodal.core.drawing import Drawing
from intermodal.core.errors import ConfigError, DataError
from intermodal.core.progress import Progress
from intermodal.data.processors import LabelProcessor
from intermodal.data.source import SourceConfig
from intermodal.evaluate.classifier_guidance import known, study
from intermodal.evaluate.generation import headline, judge_generation
from intermodal.evaluate.result import Evaluation
from intermodal.methods.base import Method
from intermodal.methods.image_generation.classifier_guidance import ClassifierGuidance, ClassifierGuidanceConfig
from intermodal.nn.noisy_classifier import NoisyClassifierConfig
from intermodal.nn.unet import UNetConfig
from intermodal.recipes.base import OptimConfig, TrainConfig
from intermodal.recipes.diffusion import TINY, DDIMRecipe
from intermodal.recipes.image_generation import FLIPPED, expected

CLASSIFIER = NoisyClassifierConfig(
    encoder=UNetConfig(channels=(32, 64, 128), blocks=1, attention=(2,), groups=8, head_width=32, dropout=0.2)
)
"""The way down of the recipes' U-Net."""


@dataclass(frozen=True, kw_only=True)
class ClassifierGuidanceRecipe(DDIMRecipe):
    """A diffusion model that is told nothing, and a classifier of noisy pictures.

    Attributes:
        classifier: its network.
    """

    method: str = "classifier-guidance"
    classifier: NoisyClassifierConfig = CLASSIFIER
    drawing: Drawing = Drawing(steps=25, sampler="ddim", guidance=4.0, precision="bf16")

    def build(self) -> Method:
        """Read the classes and build both networks.

        Raises:
            ConfigError: if it is to be told texts.
            DataError: if the data has no classes, or one.
        """
        if self.texts is not None:
            raise ConfigError(f"The recipe {self.name!r} is told the name of a class, no text: leave texts at None.")
        source = self.source.open("train")
        labels = LabelProcessor.of(source.labels())
        if len(labels.names) < 2:
            raise DataError(
                f"All pictures of {source.name} are of the class {labels.names[0]!r}: a classifier needs two classes at "
                "least; without classes, train `ddim`."
            )
        self.seeded()
        return ClassifierGuidance(
            self.configuration(network=self.sized()), {"image": self.processor(), "label": labels}
        )

    def configuration(self, **parts: Any) -> ClassifierGuidanceConfig:
        """Return the method's configuration."""
        return ClassifierGuidanceConfig(classifier=self.classifier, **self.settings(), **parts)

    def on(self, source: SourceConfig) -> Self:
        """Return the recipe on other data, which must have classes."""
        return super().on(source).replace(source=source)

    def evaluate(self, method: Method, split: str, progress: Progress) -> Evaluation:
        """Judge by pictures for the classes of held-out ones, and in the end by what is particular to the method."""
        assert isinstance(method, ClassifierGuidance)
        full = split == self.final_split
        drawing = method.drawing if full else method.drawing.replace(steps=min(10, method.drawing.steps))
        start = time.monotonic()
        metrics, panels = judge_generation(
            method,
            self.source,
            split,
            progress,
            full=full,
            count=self.count,
            draw=lambda prompts, seeds: method.draw(known(method, prompts), seeds, drawing),
            told="label",
        )
        if full:
            figures, shown = study(method, self.source, split, progress, count=self.count)
            metrics, panels = {**metrics, **figures}, [*panels, *shown]
        return Evaluation(split, metrics, panels, time.monotonic() - start, headline(metrics) if full else None)

    def smaller(self) -> dict[str, Any]:
        """Return narrow networks and few steps."""
        return {**super().smaller(), "classifier": NoisyClassifierConfig(encoder=TINY)}


def classifier_guidance() -> ClassifierGuidanceRecipe:
    """Emoji of 32 x 32 of one of 98 sub-groups that the denoiser is never told: a classifier of noisy pictures leads there.

    ``intermodal train classifier-guidance``, 13 minutes of one CPU core: Fréchet distance 1.32 (training pictures 0.48, a
    Gaussian of the pixels 2.96). ``--data FOLDER`` trains it on your own pictures, one folder for each class.
    """
    return ClassifierGuidanceRecipe(
        name="classifier-guidance",
        augment=FLIPPED,
        optim=OptimConfig(lr=1e-3, betas=(0.9, 0.99), weight_decay=0.05, warmup=100, ema=0.999),
        train=TrainConfig(
            steps=860, batch_size=64, precision="bf16", workers=1, log_every=50, eval_every=0, checkpoint_every=430
        ),
        expect=expected(1.32, 13),
    )
