"""Recipe of patch tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from intermodal.core.progress import Progress
from intermodal.data.processors import LabelProcessor, Processor
from intermodal.data.transforms import ImageAugment
from intermodal.evaluate.patches import extras
from intermodal.evaluate.result import Panel
from intermodal.methods.base import Method
from intermodal.methods.image_tokenizers.patches import Patches, PatchesConfig
from intermodal.methods.image_tokenizers.tokenizer import ImageTokenizer
from intermodal.nn.patches import PatchConfig
from intermodal.recipes.base import OptimConfig, TrainConfig
from intermodal.recipes.image_tokenizers import TokenizerRecipe, expected

MOVED = ImageAugment(flip=0.5, translate=0.1, scale=(0.85, 1.15))
"""So that the cuts between patches fall elsewhere each time."""


@dataclass(frozen=True, kw_only=True)
class PatchesRecipe(TokenizerRecipe):
    """Patch tokens of pictures, and the classes that patches vote for where the data has at least two.

    Attributes:
        model: the patches, the tokens and the head.
    """

    method: str = "patches"
    model: PatchesConfig

    def build(self) -> Method:
        """Read the classes, if there are any, and build the tokens and the head."""
        processors: dict[str, Processor] = {"image": self.processor()}
        source = self.source.open("train")
        if "label" in source.fields:
            labels = LabelProcessor.of(source.labels())
            if len(labels.names) > 1:
                processors["label"] = labels
        torch.manual_seed(self.train.seed)
        return Patches(self.model, processors)

    def extras(
        self, method: ImageTokenizer, split: str, progress: Progress, *, full: bool
    ) -> tuple[dict[str, float], list[Panel]]:
        """Add the classes and their maps, and the principal components of patches."""
        assert isinstance(method, Patches)
        return extras(method, self.source, split, progress, full=full)

    def smaller(self) -> dict[str, Any]:
        """Return tokens of few numbers."""
        return {"size": 16, "model__width": 12, "model__hidden": 32}


def patches() -> PatchesRecipe:
    """Patch tokens of the shipped emoji set, and the sub-group that each patch votes for.

    ``intermodal train patches``; ``--data FOLDER`` trains it on your own pictures, with one folder for each class if there
    are classes.
    """
    return PatchesRecipe(
        name="patches",
        augment=MOVED,
        model=PatchesConfig(patches=PatchConfig(size=8, edge="pad"), width=96, step=0.25),
        optim=OptimConfig(lr=3e-3, betas=(0.9, 0.99), weight_decay=0.01, warmup=100, ema=0.995),
        train=TrainConfig(steps=2000, batch_size=128, workers=1, log_every=50, eval_every=1000, checkpoint_every=1000),
        expect=expected(31.4, 1.3),
    )
