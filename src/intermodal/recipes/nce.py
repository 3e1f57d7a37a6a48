"""Recipes of noise-contrastive estimation: a language model of words, and a density of the plane that is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from intermodal.core.config import Config
from intermodal.core.errors import DataError
from intermodal.core.progress import Progress
from intermodal.data.densities import DensitySource, PointProcessor
from intermodal.data.processors import TextProcessor
from intermodal.data.source import SourceConfig
from intermodal.data.text import TextSource
from intermodal.data.tokenizers import special_ids, train_word_level
from intermodal.evaluate.density import evaluate_density
from intermodal.evaluate.language_model import encode_texts, evaluate_language_model
from intermodal.evaluate.normaliser import SIZES, normaliser_lines, study_normaliser
from intermodal.evaluate.result import Evaluation
from intermodal.methods.base import Method
from intermodal.methods.contrastive.nce import NCE, NCEConfig
from intermodal.nn.energy import MLPEnergyConfig
from intermodal.nn.language import WordModelConfig
from intermodal.recipes.base import Expect, OptimConfig, Recipe, TrainConfig
from intermodal.recipes.word2vec import shipped_text

SAMPLES = 4096
"""Of the model, counted for a picture."""
NOISE_WIDTH = 1.2
"""The noise of points is wider than the data by this factor, so that it covers their tails."""


@dataclass(frozen=True, kw_only=True)
class VocabularyConfig(Config):
    """The words or tokens that a language model knows.

    Attributes:
        size: at most so many, special tokens included.
        context_length: longest text in words, special tokens included; a longer one is cut.
    """

    size: int = 8000
    context_length: int = 48


@dataclass(frozen=True, kw_only=True)
class NCERecipe(Recipe):
    """Noise-contrastive estimation on text or on points of a known density.

    Attributes:
        model: the network and k. The vocabulary of a word model and the noise of points are set from the data.
        vocabulary: of a language model, from the training texts.
        study_sizes: points: over these sample sizes the error of a known normaliser is measured in the final evaluation.
    """

    method: str = "nce"
    model: NCEConfig
    vocabulary: VocabularyConfig = VocabularyConfig()
    study_sizes: tuple[int, ...] = SIZES

    def build(self) -> Method:
        """Read the noise from the training data, and build the network."""
        if isinstance(self.model.network, WordModelConfig):
            return self._language_model(self.model.network)
        source = self.source
        if not isinstance(source, DensitySource):
            raise DataError("This recipe learns the density of points: its source must be a DensitySource.")
        points = source.open("train").points.astype(np.float64)
        model = self.model.replace(
            noise_mean=tuple(points.mean(0).tolist()),
            noise_std=tuple((NOISE_WIDTH * points.std(0)).clip(1e-3).tolist()),
        )
        torch.manual_seed(self.train.seed)
        return NCE(model, {"point": PointProcessor(dim=points.shape[1])})

    def _language_model(self, network: WordModelConfig) -> NCE:
        texts = self.source.training_texts()
        words = train_word_level((text.lower() for text in texts), self.vocabulary.size)
        pad, eos = special_ids(words)
        text = TextProcessor(words, context_length=self.vocabulary.context_length, eos_id=eos, pad_id=pad, lower=True)
        torch.manual_seed(self.train.seed)
        model = self.model.replace(network=network.replace(vocab_size=text.vocab_size, pad_id=pad))
        method = NCE(model, {"text": text})
        ids = np.concatenate([one[1:] for one in encode_texts(texts, text)])
        method.set_noise(torch.from_numpy(np.bincount(ids, minlength=text.vocab_size)))
        return method

    def evaluate(self, method: Method, split: str, progress: Progress) -> Evaluation:
        """Judge words by perplexity, points by the distance to the true density and the learnt normaliser."""
        assert isinstance(method, NCE)
        full = split == self.final_split
        if not isinstance(self.source, DensitySource):
            return evaluate_language_model(method, self.source, split, progress, full=full)
        progress("Sampling", 0.0)
        samples = np.array(method.generate(SAMPLES if full else 256), np.float32)
        progress("Integrating", 0.5)
        learnt = float(method.log_normaliser.detach())
        result = evaluate_density(self.source, split, method.log_density, samples, learnt)
        if not full:
            return result
        studies = {
            kind: study_normaliser(kind, self.study_sizes, progress=progress) for kind in ("gaussian-1d", "gaussian")
        }
        for kind, study in studies.items():
            result.metrics[f"{kind}_slope"] = study.slope
            for size, error in zip(study.sizes, study.errors, strict=True):
                result.metrics[f"{kind}_error_{size}"] = error
        result.panels.append(normaliser_lines(studies))
        return result

    def on(self, source: SourceConfig) -> Self:
        """Return the recipe on other data.

        Raises:
            DataError: if a density is to learn from files, or a language model from points.
        """
        if isinstance(source, DensitySource) == isinstance(self.model.network, WordModelConfig):
            raise DataError(
                f"The recipe {self.name} cannot use this data: nce learns from texts, nce-density from points."
            )
        return super().on(source)

    def smoke(self) -> Self:
        """Return the same path with a network and a budget that take seconds."""
        budget = {"train__steps": 6, "train__batch_size": 16, "train__eval_every": 0, "train__log_every": 1}
        if isinstance(self.model.network, WordModelConfig):
            return self.replace(
                model__network=self.model.network.replace(width=16, hidden=16, context=3),
                model__noise_samples=5,
                vocabulary=VocabularyConfig(size=500, context_length=24),
                source=TextSource(path=shipped_text(), unit="sentence"),
                expect=(),
                **budget,
            )
        return self.replace(
            model__network=MLPEnergyConfig(dim=self.model.network.dim, width=16, depth=2, prior=None),
            source=self.source.replace(samples=256),
            study_sizes=(50, 100),
            expect=(),
            **budget,
        )


def nce() -> NCERecipe:
    """A language model of five words, on books and speeches, with no sum over its 8,000: perplexity 111 (bigram 128).

    ``intermodal train nce``, 2 minutes of one CPU core (needs ``INTERMODAL_DATA``); ``--data FILE.txt`` takes your own text.
    """
    return NCERecipe(
        name="nce",
        source=TextSource(parts=("gutenberg", "sotu"), unit="sentence", min_words=3),
        model=NCEConfig(network=WordModelConfig(vocab_size=8000, context=5, width=128, hidden=256), noise_samples=100),
        optim=OptimConfig(lr=2e-3, betas=(0.9, 0.99), weight_decay=0.01, warmup=100),
        train=TrainConfig(steps=2000, batch_size=64, precision="bf16", workers=1, log_every=20, checkpoint_every=1000),
        expect=(
            Expect(
                metric="perplexity",
                low=105.0,
                high=117.0,
                on="held-out documents",
                hardware="one CPU core",
                minutes=1.7,
            ),
        ),
    )


def nce_density() -> NCERecipe:
    """An energy of the plane and its normaliser, by telling eight bumps from noise: 0.01 nats off (a Gaussian 1.42).

    ``intermodal train nce-density``, 90 seconds of one CPU core; ``--source.kind rings`` (moons, mixture-1d) for others.
    """
    return NCERecipe(
        name="nce-density",
        source=DensitySource(kind="mixture"),
        model=NCEConfig(
            network=MLPEnergyConfig(width=128, depth=3, prior=None),
            noise_samples=10,
            noise_mean=(0.0, 0.0),
            noise_std=(1.0, 1.0),
        ),
        optim=OptimConfig(lr=2e-3, betas=(0.9, 0.99), weight_decay=0.0, warmup=50, ema=0.99),
        train=TrainConfig(steps=2000, batch_size=256, log_every=50, checkpoint_every=1000),
        expect=(
            Expect(
                metric="kl", low=0.0, high=0.03, on="eight bumps, by quadrature", hardware="one CPU core", minutes=1.4
            ),
            Expect(
                metric="normaliser_error", low=0.0, high=0.03, on="by quadrature", hardware="one CPU core", minutes=1.4
            ),
        ),
    )
