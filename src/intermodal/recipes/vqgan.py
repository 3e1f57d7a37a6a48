"""Recipes of VQGAN: the tokenizer, and the prior over the codes of a trained tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.core.progress import Progress
from intermodal.data.processors import ImageProcessor, LabelProcessor
from intermodal.decode.sampling import Sampling
from intermodal.evaluate.prior import evaluate_prior
from intermodal.evaluate.result import Evaluation
from intermodal.hub.load import load
from intermodal.methods.base import Method
from intermodal.methods.image_tokenizers.over_codes import OverCodes
from intermodal.methods.image_tokenizers.prior import ANY, CodePrior
from intermodal.methods.image_tokenizers.tokenizer import ImageTokenizer
from intermodal.methods.image_tokenizers.vqgan import VQGAN, VQGANConfig
from intermodal.nn.causal import CausalConfig
from intermodal.nn.discriminator import PatchDiscriminatorConfig
from intermodal.nn.quantizers import VectorQuantizerConfig
from intermodal.recipes.base import OptimConfig, TrainConfig
from intermodal.recipes.image_tokenizers import TokenizerRecipe, expected, small_network

FIRST = "runs/vqgan"


@dataclass(frozen=True, kw_only=True)
class VQGANRecipe(TokenizerRecipe):
    """A VQGAN of pictures.

    Attributes:
        model: networks, quantizer, discriminator and losses.
    """

    method: str = "vqgan"
    model: VQGANConfig
    size: int = 64

    def smaller(self) -> dict[str, Any]:
        """Return networks of few channels and few codes, and a discriminator that counts from the first step."""
        return {"model": TINY, "size": 32}


TINY = VQGANConfig(
    network=small_network((8, 16, 16), 8, groups=4),
    quantizer=VectorQuantizerConfig(codes=32, dim=8),
    discriminator=PatchDiscriminatorConfig(channels=8, layers=2),
    adversarial=0.1,
    start=0.0,
)
"""A tokenizer for trying things out."""


@dataclass(frozen=True, kw_only=True)
class PriorConfig(Config):
    """A prior over the codes of a tokenizer.

    Attributes:
        tokenizer: a run or checkpoint whose latent is of codes (vqgan, vqvae, dvae), a published VQModel folder, or a hub
            id. None takes an untrained one of tiny networks, which is good for nothing but trying things out.
        network: the transformer; what follows from the codes is set.
        sampling: how a code is chosen when pictures are made.
        labels: let it take the class of a picture, where the data has classes.
        unlabelled: with classes, the share of the training pictures whose class is not told.
    """

    tokenizer: str | None = FIRST
    network: CausalConfig
    sampling: Sampling = ANY
    labels: bool = False
    unlabelled: float = 0.1


@dataclass(frozen=True, kw_only=True)
class CodePriorRecipe(TokenizerRecipe):
    """An autoregressive transformer over the codes of a trained tokenizer, which stays as it is.

    Pictures have the size that the tokenizer was trained on; ``size`` and ``resize`` are those of one that is not trained.

    Attributes:
        model: the tokenizer and the transformer.
    """

    method: str = "vqgan"
    model: PriorConfig

    def build(self) -> Method:
        """Load the tokenizer, read the classes where they are asked for, and build the transformer.

        Raises:
            ConfigError: if there is no tokenizer, or what is there is none, or its latent is of real numbers.
            DataError: if classes are asked for and the data has none.
        """
        tokenizer, labels = frozen_tokenizer(self.model.tokenizer, self.processor(), self.train.seed, self.name), None
        if self.model.labels:
            source = self.source.open("train")
            if "label" not in source.fields:
                raise DataError(f"{source.name} has no classes: train the prior without them (--model.no-labels).")
            labels = LabelProcessor.of(source.labels())
        torch.manual_seed(self.train.seed)
        return CodePrior.over(
            tokenizer,
            self.model.network,
            labels=labels,
            sampling=self.model.sampling,
            unlabelled=self.model.unlabelled,
        )

    def evaluate(self, method: Method, split: str, progress: Progress) -> Evaluation:
        """Judge by the bits that held-out pictures' codes need, and by samples."""
        assert isinstance(method, CodePrior)
        return evaluate_prior(method, self.source, split, progress, full=split == self.final_split)

    def smaller(self) -> dict[str, Any]:
        """Return a narrow transformer over the codes of an untrained tokenizer."""
        network = self.model.network.replace(width=32, depth=1, heads=2, dropout=0.0, attention_dropout=0.0)
        return {"model__tokenizer": None, "model__network": network, "size": 32}


