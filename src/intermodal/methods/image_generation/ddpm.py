"""DDPM: a network learns to take noise away, and pictures are what is left when noise is taken from noise (Ho et al. 2020).

The forward process has nothing to learn: ``x_t = alpha_t x_0 + sigma_t eps``. The network is shown x_t and t and says what
of it is noise (or signal, or v). With the learnt variance of Nichol & Dhariwal 2021 it says how sure it is as well. The
reverse process draws a picture step by step, each step a normal distribution.

A text, where there is one, is told to the network as tokens that the picture attends to, as one vector beside the time, or
as both: whichever the U-Net's configuration asks for.

B pictures   C, H, W channels, height and width of a picture   L tokens of a text, E their width   T steps
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor, nn

from intermodal.core.config import Config
from intermodal.core.drawing import Drawing
from intermodal.core.errors import ConfigError
from intermodal.core.fields import SEED, Field
from intermodal.core.registry import MethodCard
from intermodal.data.processors import Processor
from intermodal.diffusion.bound import Bound, variational_bound
from intermodal.diffusion.denoiser import Cond, Constrained, Denoiser, NetworkDenoiser, clip
from intermodal.diffusion.grids import BY_RATIO, from_strength
from intermodal.diffusion.objectives import hybrid_loss, min_snr_weight, simple_loss, variance_loss
from intermodal.diffusion.predictions import Kind, check_kind, target
from intermodal.diffusion.process import diffuse
from intermodal.diffusion.samplers.common import wide
from intermodal.diffusion.schedules import DiscreteSchedule, Schedule
from intermodal.diffusion.settings import ScheduleConfig, grid_of
from intermodal.methods.base import Batch, Losses, generator_of
from intermodal.methods.image_generation.stepwise import StepwiseGenerator
from intermodal.methods.image_generation.text import (
    TEXT,
    TextCondition,
    TextEncoder,
    TextEncoderConfig,
    checked_prompts,
)
from intermodal.methods.image_tokenizers.tokenizer import IMAGE, evaluating
from intermodal.nn.unet import UNet, UNetConfig

CARD = MethodCard(
    id="ddpm",
    title="DDPM: pictures by denoising, with a learnt variance and the likelihood's bound",
    paper="Ho et al. 2020; Nichol & Dhariwal 2021",
    cls="DDPM",
    capabilities=("generate", "draw", "interpolate"),
    recipes=("ddpm",),
    reference="diffusers DDPMPipeline, DDPMScheduler, UNet2DModel",
)
CONTINUOUS_SCALE = 1000.0
"""What continuous times are multiplied by before the network is told."""


@dataclass(frozen=True, kw_only=True)
class DDPMConfig(Config):
    """A diffusion model of pictures.

    Attributes:
        network: the U-Net. Of a text it reads tokens if ``context_dim`` is the text encoder's width, and the one vector if
            ``class_kind`` is ``vector``. ``out_channels`` is that of pictures, twice as many with a learnt variance.
        text: the encoder of texts; None for a model that takes none.
        schedule: of the noise.
        predicts: what the network says: ``eps`` (the paper), ``x0``, ``v`` or ``flow``.
        learns_variance: let the network say the variance of a step back as well, between the two that bound it.
        variance: of a step back where none is learnt: ``small`` (the posterior's) or ``large`` (the forward step's).
        min_snr: gamma of the Min-SNR weights; None weighs every step's error alike.
        bound_weight: of the variational bound in the hybrid loss, from which the variance learns.
        drawing: how pictures are drawn if nothing else is asked.

    Raises:
        ConfigError: if parts do not fit each other.
    """

    network: UNetConfig
    text: TextEncoderConfig | None = None
    schedule: ScheduleConfig = ScheduleConfig()
    predicts: Kind = "eps"
    learns_variance: bool = False
    variance: Literal["small", "large"] = "small"
    min_snr: float | None = None
    bound_weight: float = 0.001
    drawing: Drawing = Drawing(steps=1000, sampler="ddpm")

    def __post_init__(self) -> None:
        check_kind(self.predicts)
        network, wanted = self.network, 6 if self.learns_variance else 3
        if network.in_channels != 3 or network.out_channels != wanted:
            raise ConfigError(
                f"DDPM: the network must take 3 channels and give {wanted}, found {network.in_channels} and "
                f"{network.out_channels}."
            )
        if network.classes is not None or network.class_kind in ("label", "time"):
            raise ConfigError(
                "DDPM: beside the time the network is told a text or nothing, no class and no second time."
            )
        told = {"a context": network.context_dim is not None, "a vector": network.class_kind == "vector"}
        if (self.text is None) == any(told.values()):
            asked = " and ".join(name for name, is_told in told.items() if is_told) or "neither a context nor a vector"
            have = "no text encoder" if self.text is None else "a text encoder"
            raise ConfigError(f"DDPM: the network reads {asked}, and there is {have}.")
        if self.text is not None and network.context_dim not in (None, self.text.tower.width):
            raise ConfigError(
                f"DDPM: the text's tokens have {self.text.tower.width} numbers, the network reads {network.context_dim}."
            )
        schedule = self.schedule.build()
        begins = schedule.discrete or self.drawing.spacing not in BY_RATIO
        if self.predicts == "eps" and begins and float(schedule.level(schedule.t_max).alpha) == 0:
            raise ConfigError(
                "DDPM: a network that predicts eps cannot say what the picture is in noise alone, where this schedule ends "
                "(zero terminal SNR): predict v, x0 or flow."
            )
        if self.learns_variance and not isinstance(schedule, DiscreteSchedule):
            raise ConfigError("DDPM: a variance is learnt for the steps of a chain: choose a schedule with steps.")
        if self.drawing.guidance != 1 and not self.guides:
            raise ConfigError("DDPM: without texts there is nothing to guide by.")

    @property
    def guides(self) -> bool:
        """Whether there is something to guide by."""
        return self.text is not None


class DDPM(StepwiseGenerator):
    """A U-Net, a schedule and perhaps a text encoder; see the module's text.

    Args:
        config: the networks and the process.
        processors: ``image`` with values in -1..1, and ``text`` where there is an encoder.
    """

    id = "ddpm"
    config: DDPMConfig

    def __init__(self, config: DDPMConfig, processors: Mapping[str, Processor]) -> None:
        super().__init__(config, processors)
        self.schedule: Schedule = config.schedule.build()
        self.variance = "learned_range" if config.learns_variance else config.variance
        self.network = UNet(config.network)
        self.text = None if config.text is None else TextEncoder(config.text)
        self.pooled: nn.Linear | None = None
        if self.text is not None and config.network.class_kind == "vector":
            self.pooled = nn.Linear(self.text.width, config.network.width)
        self.takes_prompt = self.text is not None
        told: dict[str, Field] = {} if self.text is None else {"text": TEXT}
        self.needs = {"image": IMAGE, **told, "seed": SEED}
        self._seen: dict[str, Tensor] = {}

    @property
    def drawing(self) -> Drawing:
        """The model's own settings."""
        return self.config.drawing

    # --8<-- [start:loss]
    def loss(self, batch: Batch) -> Losses:
        """Return the loss of prepared pictures ``(B, C, H, W)``, each at a step of its own with noise of its own."""
        config, generator, x0_BCHW = self.config, generator_of(batch), batch["image"]
        t_B = self.schedule.draw(len(x0_BCHW), generator)
        level = self.schedule.level(t_B)
        eps_BCHW = torch.randn(x0_BCHW.shape, generator=generator).to(x0_BCHW)
        x_BCHW = diffuse(x0_BCHW, eps_BCHW, level)

        told = self.told(batch, generator)
        output = self.predict(x_BCHW, (t_B * self.time_scale).to(x_BCHW.device, torch.float32), told)
        output, variance = output.chunk(2, 1) if config.learns_variance else (output, None)

        weight_B = None if config.min_snr is None else min_snr_weight(config.predicts, level, config.min_snr)
        total = simple_loss(output, config.predicts, x0_BCHW, eps_BCHW, level, weight_B=weight_B)
        parts = {"error": total.detach()}
        if variance is not None:
            assert isinstance(self.schedule, DiscreteSchedule)
            bits = variance_loss(
                wide(variance), wide(output), config.predicts, x0_BCHW, x_BCHW, schedule=self.schedule, step_B=t_B
            )
            total, parts["bound"] = hybrid_loss(total, bits, config.bound_weight), bits.detach()
        # --8<-- [end:loss]
        with torch.no_grad():
            wanted = target(config.predicts, x0_BCHW, eps_BCHW, level).float()
            parts["share"] = (output.float() - wanted).square().mean() / wanted.square().mean()
        self._seen = parts
        return Losses(total, parts)

    def told(self, batch: Batch, generator: torch.Generator) -> Cond:
        """Return what the network is told of a batch's texts in training: all of it."""
        del generator
        return None if self.text is None else self.text(batch["text"])

    def predict(self, x_BCHW: Tensor, t_B: Tensor, cond: Cond = None) -> Tensor:
        """Return the network's output for noisy pictures, their times and a :class:`TextCondition`."""
        if cond is None:
            return self.network(x_BCHW, t_B)
        text = TextCondition(*cond)
        vector_BD = None if self.pooled is None else self.pooled(text.pooled)
        if self.config.network.context_dim is None:
            return self.network(x_BCHW, t_B, vector_BD)
        return self.network(x_BCHW, t_B, vector_BD, context_BSE=text.tokens, mask_BS=text.mask)

    @property
    def time_scale(self) -> float:
        """What times are multiplied by before the network is told."""
        return 1.0 if self.schedule.discrete else CONTINUOUS_SCALE

    def condition(self, texts: Sequence[str]) -> Cond:
        """Return what the network is told of texts; of an empty one, that there is nothing in it."""
        return None if self.text is None else self.text(self.tokens_of(texts))

    def plain_denoiser(self) -> NetworkDenoiser:
        """Return the network as a denoiser, with nothing around it."""
        return NetworkDenoiser(
            self.predict,
            self.config.predicts,
            self.schedule,
            learns_variance=self.config.learns_variance,
            time_scale=self.time_scale,
        )

    def guided(self, drawing: Drawing) -> Denoiser:
        """Return the network as a denoiser: there is nothing to guide by."""
        del drawing
        return self.plain_denoiser()

    @torch.no_grad()
    def bound(
        self,
        image_BCHW: Tensor,
        generator: torch.Generator,
        *,
        texts: Sequence[str] = (),
        steps: Sequence[int] | None = None,
    ) -> Bound:
        """Return the variational bound of prepared pictures in bits per dimension, term by term (Ho et al. 2020, eq. 5).

        The model that it bounds keeps what the network says to the range of pixels, as the published code does: near noise
        alone a network that predicts eps may say any signal.

        Args:
            image_BCHW: from eight-bit pictures.
            generator: of the noise.
            texts: one for each, for a model that takes texts.
            steps: which of the T terms to evaluate, one pass of the network each; all by default.

        Raises:
            ConfigError: if the schedule is continuous.
        """
        if not isinstance(self.schedule, DiscreteSchedule):
            raise ConfigError("The bound is that of a chain: this model's schedule is continuous.")
        cond = None if self.text is None else self.condition(texts or [""] * len(image_BCHW))
        with evaluating(self):
            return variational_bound(
                Constrained(self.plain_denoiser(), clip()),
                image_BCHW,
                self.schedule,
                generator,
                variance=self.variance,
                steps=steps,
                cond=cond,
            )

    # --8<-- [start:interpolate]
    @torch.no_grad()
    def interpolate(
        self, first: Any, second: Any, count: int, *, seed: int = 0, drawing: Drawing | None = None, depth: float = 0.5
    ) -> list[Image.Image]:
        """Return pictures between two pictures, or between two texts, as PIL images.

        Pictures are both brought to the same step with noise of their own, mixed along a straight line, and denoised
        (Ho et al. 2020, section 4.3). Texts are mixed as the network is told them, with the same noise for all.

        Args:
            first: a PIL image, or a text.
            second: another, of the same kind.
            count: how many, at least 2; the first and the last have passed through the noise as well.
            seed: of the noise.
            drawing: steps, sampler and so on; the model's own by default.
            depth: of pictures, how far into the noise, above 0 to 1: coarser and coarser features are invented anew.

        Raises:
            DataError: if the two are of different kinds, or texts for a model that takes none, or ``count`` is below 2.
        """
        chosen = self.checked(drawing)
        pictures, shares = self.ends(first, second, count)
        with evaluating(self):
            if not pictures:
                return self.between_texts(first, second, shares, seed, chosen)
            grid = from_strength(grid_of(self.schedule, chosen), depth)
            generators = [torch.Generator().manual_seed(seed) for _ in shares]
            image_2CHW = self.picture([first, second]).to(self._like())
            eps_2CHW = torch.randn(image_2CHW.shape, generator=torch.Generator().manual_seed(seed)).to(image_2CHW)
            x_2CHW = diffuse(image_2CHW, eps_2CHW, grid[0])
            x_BCHW = torch.stack([torch.lerp(x_2CHW[0], x_2CHW[1], share) for share in shares])
            return self._pictures(self.sampled(x_BCHW, [""] * count, grid, chosen, noise=generators))

    # --8<-- [end:interpolate]

    def between_texts(
        self, first: str, second: str, shares: Sequence[float], seed: int, drawing: Drawing
    ) -> list[Image.Image]:
        """Return pictures of mixtures of what the network is told of two texts, from the same noise."""
        texts = checked_prompts([first, second], takes=self.takes_prompt)
        told = self.condition(texts)
        grid, noise = grid_of(self.schedule, drawing), [torch.Generator().manual_seed(seed) for _ in shares]
        x_BCHW = self.noise(noise, grid, drawing)
        return self._pictures(self.sampled(x_BCHW, texts, grid, drawing, noise=noise, cond=self.mixed(told, shares)))

    def mixed(self, told: Cond, shares: Sequence[float]) -> Cond:
        """Return mixtures of what the network is told of two texts, one for each share of the second."""
        return TextCondition(
            torch.stack([torch.lerp(told.tokens[0], told.tokens[1], share) for share in shares]),
            torch.stack([told.mask[int(share)] if share in (0, 1) else told.mask.any(0) for share in shares]),
            torch.stack([torch.lerp(told.pooled[0], told.pooled[1], share) for share in shares]),
        )

    def health(self) -> list[str]:
        """Warn of a network that says no more than the mean would."""
        share = float(self._seen.get("share", 0.0))
        if share > 0.98:
            return [
                f"The network's error is {share:.0%} of that of saying nothing: it has learnt nothing yet, or its learning "
                "rate is too high."
            ]
        return []
