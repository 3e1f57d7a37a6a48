"""Variational autoencoder: a Gaussian latent, and a bound on how likely the pictures are (Kingma & Welling 2014).

The encoder gives each picture a Gaussian ``q(z|x)``, the decoder turns a latent into the parameters of ``p(x|z)``, and both
maximise ``E_q[log p(x|z)] - KL(q(z|x) || N(0, 1))``, a lower bound of ``log p(x)``. The latent is a vector, or a map as in
the KL autoencoder of latent diffusion (Rombach et al. 2022), whose published folders :func:`intermodal.load` reads.

Shapes: B pictures, C, H, W channels, height and width in pixels; Z channels of the latent, h, w its places, ``...`` for
``(Z, h, w)`` of a map or ``(Z,)`` of a vector.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.core.registry import MethodCard
from intermodal.data.processors import ImageProcessor, Processor
from intermodal.losses import pixels
from intermodal.losses.distributed import all_reduce_sum, rank_and_world, total_over_ranks
from intermodal.methods.base import Batch, Losses, generator_of
from intermodal.methods.image_tokenizers.tokenizer import PICTURE_AND_SEED, UnitNormalPrior
from intermodal.nn.autoencoder import AutoencoderConfig, Decoder, Encoder
from intermodal.nn.gaussian import DiagonalGaussian
from intermodal.nn.tiling import check_tile, tiled

CARD = MethodCard(
    id="vae",
    title="Variational autoencoder: Gaussian latents, vector or map; beta, free bits; bits per dimension",
    paper="Kingma & Welling 2014; Higgins et al. 2017; Rombach et al. 2022",
    cls="VAE",
    capabilities=("reconstruct", "generate"),
    recipes=("vae", "vae-map"),
    reference="diffusers AutoencoderKL; torch.distributions; exact",
)

ACTIVE = 0.01
"""A latent's number is active if its mean varies between pictures by more (Burda et al. 2016, section 5.2)."""
COLLAPSED = 0.05
"""Below this share of active numbers training warns."""
HALF = (0.5, 0.5, 0.5)
MEMORY = 0.05
"""Weight of the newest batch in the remembered variance."""


@dataclass(frozen=True, kw_only=True)
class VAEConfig(Config):
    """What a variational autoencoder is made of.

    Attributes:
        network: encoder and decoder; the method itself sets ``moments`` and, with ``scale="pixel"``, doubles
            ``out_channels``.
        latent_dim: numbers of a latent that is a vector; None for a map of ``network.latent_channels``.
        likelihood: of a pixel. ``gaussian``: a normal density. ``logistic``: the probability of its eight-bit value under a
            logistic distribution (Kingma et al. 2016). ``bernoulli``: the cross entropy, which is a likelihood of black and
            white alone (:func:`intermodal.losses.pixels.bernoulli`).
        scale: the width of the normal or logistic. ``optimal``: one, the most likely for each batch, which is the root of
            the mean squared error (Rybkin et al. 2021); of the normal only. ``learnt``: one, a parameter. ``pixel``: the
            decoder's second output for each pixel. ``fixed``: ``sigma``.
        sigma: where ``scale`` is ``fixed``, the width, with pixels in -1..1; where it is ``learnt``, what it begins with.
        beta: weight of the divergence; 1 for the bound (Higgins et al. 2017 take more).
        warmup: share of the training in which that weight rises from 0.
        free_bits: bits that each channel of a map, or number of a vector, may take of the average picture before the
            divergence costs anything (Kingma et al. 2016, equation 15, there in nats).
        scaling_factor, shift_factor, latent_mean, latent_std: how published diffusion models scale this model's latents;
            see :meth:`VAE.scaled`. They change nothing here.

    Raises:
        ConfigError: if a number is out of range, or two do not go together.
    """

    network: AutoencoderConfig
    latent_dim: int | None = None
    likelihood: Literal["gaussian", "logistic", "bernoulli"] = "gaussian"
    scale: Literal["optimal", "learnt", "pixel", "fixed"] = "optimal"
    sigma: float = 0.25
    beta: float = 1.0
    warmup: float = 0.0
    free_bits: float = 0.0
    scaling_factor: float = 1.0
    shift_factor: float = 0.0
    latent_mean: tuple[float, ...] | None = None
    latent_std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.latent_dim is not None and self.latent_dim < 1:
            raise ConfigError(f"VAE: latent_dim must be at least 1, found {self.latent_dim}.")
        if self.network.in_channels != self.network.out_channels:
            raise ConfigError(
                f"VAE: encoder and decoder must have equally many channels of a picture, found {self.network.in_channels} "
                f"and {self.network.out_channels}."
            )
        if self.likelihood == "logistic" and self.scale == "optimal":
            raise ConfigError(
                "VAE: the most likely width has no formula for the logistic: set scale to learnt or pixel."
            )
        if self.beta < 0 or self.free_bits < 0 or self.sigma <= 0 or not 0 <= self.warmup <= 1:
            raise ConfigError(
                f"VAE: beta and free_bits must be at least 0, sigma above 0 and warmup in 0..1, found {self.beta}, "
                f"{self.free_bits}, {self.sigma} and {self.warmup}."
            )
        if self.scaling_factor <= 0 or any(std <= 0 for std in self.latent_std or ()):
            raise ConfigError("VAE: scaling_factor and latent_std must be above 0.")
        if any(len(v) != self.network.latent_channels for v in (self.latent_mean, self.latent_std) if v is not None):
            raise ConfigError("VAE: latent_mean and latent_std need a number for each channel of the latent.")

    @property
    def needs_batch(self) -> bool:
        """Whether the loss of a batch is not the mean of its pictures' losses."""
        return self.free_bits > 0 or (self.likelihood == "gaussian" and self.scale == "optimal")


