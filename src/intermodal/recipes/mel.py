"""Recipe of the speech features with a reader of isolated words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch

from intermodal.core.progress import Progress
from intermodal.data.processors import LabelProcessor
from intermodal.evaluate.mel import evaluate_mel
from intermodal.evaluate.result import Evaluation
from intermodal.methods.base import Method
from intermodal.methods.speech.mel import MelConfig, MelReader
from intermodal.nn.speech_features import FeatureConfig, SpecAugmentConfig
from intermodal.recipes.base import OptimConfig, TrainConfig, reaches
from intermodal.recipes.speech import FSDD, FSDD_RULE, SpeechRecipe

FITTED = 512
"""Recordings that global normalisation is fitted from, spread over the training split."""


@dataclass(frozen=True, kw_only=True)
class MelRecipe(SpeechRecipe):
    """Speech features and their reader on recordings of isolated words.

    Attributes:
        model: the features and the reader; ``rate`` is that of its features.
    """

    method: str = "mel"
    model: MelConfig

    def build(self) -> Method:
        """Build the processors and the reader, and fit the features' normalisation if it is global."""
        torch.manual_seed(self.train.seed)
        source = self.source.open("train")
        audio = self.replace(rate=self.model.features.rate).audio()
        method = MelReader(self.model, {"audio": audio, "text": LabelProcessor.of(source.texts())})
        self.fit(method.features, FITTED)
        return method

    def evaluate(self, method: Method, split: str, progress: Progress) -> Evaluation:
        """Judge the reader, and in full what each step of the features buys."""
        assert isinstance(method, MelReader)
        return evaluate_mel(method, self.source, split, progress, full=split == self.final_split)

    def smoke(self) -> Self:
        """Return the same path with a reader and a budget that take seconds."""
        return self.replace(
            model__dim=16, train__steps=6, train__batch_size=16, train__eval_every=0, train__log_every=1, expect=()
        )


def mel() -> MelRecipe:
    """MFCC with slopes and a small reader on spoken digits (FSDD, its published rule: all speakers are trained on).

    ``intermodal train mel``, about a minute of one CPU core, reads 99.2 % right; ``--source.left_out theo`` judges it on a
    speaker that it has never heard, ``--data FOLDER`` trains it on your own recordings of single words.
    """
    return MelRecipe(
        name="mel",
        source=FSDD.replace(validation_share=0.0, speeds=(0.85, 0.92, 1.0, 1.08, 1.15)),
        rate=8000,
        model=MelConfig(
            features=FeatureConfig(
                rate=8000, kind="mfcc", bins=24, low=64.0, coefficients=13, deltas=2, cmvn="utterance"
            ),
            augment=SpecAugmentConfig(
                time_masks=2, time_width=12, time_share=0.2, frequency_masks=2, frequency_width=6
            ),
            dropout=0.2,
            label_smoothing=0.1,
        ),
        optim=OptimConfig(lr=3e-3, betas=(0.9, 0.98), weight_decay=0.05, warmup=100),
        train=TrainConfig(steps=900, batch_size=64, log_every=20, checkpoint_every=450),
        expect=reaches("accuracy", 0.975, 1.0, FSDD_RULE, 0.8),
    )
