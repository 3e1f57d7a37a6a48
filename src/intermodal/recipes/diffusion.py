"""Recipes of diffusion in pixels: DDPM, DDIM, and text to image by classifier-free guidance."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from intermodal.core.config import Config
from intermodal.core.drawing import Drawing
from intermodal.core.progress import Progress
from intermodal.core.registry import load_class
from intermodal.diffusion.predictions import Kind
from intermodal.diffusion.settings import ScheduleConfig
from intermodal.evaluate.diffusion import study
from intermodal.evaluate.generation import evaluate_generation
from intermodal.evaluate.result import Evaluation
from intermodal.methods.base import Method
from intermodal.methods.image_generation.cfg import CFGConfig
from intermodal.methods.image_generation.ddim import DDIMConfig
from intermodal.methods.image_generation.ddpm import DDPM, DDPMConfig
from intermodal.nn.unet import UNetConfig
from intermodal.recipes.base import OptimConfig, TrainConfig
from intermodal.recipes.image_generation import FLIPPED, GeneratorRecipe, TextChoice, expected, text_encoder

SMALL = UNetConfig(channels=(32, 64, 128), blocks=1, attention=(2,), groups=8, head_width=32, dropout=0.1)
"""For 32 x 32 pictures: levels of 32, 16 and 8, attention at the last."""
TINY = UNetConfig(channels=(8, 16), blocks=1, attention=(1,), groups=4, head_width=8)
"""For trying things out."""
ADAM = OptimConfig(lr=1e-3, betas=(0.9, 0.99), weight_decay=0.01, warmup=200, ema=0.999)
"""What the three recipes descend with; what draws is the average of the weights."""


@dataclass(frozen=True, kw_only=True)
class DiffusionRecipe(GeneratorRecipe):
    """A diffusion model of pictures.

    Attributes:
        network: the U-Net; what follows from the texts and the variance is set.
        told: how the network is told a text: ``tokens`` that it attends to, one ``vector`` beside the time, or ``both``.
        schedule: of the noise.
        predicts: what the network says: ``eps``, ``x0``, ``v`` or ``flow``.
        learns_variance: whether it says the variance of a step back as well.
        min_snr: gamma of the Min-SNR weights; None weighs every step's error alike.
        drawing: how pictures are drawn.
    """

    method: str = "ddpm"
    network: UNetConfig = SMALL
    told: Literal["tokens", "vector", "both"] = "both"
    schedule: ScheduleConfig = ScheduleConfig()
    predicts: Kind = "eps"
    learns_variance: bool = False
    min_snr: float | None = None
    drawing: Drawing = Drawing(steps=1000, sampler="ddpm", precision="bf16")

    def build(self) -> Method:
        """Read or build the text encoder, and build the U-Net."""
        network, text, weights = self.sized(), None, None
        processors: dict[str, Any] = {"image": self.processor()}
        if self.texts is not None:
            text, weights, processors["text"] = text_encoder(self.texts, self.source, self.name)
            network = network.replace(
                context_dim=None if self.told == "vector" else text.tower.width,
                class_kind=None if self.told == "tokens" else "vector",
            )
        self.seeded()
        cls = load_class(self.method)
        model: DDPM = cls(self.configuration(network=network, text=text), processors)
        if weights is not None:
            assert model.text is not None
            model.text.tower.load_state_dict(weights)
        return model

    def sized(self) -> UNetConfig:
        """Return the network's configuration with as many channels as are predicted."""
        return self.network.replace(out_channels=6 if self.learns_variance else 3)

    def configuration(self, **parts: Any) -> Config:
        """Return the method's configuration, with the network and the text encoder given."""
        return DDPMConfig(**self.settings(), **parts)

    def settings(self) -> dict[str, Any]:
        """Return the settings that the methods have in common."""
        names = ("schedule", "predicts", "learns_variance", "min_snr", "drawing")
        return {name: getattr(self, name) for name in names}

    def evaluate(self, method: Method, split: str, progress: Progress) -> Evaluation:
        """Judge by pictures for held-out texts, and in the end by what is particular to the method."""
        assert isinstance(method, DDPM)
        full = split == self.final_split
        steps = self.drawing.steps if full else min(25, self.drawing.steps)
        result = evaluate_generation(
            method,
            self.source,
            split,
            progress,
            full=full,
            count=self.count,
            drawing=self.drawing.replace(steps=steps),
            judge=self.judge,
        )
        if not full:
            return result
        metrics, panels = study(method, self.source, split, progress, count=self.count)
        return dataclasses.replace(result, metrics={**result.metrics, **metrics}, panels=[*result.panels, *panels])

    def smaller(self) -> dict[str, Any]:
        """Return a narrow network and few steps."""
        return {"network": TINY, "drawing": self.drawing.replace(steps=4)}