class VAE(UnitNormalPrior):
    """Encoder, decoder, and the bound that trains them; see the module's text.

    Args:
        config: networks and loss.
        processors: ``image``, with values in -1..1; without it (a map only) the network alone, which takes tensors.

    Attributes:
        tile: larger pictures and latents go through the networks in overlapping tiles of so many pixels; None for never.
            What comes out differs a little from the whole, since a tile does not see beyond itself.
        one_by_one: pictures go through the networks one at a time, so that memory does not grow with their number.

    Raises:
        ConfigError: if the processor gives other values or a size that the network does not take, or a vector has none.
    """

    id = "vae"
    needs = PICTURE_AND_SEED
    config: VAEConfig
    mean_square: Tensor
    log_scale: Tensor

    def __init__(self, config: VAEConfig, processors: Mapping[str, Processor]) -> None:
        super().__init__(config, processors)
        self.contrasts_batch = config.needs_batch
        self.tile: int | None = None
        self.one_by_one = False
        self.beta = config.beta
        self._seen: dict[str, Tensor] = {}  # what health() speaks of; read there, so that a step waits for no device
        if processors:
            self._check_processor()
        network = config.network.replace(moments=config.latent_dim is None)
        pairs = config.scale == "pixel" and config.likelihood != "bernoulli"
        self.encoder = Encoder(network)
        self.decoder = Decoder(network.replace(out_channels=2 * network.out_channels) if pairs else network)
        if config.latent_dim is not None:
            if not processors:
                raise ConfigError(
                    "VAE: a latent that is a vector needs the processor, which says how large pictures are."
                )
            numbers = math.prod(self._map_shape())
            self.to_moments = nn.Linear(numbers, 2 * config.latent_dim)
            self.to_map = nn.Linear(config.latent_dim, numbers)
        if config.likelihood != "bernoulli" and config.scale == "learnt":
            self.log_scale = nn.Parameter(torch.tensor(math.log(config.sigma)))
        if config.likelihood == "gaussian" and config.scale == "optimal":
            self.register_buffer("mean_square", torch.tensor(0.0))  # 0: no batch was seen

    # Networks.

    def posterior(self, image_BCHW: Tensor) -> DiagonalGaussian:
        """Return ``q(z|x)`` of prepared pictures, of the shape ``(B, ...)``, in float32 also under autocast.

        Raises:
            DataError: if the network does not take their size.
        """
        image = image_BCHW.to(self.encoder.conv_in.weight.dtype)
        return DiagonalGaussian.of(_exact(self._by_parts(self._moments, image)))

    def output(self, latent: Tensor) -> Tensor:
        """Return the decoder's output ``(B, C, H, W)`` of latents ``(B, ...)``; ``2 C`` channels with ``scale="pixel"``."""
        return self._by_parts(self._output, latent.to(self.decoder.conv_in.weight.dtype))

    def _by_parts(self, run: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
        if self.one_by_one and len(values) > 1:
            return torch.cat([run(part) for part in values.split(1)])
        return run(values)

    def _moments(self, image_BCHW: Tensor) -> Tensor:
        stride = self.config.network.stride
        if self.config.latent_dim is not None:
            return self.to_moments(self.encoder(image_BCHW).flatten(1))
        if self.tile is None or max(image_BCHW.shape[2:]) <= self.tile:
            return self.encoder(image_BCHW)
        check_tile(self.tile, stride)
        self.config.network.latent_shape(*image_BCHW.shape[2:])
        return tiled(self.encoder, image_BCHW, tile=self.tile, made=self.tile // stride)

    def _output(self, latent: Tensor) -> Tensor:
        stride = self.config.network.stride
        if self.config.latent_dim is not None:
            return self.decoder(self.to_map(latent).unflatten(1, self._map_shape()))
        if self.tile is None or max(latent.shape[2:]) * stride <= self.tile:
            return self.decoder(latent)
        check_tile(self.tile, stride)
        return tiled(self.decoder, latent, tile=self.tile // stride, made=self.tile)

    # The loss.

    # --8<-- [start:loss]
    def loss(self, batch: Batch) -> Losses:
        """Return the negative bound in nats for each pixel value, the divergence weighted by ``beta``."""
        image_BCHW = batch["image"]
        posterior = self.posterior(image_BCHW)
        latent = posterior.sample(generator_of(batch))
        distortion_B = -self.log_likelihood(image_BCHW, self.output(latent))
        kl = posterior.kl()
        total = distortion_B.mean() + (self.beta if self.training else self.config.beta) * self._free(kl)
        return self._with_figures(total / image_BCHW[0].numel(), distortion_B, posterior, kl)

    def log_likelihood(self, image_BCHW: Tensor, output_BCHW: Tensor, *, bins: bool = False) -> Tensor:
        """Return ``log p(x|z)`` in nats, ``(B,)``: of the configuration's likelihood, or of eight-bit values with ``bins``.

        With ``bins`` it is the logarithm of a probability for every likelihood: of a normal or logistic number in the
        pixel's bin, or of the continuous Bernoulli with the decoder's parameter.
        """
        image, output = _exact(image_BCHW), _exact(output_BCHW)
        if self.config.likelihood == "bernoulli":
            each = pixels.continuous_bernoulli_bins(image, output) if bins else pixels.bernoulli(image, output)
        elif self.config.likelihood == "logistic":
            each = pixels.logistic_bins(image, *self._mean_and_width(image, output))
        else:
            law = pixels.gaussian_bins if bins else pixels.gaussian_density
            each = law(image, *self._mean_and_width(image, output))
        return each.flatten(1).sum(1)

    def _free(self, kl: Tensor) -> Tensor:
        """Return the divergence of the mean picture in nats, every channel's or number's at least ``free_bits``."""
        each = kl.flatten(2).sum(2) if kl.ndim > 2 else kl
        if not self.config.free_bits:
            return each.sum(1).mean()
        mean = total_over_ranks(each.mean(0)) / rank_and_world()[1]
        return mean.clamp(min=self.config.free_bits * math.log(2)).sum()

    # --8<-- [end:loss]

    def _mean_and_width(self, image: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """Return the means of the pixels and the logarithm of the width, a scalar or for each pixel.

        A width is kept above half the distance of two grey levels, smoothly: where a picture is always white, no density
        has a largest likelihood.
        """
        kind, floor = self.config.scale, math.log(pixels.HALF_BIN)
        if kind == "pixel":
            mean, raw = output.chunk(2, dim=1)
        elif kind == "learnt":
            mean, raw = output, self.log_scale.to(output.dtype)
        elif kind == "fixed":
            return output, output.new_tensor(math.log(self.config.sigma))
        else:
            return output, 0.5 * self._mean_square(image, output).clamp(min=pixels.HALF_BIN**2).log()
        return mean, floor + F.softplus(raw - floor)

    @torch.no_grad()
    def _mean_square(self, image: Tensor, output: Tensor) -> Tensor:
        """Return the mean squared error of the batch, over all ranks; in evaluation what training remembers."""
        seen = self.mean_square > 0
        if not self.training:
            return torch.where(seen, self.mean_square, self.config.sigma**2).to(output.dtype)
        found = all_reduce_sum((image - output).square().mean()) / rank_and_world()[1]
        self.mean_square.lerp_(found.to(self.mean_square), torch.where(seen, MEMORY, 1.0))
        return found

    def _with_figures(self, total: Tensor, distortion_B: Tensor, posterior: DiagonalGaussian, kl: Tensor) -> Losses:
        parts = {
            "distortion": distortion_B.detach().mean(),
            "kl_bits": kl.detach().flatten(1).sum(1).mean() / math.log(2),
            "active": (posterior.mean.detach().var(0, correction=0) > ACTIVE).float().mean(),
            "beta": torch.tensor(self.beta, device=total.device),
        }
        if hasattr(self, "mean_square"):
            parts["sigma"] = self.mean_square.sqrt()
        if hasattr(self, "log_scale"):
            parts["sigma"] = self.log_scale.detach().exp()
        self._seen = parts
        return Losses(total, parts)

    def begin_step(self, step: int, steps: int) -> None:
        """Set the weight of the divergence, which rises linearly over the first ``warmup`` of the training."""
        rise = self.config.warmup * steps
        self.beta = self.config.beta * (min(1.0, step / rise) if rise > 0 else 1.0)

    # The image tokenizer: latents are the means of the posterior.

    def to_latent(self, image_BCHW: Tensor) -> Tensor:
        """Return the means ``(B, ...)`` of the latents of prepared pictures."""
        return self.posterior(image_BCHW).mean

    def to_image(self, latent: Tensor) -> Tensor:
        """Return the means of the pixels, ``(B, C, H, W)``, that latents ``(B, ...)`` stand for."""
        output = self.output(latent)
        if self.config.likelihood == "bernoulli":
            return 2 * torch.sigmoid(output) - 1
        return output[:, : self.config.network.out_channels]

    def latent_shape(self) -> tuple[int, ...]:
        """Return ``(Z, h, w)`` of a map at the processor's size, ``(Z,)`` of a vector."""
        return self._map_shape() if self.config.latent_dim is None else (self.config.latent_dim,)

    def rate(self, image_BCHW: Tensor) -> Tensor:
        """Return the divergence from the prior of each prepared picture in bits, ``(B,)``."""
        return self.posterior(image_BCHW).kl().flatten(1).sum(1) / math.log(2)

    def scaled(self, latent_BZhw: Tensor) -> Tensor:
        """Return latents as a published diffusion model takes them: ``(z - shift) * scaling_factor``.

        Where the folder states mean and standard deviation of each channel: ``(z - mean) * scaling_factor / std``.
        """
        mean, std = self._centre(latent_BZhw)
        return (latent_BZhw - mean) * (self.config.scaling_factor / std)

    def unscaled(self, scaled_BZhw: Tensor) -> Tensor:
        """Return the latents that :meth:`scaled` was given."""
        mean, std = self._centre(scaled_BZhw)
        return scaled_BZhw * (std / self.config.scaling_factor) + mean

    def health(self) -> list[str]:
        """Warn of a collapsed posterior: latents that no longer depend on the picture."""
        active = float(self._seen.get("active", 1.0))
        if active >= COLLAPSED:
            return []
        return [
            f"The posterior collapses: {active:.1%} of the latent's numbers vary between pictures. Lower model.beta, or set "
            "model.free_bits or model.warmup."
        ]

    def train_flops(self, batch_size: int) -> float:
        """Return the operations of one step: forward once, backward twice as many."""
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            model = VAE(self.config, self.processors)
            model.output(model.posterior(torch.empty(1, self.config.network.in_channels, *self.picture.size)).mean)
        return 3.0 * batch_size * counter.get_total_flops()

    def _map_shape(self) -> tuple[int, int, int]:
        return self.config.network.latent_shape(*self.picture.size)

    def _centre(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        config = self.config
        mean = latent.new_tensor(config.latent_mean or (config.shift_factor,)).view(-1, 1, 1)
        return mean, latent.new_tensor(config.latent_std or (1.0,)).view(-1, 1, 1)

    def _check_processor(self) -> None:
        image = self.processors.get("image")
        if not isinstance(image, ImageProcessor) or image.mean != HALF or image.std != HALF:
            raise ConfigError(
                "VAE: pictures must come as values in -1..1: mean and std of the image processor are 0.5."
            )
        try:
            self._map_shape()
        except DataError as error:
            raise ConfigError(str(error)) from error


def _exact(values: Tensor) -> Tensor:
    """Return numbers in float32 at least: sums over pixels need it."""
    return values if values.dtype == torch.float64 else values.float()
