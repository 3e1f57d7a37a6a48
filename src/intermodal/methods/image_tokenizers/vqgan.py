"""VQGAN: a VQ-VAE whose pictures must also look real, to a network of features and to a discriminator (Esser et al. 2021).

Pixels alone make an autoencoder blur what it cannot place. Here the reconstruction is judged by pixels and by a network's
features (perceptual loss), and each of its patches by a discriminator that is trained at the same time; how much the
discriminator counts follows from the gradients at the decoder's last layer (equation 7). A step has two descents: of the
autoencoder, then of the discriminator. The second stage, a prior over the codes, is
:class:`intermodal.methods.image_tokenizers.prior.CodePrior`.

Shapes: B pictures, C, H, W channels, height and width in pixels; D dimensions of a code's vector, h, w places, Q codes at
each; ``...`` for ``h, w`` or ``h, w, Q``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.core.registry import MethodCard
from intermodal.data.processors import Processor
from intermodal.losses import adversarial
from intermodal.losses.distances import precise
from intermodal.losses.perceptual import perceptual_distance
from intermodal.methods.base import Batch, Losses, Method, Phase, generator_of
from intermodal.methods.image_tokenizers.tokenizer import evaluating
from intermodal.methods.image_tokenizers.vqvae import VQVAE, VQVAEConfig
from intermodal.nn.discriminator import PatchDiscriminator, PatchDiscriminatorConfig

CARD = MethodCard(
    id="vqgan",
    title="VQGAN: patch discriminator and perceptual loss on a VQ-VAE; an autoregressive prior over its codes",
    paper="Esser et al. 2021",
    cls="VQGAN",
    capabilities=("reconstruct",),
    recipes=("vqgan", "vqgan-prior"),
    reference="diffusers VQModel; transformers GPT2LMHeadModel; exact",
)

PUBLISHED = PatchDiscriminatorConfig()
"""Sizes of the published discriminator."""
SURE = 0.02
"""A discriminator whose hinge loss is below this tells every patch: the decoder learns nothing more from it."""


@dataclass(frozen=True, kw_only=True)
class VQGANConfig(VQVAEConfig):
    """What a VQGAN is made of: what a VQ-VAE is, and what judges it.

    As published, the quantizer is a ``VectorQuantizerConfig`` with ``update="loss"``, ``commitment=1`` and
    ``codebook=0.25``.

    Attributes:
        pixel: the distance of pixels. ``l1``: their mean absolute difference, as in the published code; ``l2``: that of a
            VQ-VAE by ``scale`` and ``sigma``, by default the mean squared error (equation 4), as in the paper.
        perceptual: weight of the perceptual distance on the library's feature network; 0 for none.
        discriminator: its sizes; None for a model that only encodes and decodes, such as a published one.
        adversarial: weight of the generator's loss, beside the adaptive weight.
        objective: ``hinge``, as published, or ``logistic`` (the non-saturating loss of Goodfellow et al. 2014).
        start: share of the training after which the discriminator begins, and begins to count.
        scaling_factor: how published diffusion models scale this model's latents; it changes nothing here.

    Raises:
        ConfigError: if a number is out of range or the parts do not fit each other.
    """

    pixel: Literal["l1", "l2"] = "l1"
    perceptual: float = 1.0
    discriminator: PatchDiscriminatorConfig | None = PUBLISHED
    adversarial: float = 0.8
    objective: Literal["hinge", "logistic"] = "hinge"
    start: float = 0.25
    scaling_factor: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.perceptual, self.adversarial) < 0 or not 0 <= self.start <= 1 or self.scaling_factor <= 0:
            raise ConfigError(
                "VQGAN: perceptual and adversarial must be at least 0, start in 0..1 and scaling_factor above 0."
            )
        if self.discriminator is not None and self.discriminator.in_channels != self.network.in_channels:
            raise ConfigError("VQGAN: autoencoder and discriminator must have equally many channels of a picture.")


class VQGAN(VQVAE):
    """Encoder, quantizer, decoder, and the discriminator that they are trained against; see the module's text.

    Args:
        config: networks and losses.
        processors: ``image``, with values in -1..1; without it the networks alone, which take tensors.

    Raises:
        ConfigError: if the processor gives a size that a network does not take.
    """

    id = "vqgan"
    config: VQGANConfig

    def __init__(self, config: VQGANConfig, processors: Mapping[str, Processor]) -> None:
        super().__init__(config, processors)
        self.judged = config.start == 0
        if config.discriminator is None:
            return
        self.discriminator = PatchDiscriminator(config.discriminator)
        if processors:
            try:
                config.discriminator.map_shape(*self.picture.size)
            except DataError as error:
                raise ConfigError(str(error)) from error

    def phases(self) -> tuple[Phase, ...]:
        """Return the two descents of a step: the autoencoder's, then the discriminator's."""
        autoencoder = Phase(trains=("encoder.", "quantizer.", "decoder.", "log_sigma"))
        if self.config.discriminator is None:
            return (autoencoder,)
        return autoencoder, Phase("discriminator_loss", trains=("discriminator.",))

    def begin_step(self, step: int, steps: int) -> None:
        """Let the discriminator begin after its share of the training."""
        self.judged = step >= self.config.start * steps

    # --8<-- [start:loss]
    def loss(self, batch: Batch) -> Losses:
        """Return the loss of encoder, quantizer and decoder: reconstruction, codes and, once it began, the discriminator.

        ``L_rec + L_codes + adversarial * lambda * L_GAN`` with the adaptive weight lambda (equations 4 to 7). Where no
        gradients are computed there is no lambda, and the last term is left out.
        """
        image_BCHW = batch["image"]
        quantized = self.quantizer(self.encoder(image_BCHW), generator_of(batch))
        made_BCHW = self.decoder(quantized.z)
        reconstruction, parts = self.reconstruction(image_BCHW, made_BCHW)
        total, parts = reconstruction + quantized.loss, {**parts, **quantized.parts}
        if self.config.discriminator is not None and self.judged and made_BCHW.requires_grad:
            push = self._against(self.discriminator(made_BCHW))
            weight = adversarial.adaptive_weight(reconstruction, push, self.decoder.conv_out.weight)
            total = total + self.config.adversarial * weight * push
            parts |= {"adversarial": push.detach(), "adaptive_weight": weight}
        self._seen, self._places = {**self._seen, **parts}, quantized.codes.numel() // self.levels
        return Losses(total, parts)

    def reconstruction(self, image_BCHW: Tensor, made_BCHW: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return how far pictures are from what the decoder made of them, a scalar, and its terms without their graph."""
        image_BCHW, made_BCHW = precise(image_BCHW), precise(made_BCHW)
        difference = made_BCHW - image_BCHW
        pixels = difference.abs().mean() if self.config.pixel == "l1" else self.distortion(difference.square().mean())
        if not self.config.perceptual:
            return pixels, {"pixels": pixels.detach()}
        perceptual = perceptual_distance((made_BCHW + 1) / 2, (image_BCHW + 1) / 2).mean()
        parts = {"pixels": pixels.detach(), "perceptual": perceptual.detach()}
        return pixels + self.config.perceptual * perceptual, parts

    def discriminator_loss(self, batch: Batch) -> Losses:
        """Return the discriminator's loss on pictures and on what the autoencoder, as it is now, makes of them.

        Zero, with a gradient of zero, until the discriminator begins.
        """
        if not self.judged:
            nothing = torch.stack([p.sum() for p in self.discriminator.parameters()]).sum() * 0
            return Losses(nothing, {"score_real": nothing.detach(), "score_made": nothing.detach()})
        with torch.no_grad(), evaluating(self):  # evaluating: the codebook does not learn from the same pictures twice
            made_BCHW = self.to_image(self.to_latent(batch["image"]))
        real, made = self.discriminator(batch["image"]), self.discriminator(made_BCHW)
        hinge = self.config.objective == "hinge"
        total = (adversarial.hinge_discriminator if hinge else adversarial.logistic_discriminator)(real, made)
        parts = {"score_real": real.detach().float().mean(), "score_made": made.detach().float().mean()}
        self._seen |= {"discriminator": total.detach()}
        return Losses(total, parts)

    # --8<-- [end:loss]

    def _against(self, made: Tensor) -> Tensor:
        """Return the generator's loss of the discriminator's scores."""
        hinge = self.config.objective == "hinge"
        return (adversarial.hinge_generator if hinge else adversarial.logistic_generator)(made)

    def bare(self) -> VQGAN:
        """Return the model without its discriminator, which only training needs: what a second stage keeps inside."""
        bare = VQGAN(self.config.replace(discriminator=None), self.processors)
        own = {k: v for k, v in self.state_dict().items() if not k.startswith("discriminator.")}
        bare.load_state_dict(own)
        return bare.to(self.device).eval()

    @classmethod
    def class_for(cls, config: dict[str, Any]) -> type[Method]:
        """Return the class of a checkpoint of this id: this one, or the prior over codes, by its configuration."""
        from intermodal.methods.image_tokenizers.prior import CodePrior, CodePriorConfig

        return CodePrior if isinstance(Config.from_dict(config), CodePriorConfig) else cls

    def health(self) -> list[str]:
        """Warn of a codebook that has collapsed, and of a discriminator that is never wrong."""
        warnings = super().health() if "used" in self._seen else []
        loss = float(self._seen.get("discriminator", 1.0))
        if self.judged and self.config.objective == "hinge" and loss < SURE:
            warnings.append(
                f"The discriminator tells every patch (its loss is {loss:.3f}): the decoder learns nothing from it. Lower "
                "model.discriminator.channels, or raise model.start."
            )
        return warnings

    def train_flops(self, batch_size: int) -> float:
        """Return the operations of one step, but for the network of features and the adaptive weight.

        To the autoencoder's own comes a forward pass for the discriminator, which is run forward and backward on three
        pictures for one.
        """
        total = super().train_flops(batch_size) * 4 / 3
        if self.config.discriminator is not None:
            with torch.device("meta"), FlopCounterMode(display=False) as counter:
                judge = PatchDiscriminator(self.config.discriminator)
                judge(torch.empty(1, self.config.network.in_channels, *self.picture.size))
            total += 9.0 * batch_size * counter.get_total_flops()
        return total