@dataclass(frozen=True, kw_only=True)
class DDIMRecipe(DiffusionRecipe):
    """A diffusion model that draws without chance."""

    method: str = "ddim"
    predicts: Kind = "v"
    min_snr: float | None = 5.0
    drawing: Drawing = Drawing(steps=50, sampler="ddim", precision="bf16")

    def configuration(self, **parts: Any) -> Config:
        """Return the method's configuration."""
        return DDIMConfig(**self.settings(), **parts)


@dataclass(frozen=True, kw_only=True)
class CFGRecipe(DDIMRecipe):
    """Text to image with classifier-free guidance.

    Attributes:
        drop: the share of the training pictures whose text is not told.
    """

    method: str = "cfg"
    texts: TextChoice | None = TextChoice()
    drop: float = 0.1
    drawing: Drawing = Drawing(steps=50, sampler="ddim", guidance=2.0, precision="bf16")

    def configuration(self, **parts: Any) -> Config:
        """Return the method's configuration."""
        return CFGConfig(drop=self.drop, **self.settings(), **parts)


def ddpm() -> DiffusionRecipe:
    """New emoji of 32 x 32 from noise, a step of 1,000 at a time or every fourth, and how many bits a picture takes.

    ``intermodal train ddpm``, 19 minutes of one CPU core: Fréchet distance 1.15 (training pictures 0.48, a Gaussian of the
    pixels 2.96), 2.93 bits per dimension (PNG 3.29). ``--data FOLDER`` trains it on your own pictures.
    """
    return DiffusionRecipe(
        name="ddpm",
        learns_variance=True,
        drawing=Drawing(steps=250, sampler="ddpm", precision="bf16"),
        augment=FLIPPED,
        optim=ADAM,
        train=TrainConfig(
            steps=1600, batch_size=64, precision="bf16", workers=1, log_every=50, eval_every=0, checkpoint_every=400
        ),
        expect=expected(1.15, 19),
    )


def ddim() -> DDIMRecipe:
    """New emoji of 32 x 32 from noise in 50 steps without chance, inverted and interpolated.

    ``intermodal train ddim``, 14 minutes of one CPU core: Fréchet distance 1.41 (training pictures 0.48, a Gaussian of the
    pixels 2.96). ``--data FOLDER`` trains it on your own pictures.
    """
    return DDIMRecipe(
        name="ddim",
        augment=FLIPPED,
        optim=ADAM,
        train=TrainConfig(
            steps=1200, batch_size=64, precision="bf16", workers=1, log_every=50, eval_every=0, checkpoint_every=400
        ),
        expect=expected(1.41, 14),
    )


def cfg() -> CFGRecipe:
    """Emoji of 32 x 32 from a text, guided: the encoder is the text tower of the recipe ``clip``.

    ``intermodal train cfg``, after ``intermodal train clip --run runs/clip``, 41 minutes of one CPU core: Fréchet distance
    0.66 (training pictures 0.48, a Gaussian of the pixels 2.96). ``--texts.encoder None`` trains an encoder along instead,
    and ``--data FOLDER`` trains on your own captioned pictures.
    """
    return CFGRecipe(
        name="cfg",
        texts=TextChoice(encoder="runs/clip"),
        optim=ADAM,
        train=TrainConfig(
            steps=3000, batch_size=64, precision="bf16", workers=1, log_every=50, eval_every=0, checkpoint_every=500
        ),
        expect=expected(0.66, 41),
    )
