"""VQ-VAE: pictures as codes of a learnt codebook (van den Oord, Vinyals & Kavukcuoglu 2017).

The encoder gives every place of a coarse grid a vector, the quantizer replaces it by the nearest of K vectors, and the
decoder makes the picture of these. Rounding to a code has no gradient, so that of the decoder is handed to the encoder as if
there were no rounding (straight through), and two more terms hold vectors and codes together. The prior over codes is even
while this is trained: every code costs ``log2 K`` bits.

The quantizer is any of :mod:`intermodal.nn.quantizers`: one codebook; several in a row, each for what the one before left
over (residual); or none, each number rounded by itself (FSQ).

Shapes: B pictures, C, H, W channels, height and width in pixels; D dimensions of a vector, h, w places, Q codes at each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.core.registry import MethodCard
from intermodal.data.processors import ImageProcessor, Processor
from intermodal.losses.distributed import all_reduce_sum, rank_and_world
from intermodal.losses.pixels import HALF_BIN
from intermodal.methods.base import Batch, Losses, generator_of
from intermodal.methods.image_tokenizers.codebook import collapsed
from intermodal.methods.image_tokenizers.tokenizer import PICTURE_AND_SEED, ImageTokenizer
from intermodal.nn.autoencoder import AutoencoderConfig, Decoder, Encoder
from intermodal.nn.quantizers import FiniteScalarQuantizerConfig, QuantizerConfig, build_quantizer

CARD = MethodCard(
    id="vqvae",
    title="VQ-VAE: codes of a learnt codebook, moving average or loss, dead codes restarted; residual VQ, FSQ",
    paper="van den Oord et al. 2017; Razavi et al. 2019; Zeghidour et al. 2021; Mentzer et al. 2023",
    cls="VQVAE",
    capabilities=("reconstruct",),
    recipes=("vqvae", "vqvae-residual", "vqvae-fsq"),
    reference="vector-quantize-pytorch VectorQuantize, ResidualVQ, FSQ; diffusers VectorQuantizer; exact: equations 3, 6-8",
)


@dataclass(frozen=True, kw_only=True)
class VQVAEConfig(Config):
    """What a VQ-VAE is made of.

    Attributes:
        network: encoder and decoder; ``latent_channels`` is the quantizer's D.
        quantizer: vectors to codes.
        scale: the width sigma of the normal density of pixels, ``-log p(x|z) = error^2 / (2 sigma^2) + log sigma`` but for a
            constant. ``fixed``: ``sigma``; the default makes the term the mean squared error, as published. ``learnt``: a
            parameter, that begins with ``sigma``. ``optimal``: the most likely one of each batch, the root of its mean
            squared error (Rybkin et al. 2021). With a width that shrinks as pictures come back better, commitment does not
            end up weighing more than the picture.
        sigma: with pixels in -1..1.

    Raises:
        ConfigError: if a number is out of range, or network and quantizer do not fit each other.
    """

    network: AutoencoderConfig
    quantizer: QuantizerConfig
    scale: Literal["fixed", "learnt", "optimal"] = "fixed"
    sigma: float = math.sqrt(0.5)

    def __post_init__(self) -> None:
        if self.network.latent_channels != self.quantizer.dim:
            raise ConfigError(
                f"VQVAE: the encoder's vectors have {self.network.latent_channels} dimensions, the quantizer's "
                f"{self.quantizer.dim}: they must be the same."
            )
        if self.network.moments or self.network.in_channels != self.network.out_channels:
            raise ConfigError(
                "VQVAE: the encoder gives vectors and no moments, and has as many channels of a picture as the decoder."
            )
        if self.sigma <= 0:
            raise ConfigError(f"VQVAE: sigma must be above 0, found {self.sigma}.")


class VQVAE(ImageTokenizer):
    """Encoder, quantizer and decoder; see the module's text.

    The codebook's moving averages are part of the state, and summed over processes.

    Args:
        config: networks, quantizer and loss.
        processors: ``image``, with values in -1..1; without it the networks alone, which take tensors.

    Raises:
        ConfigError: if the pictures' size is no multiple of the stride.
    """

    id = "vqvae"
    needs = PICTURE_AND_SEED
    config: VQVAEConfig

    def __init__(self, config: VQVAEConfig, processors: Mapping[str, Processor]) -> None:
        super().__init__(config, processors)
        self.encoder, self.decoder = Encoder(config.network), Decoder(config.network)
        self.quantizer = build_quantizer(config.quantizer)
        self.codebook_size = self.quantizer.codebook_size
        self.levels = math.prod(self.quantizer.code_shape)
        self.contrasts_batch = config.scale == "optimal"
        if config.scale == "learnt":
            self.log_sigma = nn.Parameter(torch.tensor(math.log(config.sigma)))
        self._seen: dict[str, Tensor] = {}  # what health() speaks of; read there, so that a step waits for no device
        self._places = 0
        if isinstance(processors.get("image"), ImageProcessor):
            try:
                self.latent_shape()
            except DataError as error:
                raise ConfigError(str(error)) from error

    # --8<-- [start:loss]
    def loss(self, batch: Batch) -> Losses:
        """Return equation 3 for prepared ``image`` ``(B, C, H, W)``: how far the pictures are, and vectors from codes.

        In training the codebook learns from the batch. The seeds decide what it begins with and what replaces dead codes.
        """
        image_BCHW = batch["image"]
        quantized = self.quantizer(self.encoder(image_BCHW), generator_of(batch))
        error = (self.decoder(quantized.z).float() - image_BCHW.float()).square().mean()
        total = self.distortion(error) + quantized.loss
        # --8<-- [end:loss]
        parts = {"mse": error.detach(), **quantized.parts}
        if self.config.scale == "learnt":
            parts["sigma"] = self.log_sigma.detach().exp()
        self._seen, self._places = parts, quantized.codes.numel() // self.levels
        return Losses(total, parts)

    def distortion(self, error: Tensor) -> Tensor:
        """Return minus the logarithm of the pixels' density of a mean squared error, per value, but for a constant.

        The width is kept above half the distance of two grey levels: where all pictures come back, none is the most likely.
        """
        if self.config.scale == "fixed":
            return error / (2 * self.config.sigma**2)
        if self.config.scale == "learnt":
            log_var = torch.logaddexp(2 * self.log_sigma, self.log_sigma.new_tensor(2 * math.log(HALF_BIN)))
        else:
            log_var = (all_reduce_sum(error.detach()) / rank_and_world()[1]).clamp(min=HALF_BIN**2).log()
        return error / 2 * torch.exp(-log_var) + log_var / 2

    def to_latent(self, image_BCHW: Tensor) -> Tensor:
        """Return the codes of prepared pictures, int64 ``(B, h, w)``, or ``(B, h, w, Q)`` of a residual quantizer.

        In training mode the codebook learns from the pictures.
        """
        return self.quantizer(self.encoder(image_BCHW)).codes

    def to_image(self, latent: Tensor) -> Tensor:
        """Return prepared pictures ``(B, C, H, W)`` of codes; of a residual quantizer the first few of Q do."""
        return self.decoder(self.quantizer.look_up(latent).to(self.decoder.conv_in.weight.dtype))

    def latent_shape(self) -> tuple[int, ...]:
        """Return ``(h, w)``, or ``(h, w, Q)`` of a residual quantizer, at the processor's size."""
        return (*self.config.network.latent_shape(*self.picture.size)[1:], *self.quantizer.code_shape)

    def rate(self, image_BCHW: Tensor) -> Tensor:
        """Return how many bits the codes of each prepared picture take, ``log2 K`` each, float ``(B,)``."""
        height, width = self.config.network.latent_shape(*image_BCHW.shape[2:])[1:]
        each = height * width * self.levels * math.log2(self.quantizer.codebook_size)
        return torch.full((len(image_BCHW),), each, device=image_BCHW.device)

    def health(self) -> list[str]:
        """Warn of a codebook that has collapsed."""
        if not self._seen:
            return []
        used, perplexity = float(self._seen["used"]), float(self._seen["perplexity"])
        advice = (
            "Do all pictures look alike? Else lower optim.lr."
            if isinstance(self.config.quantizer, FiniteScalarQuantizerConfig)
            else "Set restart (0.1) in the quantizer, begin it with data or kmeans, or lower optim.lr."
        )
        return collapsed(used, perplexity, self.quantizer.codebook_size, self._places, advice)

    def train_flops(self, batch_size: int) -> float:
        """Return the operations of one step: forward once, backward twice as many; and the search for codes."""
        height, width = self.picture.size
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            latent = Encoder(self.config.network)(torch.empty(1, self.config.network.in_channels, height, width))
            Decoder(self.config.network)(latent)
        search = 0
        if not isinstance(self.config.quantizer, FiniteScalarQuantizerConfig):
            search = 2 * latent.numel() * self.quantizer.codebook_size * self.levels
        return float(batch_size * (3 * counter.get_total_flops() + search))