def frozen_tokenizer(path: str | None, picture: ImageProcessor, seed: int, recipe: str) -> ImageTokenizer:
    """Return a trained tokenizer for a model over its codes, without what only trains it.

    Args:
        path: a run, checkpoint, published folder or hub id; None for an untrained one of tiny networks.
        picture: the processor of one that is not trained.
        seed: of its weights.
        recipe: who asks, for errors.

    Raises:
        ConfigError: if there is none, or what is there is none.
    """
    if path is None:
        torch.manual_seed(seed)
        return VQGAN(TINY, {"image": picture}).bare()
    if path.startswith("runs/") and not Path(path).exists():
        raise ConfigError(
            f"The recipe {recipe!r} needs a trained tokenizer, and there is none at {path}: run `intermodal train "
            f"vqgan --run {path}` first, or name another with --model.tokenizer."
        )
    tokenizer = load(path)
    if isinstance(tokenizer, OverCodes) or not isinstance(tokenizer, ImageTokenizer):
        raise ConfigError(
            f"{path} holds the method {tokenizer.id!r}, which is no tokenizer to learn a prior for: name a vqgan, vqvae "
            "or dvae with --model.tokenizer."
        )
    return tokenizer.bare() if isinstance(tokenizer, VQGAN) else tokenizer


def vqgan() -> VQGANRecipe:
    """Pictures of 64 x 64 as 8 x 8 codes of 512 each, 0.14 bits a pixel, sharpened by a discriminator.

    ``intermodal train vqgan``, on the shipped emoji set, 9 minutes of one CPU core: 19.8 dB, every code in use, and sharp.
    ``--data FOLDER`` trains it on your own pictures.
    """
    return VQGANRecipe(
        name="vqgan",
        model=VQGANConfig(
            network=small_network((16, 32, 64, 128), 32, mid_attention=True),
            quantizer=VectorQuantizerConfig(codes=512, dim=32, initial="kmeans", restart=0.1),
            discriminator=PatchDiscriminatorConfig(channels=32, layers=2),
            perceptual=0.2,
            adversarial=0.5,
            start=0.4,
        ),
        optim=OptimConfig(lr=1e-3, betas=(0.5, 0.9), weight_decay=0.01, warmup=100, ema=0.995),
        train=TrainConfig(
            steps=800, batch_size=32, precision="bf16", workers=1, log_every=50, eval_every=400, checkpoint_every=400
        ),
        expect=expected(19.8, 9.3, usage=0.9),
    )


def vqgan_prior() -> CodePriorRecipe:
    """New emoji, code by code: a transformer over the codes of the recipe vqgan.

    ``intermodal train vqgan-prior --model.tokenizer RUN``, where RUN is a trained tokenizer's (``runs/vqgan`` by default),
    6 minutes of one CPU core: 380 bits a picture, where codes without context take 517.
    """
    return CodePriorRecipe(
        name="vqgan-prior",
        model=PriorConfig(
            network=CausalConfig(width=256, depth=6, heads=8, dropout=0.1, attention_dropout=0.1),
        ),
        optim=OptimConfig(lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, warmup=100, ema=0.995),
        train=TrainConfig(
            steps=800, batch_size=32, precision="bf16", workers=1, log_every=50, eval_every=400, checkpoint_every=400
        ),
    )
