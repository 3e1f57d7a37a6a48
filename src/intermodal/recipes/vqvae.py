"""Recipes of the VQ-VAE: one codebook, residual codebooks, and none (FSQ)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from intermodal.core.progress import Progress
from intermodal.evaluate.levels import by_level
from intermodal.evaluate.result import Panel
from intermodal.methods.image_tokenizers.tokenizer import ImageTokenizer
from intermodal.methods.image_tokenizers.vqvae import VQVAEConfig
from intermodal.nn.quantizers import (
    FiniteScalarQuantizerConfig,
    QuantizerConfig,
    ResidualQuantizerConfig,
    VectorQuantizerConfig,
)
from intermodal.recipes.base import OptimConfig, TrainConfig
from intermodal.recipes.image_tokenizers import TokenizerRecipe, expected, small_network


@dataclass(frozen=True, kw_only=True)
class VQVAERecipe(TokenizerRecipe):
    """A VQ-VAE of pictures.

    Attributes:
        model: networks, quantizer and loss.
    """

    method: str = "vqvae"
    model: VQVAEConfig
    size: int = 64

    def extras(
        self, method: ImageTokenizer, split: str, progress: Progress, *, full: bool
    ) -> tuple[dict[str, float], list[Panel]]:
        """Add what each level of a residual quantizer brings."""
        return by_level(method, self.source, split, progress, full=full)

    def smaller(self) -> dict[str, Any]:
        """Return networks of few channels, and few codes."""
        changes: dict[str, Any] = {"model__network__channels": (8, 16, 16), "size": 16}
        quantizer = self.model.quantizer
        if isinstance(quantizer, VectorQuantizerConfig):
            changes["model__quantizer__codes"] = 32
        elif isinstance(quantizer, ResidualQuantizerConfig):
            changes["model__quantizer__level__codes"] = 16
        return changes


def _recipe(name: str, quantizer: QuantizerConfig, channels: tuple[int, ...], steps: int = 1200) -> VQVAERecipe:
    network = small_network(channels, quantizer.dim)
    return VQVAERecipe(
        name=name,
        model=VQVAEConfig(network=network, quantizer=quantizer),
        optim=OptimConfig(lr=1e-3, betas=(0.9, 0.99), weight_decay=0.01, warmup=100, ema=0.995),
        train=TrainConfig(
            steps=steps, batch_size=32, precision="bf16", workers=1, log_every=50, eval_every=400, checkpoint_every=400
        ),
    )


CODEBOOK = VectorQuantizerConfig(codes=512, dim=32, initial="kmeans", restart=0.1)


def vqvae() -> VQVAERecipe:
    """Pictures of 64 x 64 as 16 x 16 codes of 512 each, 0.56 bits a pixel, learnt from the shipped emoji set.

    ``intermodal train vqvae``, 8 minutes of one CPU core: 25.9 dB, every code in use. ``--data FOLDER`` trains it on your
    own pictures.
    """
    return _recipe("vqvae", CODEBOOK, (16, 32, 64)).replace(expect=expected(25.9, 8.4, usage=0.9))


def vqvae_residual() -> VQVAERecipe:
    """Pictures of 64 x 64 as 8 x 8 places with 4 codes of 512 each, every level finer: 0.14 to 0.56 bits a pixel.

    ``intermodal train vqvae-residual``, 7 minutes of one CPU core: 20.9 dB.
    """
    return _recipe(
        "vqvae-residual", ResidualQuantizerConfig(level=CODEBOOK, levels=4), (16, 32, 64, 128), steps=800
    ).replace(expect=expected(20.9, 6.5, usage=0.9))


def vqvae_fsq() -> VQVAERecipe:
    """Pictures of 64 x 64 as 16 x 16 codes of 512 each, without a codebook: three numbers of eight levels.

    ``intermodal train vqvae-fsq``, 6 minutes of one CPU core: 24.6 dB.
    """
    return _recipe("vqvae-fsq", FiniteScalarQuantizerConfig(levels=(8, 8, 8)), (16, 32, 64), steps=800).replace(
        expect=expected(24.6, 5.9, usage=0.85)
    )
