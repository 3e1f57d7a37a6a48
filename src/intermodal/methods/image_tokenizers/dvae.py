"""The discrete VAE of DALL-E: codes drawn through the Gumbel-softmax relaxation (Ramesh et al. 2021, appendix A).

The encoder gives every place of a coarse grid a distribution over K codes, the decoder turns codes into pictures, and the
two maximise the evidence lower bound with a uniform prior over the codes. A drawn code has no gradient, so in training a
mixture stands in its place: the softmax of the logits plus Gumbel noise, over a temperature (Jang et al. 2017; Maddison et
al. 2017). As the temperature falls the mixture becomes a code. There is no codebook to keep alive: its vectors are the
columns of the decoder's first convolution.

Shapes: B pictures, C, H, W channels, height and width in pixels; K codes, h, w their places.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.core.registry import MethodCard
from intermodal.data.processors import ImageProcessor, Processor, Resize
from intermodal.losses.pixels import gaussian_density
from intermodal.methods.base import Batch, Losses, generator_of
from intermodal.methods.image_tokenizers.codebook import collapsed
from intermodal.methods.image_tokenizers.tokenizer import PICTURE_AND_SEED, ImageTokenizer
from intermodal.nn.dalle_coder import (
    EPS,
    DalleCoderConfig,
    DalleDecoder,
    DalleEncoder,
    logit_laplace_log_prob,
)

CARD = MethodCard(
    id="dvae",
    title="Discrete VAE of DALL-E: Gumbel-softmax codes, KL to the uniform prior, logit-Laplace pixels",
    paper="Ramesh et al. 2021; Jang et al. 2017; Maddison et al. 2017",
    cls="DVAE",
    capabilities=("reconstruct",),
    recipes=("dvae",),
    reference="transformers FlavaImageCodebook; DALL-E's published layout; exact: the likelihood and the bound",
)


@dataclass(frozen=True, kw_only=True)
class DVAEConfig(Config):
    """What a discrete VAE is made of.

    Attributes:
        coder: the two networks and the number of codes.
        decoder: whether there is one; without it the model makes codes, and neither trains nor decodes.
        likelihood: of a picture's values, mapped to 0.1..0.9: ``logit-laplace`` (the paper's) or ``gaussian``.
        least_scale: added to the likelihood's scale. The published model has 0. Pictures of eight bits with flat areas have
            no largest likelihood without it: where every value is predicted exactly, the scale shrinks without end.
        temperature: of the relaxation, at the start and at the end; the paper's.
        temperature_share: the share of the training's steps over which it falls, by a cosine; the paper's 150,000 of
            3,000,000.
        beta: weight of the divergence from the uniform prior, where the likelihood of the whole picture has 1.
        beta_share: the share of the training's steps over which it rises from 0, by a cosine; the paper's 5,000.
        straight_through: decode the nearest code instead of the mixture, with the mixture's gradient (Jang et al. 2017,
            section 2.2).

    Raises:
        ConfigError: if a number is out of range.
    """

    coder: DalleCoderConfig
    decoder: bool = True
    likelihood: Literal["logit-laplace", "gaussian"] = "logit-laplace"
    least_scale: float = 0.0
    temperature: tuple[float, float] = (1.0, 1 / 16)
    temperature_share: float = 0.05
    beta: float = 6.6
    beta_share: float = 5 / 3000
    straight_through: bool = False

    def __post_init__(self) -> None:
        if min(self.temperature) <= 0:
            raise ConfigError(f"DVAE: a temperature must be above 0, found {self.temperature}.")
        if not all(0 <= share <= 1 for share in (self.temperature_share, self.beta_share)):
            raise ConfigError("DVAE: temperature_share and beta_share are shares of the steps, 0 to 1.")
        if self.beta < 0 or self.least_scale < 0:
            raise ConfigError("DVAE: beta and least_scale must not be negative.")


class DVAE(ImageTokenizer):
    """Encoder, decoder and the bound that trains them; see the module's text.

    Temperature and weight of the divergence are part of the state, so a checkpoint is judged by the loss that it was trained
    with; a model that was not trained here has the final ones.

    Args:
        config: the networks and the schedules.
        processors: ``image``, with values in 0.1..0.9 (:func:`mapped_pixels`), whose sides are multiples of the stride.

    Raises:
        ConfigError: if the pictures' size is no multiple of the stride, or their values have no likelihood.
    """

    id = "dvae"
    needs = PICTURE_AND_SEED

    config: DVAEConfig
    temperature: Tensor
    beta: Tensor

    def __init__(self, config: DVAEConfig, processors: Mapping[str, Processor]) -> None:
        super().__init__(config, processors)
        self.codebook_size = config.coder.codes
        image, stride = self.processors.get("image"), config.coder.stride
        if isinstance(image, ImageProcessor) and any(side % stride for side in image.size):
            raise ConfigError(f"DVAE: the sides of a picture must be multiples of {stride}, found {image.size}.")
        if isinstance(image, ImageProcessor) and config.decoder and config.likelihood == "logit-laplace":
            ends = [(value - m) / s for value in (0, 1) for m, s in zip(image.mean, image.std, strict=True)]
            if min(ends) <= 0 or max(ends) >= 1:
                raise ConfigError(
                    "DVAE: the logit-Laplace likelihood is of values between 0 and 1, both excluded: pictures are mapped to "
                    f"0.1..0.9 (mapped_pixels), found {min(ends):.3g}..{max(ends):.3g}."
                )
        self.encoder = DalleEncoder(config.coder)
        self.decoder = DalleDecoder(config.coder) if config.decoder else None
        self.register_buffer("temperature", torch.tensor(config.temperature[1]))
        self.register_buffer("beta", torch.tensor(config.beta))
        self._seen: dict[str, Tensor] = {}  # what health() speaks of; read there, so that a step waits for no device

    def begin_step(self, step: int, steps: int) -> None:
        """Set temperature and weight of the divergence for one step of training."""
        config, done = self.config, step / steps
        self.temperature.fill_(_cosine(*config.temperature, done, config.temperature_share))
        self.beta.fill_(_cosine(0.0, config.beta, done, config.beta_share))

    # --8<-- [start:loss]
    def loss(self, batch: Batch) -> Losses:
        """Return minus the bound of prepared ``image`` ``(B, C, H, W)``, in nats per value of a picture.

        The bound is of the whole picture: the log-likelihood of its C H W values, minus beta times the divergence of its h w
        codes. Both are divided by C H W, so that with a stride of 8 and three channels the divergence of a code, in the mean
        over the places, has the weight beta / 192 (Ramesh et al. 2021, appendix A.2).

        Raises:
            ConfigError: if the model has no decoder.
        """
        if self.decoder is None:
            raise ConfigError("This discrete VAE has an encoder alone: without a decoder there is nothing to train.")
        image_BCHW = batch["image"]
        values = image_BCHW[0].numel()
        logits_BKhw = self.encoder(image_BCHW)
        noise_BKhw = gumbel(logits_BKhw.shape, generator_of(batch)).to(logits_BKhw.device)
        mixture_BKhw = ((logits_BKhw + noise_BKhw) / self.temperature).softmax(1)
        drawn_Bhw = mixture_BKhw.argmax(1)
        if self.config.straight_through:
            hard_BKhw = F.one_hot(drawn_Bhw, logits_BKhw.shape[1]).movedim(-1, 1).to(mixture_BKhw.dtype)
            mixture_BKhw = hard_BKhw + mixture_BKhw - mixture_BKhw.detach()
        fit = self.log_likelihood(image_BCHW, *self.decoder(mixture_BKhw)) / values
        divergence_Bhw = divergence_from_uniform(logits_BKhw)
        total = self.beta * divergence_Bhw.sum((1, 2)).mean() / values - fit.mean()
        # --8<-- [end:loss]
        counts_K = torch.bincount(logits_BKhw.detach().argmax(1).flatten(), minlength=self.config.coder.codes)
        share_K = counts_K / counts_K.sum()
        parts = {
            "log_likelihood": fit.mean().detach(),
            "divergence": divergence_Bhw.mean().detach(),
            "perplexity": torch.exp(-torch.xlogy(share_K, share_K).sum()),
            "used": (counts_K > 0).float().mean(),
            "peak": mixture_BKhw.amax(1).mean().detach(),
            "temperature": self.temperature.clone(),
            "beta": self.beta.clone(),
        }
        self._seen = {**parts, "places": torch.tensor(drawn_Bhw.numel())}
        return Losses(total, parts)

    def log_likelihood(self, image_BCHW: Tensor, location: Tensor, log_scale: Tensor) -> Tensor:
        """Return the log-density in nats of each prepared picture, ``(B,)``, given what the decoder says of it."""
        if self.config.least_scale:
            log_scale = torch.logaddexp(log_scale, log_scale.new_tensor(math.log(self.config.least_scale)))
        density = logit_laplace_log_prob if self.config.likelihood == "logit-laplace" else gaussian_density
        return density(image_BCHW.to(location.dtype), location, log_scale).sum((1, 2, 3))

    def to_latent(self, image_BCHW: Tensor) -> Tensor:
        """Return the most probable code of every place, int64 ``(B, h, w)``."""
        return self.encoder(image_BCHW).argmax(1)

    def to_image(self, latent: Tensor) -> Tensor:
        """Return pictures ``(B, C, H, W)`` of codes ``(B, h, w)``: the likelihood's median, whatever its scale.

        Raises:
            DataError: if the model has no decoder.
        """
        if self.decoder is None:
            raise DataError(
                "This discrete VAE has an encoder alone: it makes codes and cannot turn codes into pictures."
            )
        location, _ = self.decoder.of_codes(latent)
        return location.sigmoid() if self.config.likelihood == "logit-laplace" else location

    def latent_shape(self) -> tuple[int, ...]:
        """Return how many rows and columns of codes a picture has."""
        height, width = self.picture.size
        return height // self.config.coder.stride, width // self.config.coder.stride

    def health(self) -> list[str]:
        """Warn of a codebook that has collapsed, and of codes that say nothing about the picture."""
        seen = {name: float(value) for name, value in self._seen.items()}
        if not seen:
            return []
        advice = "Raise beta, or let the temperature fall more slowly."
        found = collapsed(seen["used"], seen["perplexity"], self.config.coder.codes, int(seen["places"]), advice)
        if seen["divergence"] < 0.05 and seen["beta"] > 0:
            found.append(
                f"The codes say nothing about the picture ({seen['divergence']:.3f} nats each, of at most "
                f"{math.log(self.config.coder.codes):.1f}): lower beta, or raise it from 0 over more steps."
            )
        return found


def mapped_pixels(size: int | tuple[int, int], resize: Resize = "crop") -> ImageProcessor:
    """Return the processor of pictures with values in 0.1..0.9, those of :func:`intermodal.nn.dalle_coder.map_pixels`."""
    sides = (size, size) if isinstance(size, int) else size
    scale = 1 / (1 - 2 * EPS)
    return ImageProcessor(size=sides, mean=(-EPS * scale,) * 3, std=(scale,) * 3, resize=resize)


# --8<-- [start:gumbel]
def gumbel(shape: torch.Size | tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return standard Gumbel noise, float32 on the CPU, every number finite.

    Of eight bits, as bfloat16 has them, the largest noise would be 5.5, while the largest of 8,192 has a mean of 9.6: codes
    would not be drawn with their probabilities. Float32 reaches 16.6.
    """
    uniform = torch.rand(shape, generator=generator).clamp_(min=torch.finfo(torch.float32).tiny)
    return uniform.log_().neg_().log_().neg_()


# --8<-- [end:gumbel]


def divergence_from_uniform(logits_BKhw: Tensor) -> Tensor:
    """Return the divergence of each place's distribution from the uniform one, in nats ``(B, h, w)``: ln K - entropy."""
    log_q = logits_BKhw.log_softmax(1)
    return (log_q.exp() * log_q).sum(1) + math.log(logits_BKhw.shape[1])


def _cosine(start: float, end: float, done: float, share: float) -> float:
    """Return the value at a share ``done`` of the training of what goes from start to end over its first ``share``."""
    way = min(done / share, 1.0) if share else 1.0
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * way))
