"""Recipe of the variational principle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from intermodal.core.progress import Progress
from intermodal.data.source import SourceConfig
from intermodal.data.transforms import ImageAugment
from intermodal.evaluate.elbo import extras
from intermodal.evaluate.result import Panel
from intermodal.methods.image_tokenizers.elbo import ELBO, ELBOConfig
from intermodal.methods.image_tokenizers.tokenizer import ImageTokenizer
from intermodal.recipes.base import OptimConfig, TrainConfig
from intermodal.recipes.image_tokenizers import TokenizerRecipe, expected


@dataclass(frozen=True, kw_only=True)
class ELBORecipe(TokenizerRecipe):
    """A linear-Gaussian model of small pictures.

    The pictures are not flipped at random: the most likely model is computed from the very same pictures.

    Attributes:
        model: the size of the latent, and the inference.
    """

    method: str = "elbo"
    model: ELBOConfig
    augment: ImageAugment | None = None
    size: int = 16

    def extras(
        self, method: ImageTokenizer, split: str, progress: Progress, *, full: bool
    ) -> tuple[dict[str, float], list[Panel]]:
        """Add bounds, likelihood, their gap, and the distance from the most likely model."""
        assert isinstance(method, ELBO)
        return extras(method, self.source, split, progress, full=full)

    def on(self, source: SourceConfig) -> Self:
        """Return the recipe on other data, at the same size: every number of a picture is a row of W."""
        return super().on(source).replace(size=self.size)

    def smaller(self) -> dict[str, Any]:
        """Return a model of few numbers."""
        return {"size": 8, "model__latent_dim": 4}


def elbo() -> ELBORecipe:
    """A linear-Gaussian model of the shipped emoji set, 16 x 16, whose bound, likelihood and maximum are known.

    ``intermodal train elbo``; ``--model.inference per-sample``, ``--model.covariance diagonal`` and ``--model.samples 64``
    change how q is found and which bound is climbed; ``--data FOLDER`` trains it on your own pictures.
    """
    return ELBORecipe(
        name="elbo",
        model=ELBOConfig(latent_dim=32),
        optim=OptimConfig(lr=1e-2, betas=(0.9, 0.99), weight_decay=0.0, warmup=50, ema=0.99),
        train=TrainConfig(steps=4000, batch_size=128, log_every=50, eval_every=1000, checkpoint_every=1000),
        expect=expected(19.9, 1.9),
    )
