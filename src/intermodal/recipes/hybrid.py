"""Recipes of hybrid recognisers: a network on the states of a hidden Markov model that was trained before."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch

from intermodal.core.errors import ConfigError
from intermodal.core.progress import Progress, silent
from intermodal.data.source import SourceConfig
from intermodal.decode.graph import GraphConfig
from intermodal.evaluate.result import Evaluation
from intermodal.evaluate.speech import evaluate_recogniser
from intermodal.hub.load import load
from intermodal.methods.base import Method
from intermodal.methods.speech.hmm import Hmm
from intermodal.methods.speech.hmm_engine import HmmPlan
from intermodal.methods.speech.hybrid import Hybrid, NetworkConfig
from intermodal.nn.speech_encoders import CNNEncoderConfig, LSTMEncoderConfig, SpeechEncoderConfig
from intermodal.nn.speech_features import FeatureConfig, SpecAugmentConfig
from intermodal.nn.spliced import SplicedEncoderConfig
from intermodal.recipes.base import Expect, OptimConfig, TrainConfig, reaches
from intermodal.recipes.hmm import HmmRecipe
from intermodal.recipes.hmm import hmm as hmm_recipe
from intermodal.recipes.hmm import hmm_digits as hmm_digits_recipe
from intermodal.recipes.speech import AN4, AN4_WORDS, FSDD, SpeechRecipe

FIRST = Path("runs/hmm")
SPEEDS = (0.9, 1.0, 1.1)


@dataclass(frozen=True, kw_only=True)
class HybridRecipe(SpeechRecipe):
    """A network on the states of a hidden Markov model, which stays as it is.

    Attributes:
        hmm: a run or checkpoint of the method hmm. None trains one first, on the same recordings, as ``first`` says, in
            seconds to minutes; again whenever the recipe is built (when a run is resumed, too; the same bits come out).
        first: how a hidden Markov model is trained where there is none; its source, rate and case are those of this recipe.
        model: the network.
    """

    method: str = "hybrid"
    hmm: Path | None = FIRST
    first: HmmRecipe
    model: NetworkConfig

    def build(self) -> Method:
        """Load or train the hidden Markov model and build the network; global normalisation is fitted on the recordings.

        Raises:
            ConfigError: if there is no hidden Markov model, or what is there is none.
        """
        hmm = self._trained()
        torch.manual_seed(self.train.seed)
        method = Hybrid.over(hmm, self.model)
        self.fit(method.features)
        return method

    def _trained(self) -> Hmm:
        if self.hmm is None:
            source = self.source.replace(speeds=(1.0,))
            return _train_hmm(self.first.replace(source=source, rate=self.rate, case=self.case))
        if self.hmm == FIRST and not self.hmm.exists():
            raise ConfigError(
                f"The recipe {self.name!r} needs a trained hidden Markov model, and there is none at {self.hmm}: run "
                f"`intermodal train hmm --run {self.hmm}` first, name another with --hmm, or have one trained (--hmm None)."
            )
        found = load(self.hmm)
        if not isinstance(found, Hmm):
            raise ConfigError(
                f"{self.hmm} holds the method {found.id!r}: a hybrid learns the states of an hmm. Name one with --hmm."
            )
        return found

    def evaluate(self, method: Method, split: str, progress: Progress) -> Evaluation:
        """Judge by word errors, with and without a language model of the training transcripts."""
        return evaluate_recogniser(method, self.source, split, progress, full=split == self.final_split)

    def on(self, source: SourceConfig) -> Self:
        """Return the recipe on other recordings: their hidden Markov model is trained first, letters stand for phones."""
        speeds = self.source.speeds
        own = super().on(source)
        assert isinstance(source, type(self.source))
        return own.replace(source=source.replace(speeds=speeds), hmm=None, first=self.first.on(source))

    def smoke(self) -> Self:
        """Return the same path with a network and a hidden Markov model that take seconds."""
        encoder = self.model.encoder.replace(width=32, depth=1, dropout=0.0)
        plan = HmmPlan(passes=1, splits=0, tied_states=0, last_passes=0)
        return self.replace(
            hmm=None,
            first=self.first.smoke().replace(plan=plan, train__steps=1),
            model__encoder=encoder,
            train__steps=4,
            train__batch_size=4,
            train__eval_every=0,
            train__log_every=1,
            expect=(),
        )


@functools.lru_cache(maxsize=2)
def _train_hmm(recipe: HmmRecipe) -> Hmm:
    """Train a hidden Markov model natively, without a run; the last two are kept in memory."""
    method = recipe.build()
    assert isinstance(method, Hmm)
    with tempfile.TemporaryDirectory() as folder:
        engine = recipe.engine(method, Path(folder), silent)
        try:
            for step in range(recipe.train.steps):
                engine.step(step)
        finally:
            engine.close()
    return method.eval()


HEARD = FeatureConfig(bins=40, cmvn="utterance")
HIDDEN = SpecAugmentConfig(time_masks=2, time_width=20, time_share=0.1, frequency_masks=2, frequency_width=8)


def _an4(
    name: str,
    encoder: SpeechEncoderConfig,
    expect: tuple[Expect, ...],
    *,
    steps: int,
    batch_size: int = 16,
    lr: float = 2e-3,
) -> HybridRecipe:
    return HybridRecipe(
        name=name,
        expect=expect,
        source=AN4.replace(speeds=SPEEDS),
        first=hmm_recipe(),
        model=NetworkConfig(features=HEARD, encoder=encoder, augment=HIDDEN),
        optim=OptimConfig(lr=lr, betas=(0.9, 0.98), weight_decay=0.05, warmup=50, clip_norm=1.0, ema=0.995),
        train=TrainConfig(
            steps=steps,
            batch_size=batch_size,
            precision="bf16",
            log_every=20,
            eval_every=steps // 4,
            checkpoint_every=steps // 4,
        ),
    )


def hybrid_dnn() -> HybridRecipe:
    """A deep network over 21 spliced frames, on the states of the recipe hmm. ``intermodal train hybrid-dnn --hmm RUN``."""
    encoder = SplicedEncoderConfig(width=512, depth=4, context=10, dropout=0.1)
    return _an4("hybrid-dnn", encoder, reaches("wer", 0.11, 0.19, AN4_WORDS, 7.0), steps=3600, batch_size=8)


def hybrid_tdnn() -> HybridRecipe:
    """A time-delay network of dilated convolutions, on the same states. ``intermodal train hybrid-tdnn --hmm RUN``."""
    encoder = CNNEncoderConfig(
        width=320, subsampling=2, depth=6, kernel=3, dilations=(1, 1, 2, 2, 3, 4), separable=False, dropout=0.2
    )
    return _an4("hybrid-tdnn", encoder, reaches("wer", 0.045, 0.09, AN4_WORDS, 6.6), steps=2400)


def hybrid_lstm() -> HybridRecipe:
    """Two bidirectional LSTMs, on the same states. ``intermodal train hybrid-lstm --hmm RUN``."""
    encoder = LSTMEncoderConfig(width=320, subsampling=2, depth=2, dropout=0.3)
    return _an4("hybrid-lstm", encoder, reaches("wer", 0.045, 0.09, AN4_WORDS, 6.6), steps=2400)


def hybrid() -> HybridRecipe:
    """The best of the three networks on AN4 (needs ``INTERMODAL_DATA``), on the states of the recipe hmm.

    ``intermodal train hmm --run runs/hmm``, then ``intermodal train hybrid``; ``--data FOLDER`` trains both on your own
    recordings with transcripts, with letters for phones or with a dictionary (``first.lexicon=words.dic``).
    """
    return hybrid_lstm().replace(name="hybrid")


def hybrid_digits() -> HybridRecipe:
    """Spoken digits of FSDD, 8 kHz: a network on the states of whole-word models, which are trained first.

    ``intermodal train hybrid-digits``.
    """
    encoder = CNNEncoderConfig(
        width=128, subsampling=2, depth=4, kernel=5, dilations=(1, 2), separable=False, dropout=0.2
    )
    return HybridRecipe(
        name="hybrid-digits",
        source=FSDD.replace(speeds=SPEEDS, validation_share=0.0),
        rate=8000,
        case="lower",
        hmm=None,
        first=hmm_digits_recipe(),
        model=NetworkConfig(
            features=FeatureConfig(rate=8000, bins=40, log="db", top_db=40.0, cmvn="utterance"),
            encoder=encoder,
            augment=SpecAugmentConfig(time_masks=1, time_width=8, frequency_masks=2, frequency_width=8),
            search=GraphConfig(grammar="single"),
        ),
        optim=OptimConfig(lr=2e-3, betas=(0.9, 0.98), weight_decay=0.05, warmup=50, clip_norm=1.0, ema=0.99),
        train=TrainConfig(steps=800, batch_size=64, log_every=20, eval_every=0, checkpoint_every=200),
    )
