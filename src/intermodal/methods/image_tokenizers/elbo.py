"""The variational principle on a model of which everything is known (Jordan et al. 1999; Tipping & Bishop 1999).

A picture's numbers are ``x = W z + mean + noise``. For any q(z) the evidence lower bound ``E_q[log p(x, z) - log q(z)]`` is
``log p(x) - KL(q || p(z|x))``. Variational autoencoders climb it without knowing either term; here both have formulas, so
one can see how far the bound is from the likelihood, why, and where the climb ends: at principal component analysis.

Shapes: B pictures of C, H, W channels and pixels, D = C H W numbers of each; Z numbers of a latent; K samples of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError
from intermodal.core.registry import MethodCard
from intermodal.data.processors import Processor
from intermodal.losses.distances import precise
from intermodal.losses.pixels import HALF_BIN
from intermodal.losses.variational import gaussian_kl, gaussian_log_density, gaussian_sample, importance_bound
from intermodal.methods.base import Batch, Losses, generator_of
from intermodal.methods.image_tokenizers.tokenizer import PICTURE, PICTURE_AND_SEED, UnitNormalPrior
from intermodal.nn.linear_gaussian import LinearGaussian

CARD = MethodCard(
    id="elbo",
    title="The variational principle: bounds, likelihood and posterior of a linear-Gaussian model, all exact",
    paper="Jordan et al. 1999; Tipping & Bishop 1999; Burda et al. 2016",
    cls="ELBO",
    capabilities=("reconstruct", "generate"),
    recipes=("elbo",),
    reference="exact: linear-Gaussian; scikit-learn PCA",
)

HALF = (0.5, 0.5, 0.5)
SMALLEST = 1e-4
"""Smallest standard deviation along the diagonal of an inference network's factor."""


@dataclass(frozen=True, kw_only=True)
class ELBOConfig(Config):
    """What the model and its inference are made of.

    Attributes:
        latent_dim: Z, below the picture's D numbers.
        inference: who finds q for a picture. ``amortised``: a network, here a linear one, for all pictures at once.
            ``per-sample``: each picture has its own mean and covariance, and in every step they are the best of their
            family for the present model; the descent is then that of variational expectation maximisation.
        covariance: the family of q. ``full``: every Gaussian, which holds the true posterior. ``diagonal``: those of
            independent numbers, which hold it only where the columns of W are orthogonal.
        samples: K of the importance-weighted bound that is climbed, from samples of q; 1 is the sampled evidence lower
            bound, 0 the same bound by its formula, without chance.

    Raises:
        ConfigError: if a number is out of range.
    """

    latent_dim: int = 16
    inference: Literal["amortised", "per-sample"] = "amortised"
    covariance: Literal["full", "diagonal"] = "full"
    samples: int = 0

    def __post_init__(self) -> None:
        if self.latent_dim < 1 or self.samples < 0:
            raise ConfigError(
                f"ELBO: latent_dim must be at least 1 and samples at least 0, found {self.latent_dim} and {self.samples}."
            )


class ELBO(UnitNormalPrior):
    """A linear-Gaussian model, its inference, and the bound that trains them; see the module's text.

    Args:
        config: the size of the latent, and the inference.
        processors: ``image``, which says how many numbers a picture has.

    Raises:
        ConfigError: if the latent has as many numbers as the picture, or the processor gives other values than -1..1.
    """

    id = "elbo"
    needs = PICTURE
    config: ELBOConfig

    def __init__(self, config: ELBOConfig, processors: Mapping[str, Processor]) -> None:
        super().__init__(config, processors)
        if config.samples:
            self.needs = PICTURE_AND_SEED
        size = config.latent_dim
        if (self.picture.mean, self.picture.std) != (HALF, HALF):
            raise ConfigError(
                "ELBO: pictures must come as values in -1..1: mean and std of the image processor are 0.5."
            )
        self.shape = (3, *self.picture.size)
        self.model = LinearGaussian(math.prod(self.shape), size, floor=HALF_BIN)
        if config.inference == "amortised":
            self.encoder = nn.Linear(math.prod(self.shape), size)
            self.factor = nn.Parameter(torch.zeros(size, size) if config.covariance == "full" else torch.zeros(size))

    # --8<-- [start:loss]
    def posterior(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return q(z|x) of prepared pictures: means ``(B, Z)`` and the lower Cholesky factor ``(Z, Z)`` of the covariance.

        The covariance is the same for every picture, as the true posterior's is.
        """
        x_BD = self._flat(image_BCHW)
        if self.config.inference == "per-sample":
            with torch.no_grad():
                full = self.config.covariance == "full"
                return self.model.posterior(x_BD) if full else self.model.best_diagonal(x_BD)
        raw = precise(self.factor)
        diagonal = F.softplus(raw.diagonal() if raw.ndim == 2 else raw) + SMALLEST
        below = raw.tril(-1) if raw.ndim == 2 else 0.0
        return self.encoder(x_BD), below + diagonal.diag()

    def elbo(self, image_BCHW: Tensor, mean_BZ: Tensor, factor: Tensor) -> Tensor:
        """Return the evidence lower bound of q = N(mean, factor factor') in nats, ``(B,)``, by its formula.

        ``E_q[log p(x|z)] - KL(q || N(0, 1))``; ``factor`` is ``(Z, Z)`` or, of each picture, ``(B, Z, Z)``.
        """
        likelihood_B = self.model.expected_log_likelihood_given(self._flat(image_BCHW), mean_BZ, factor)
        return likelihood_B - self._kl(mean_BZ, factor)

    def log_weights(self, image_BCHW: Tensor, mean_BZ: Tensor, factor: Tensor, noise_KBZ: Tensor) -> Tensor:
        """Return ``log p(x|z) + log p(z) - log q(z)`` of K samples of q, made of unit normal noise, ``(K, B)``."""
        latent_KBZ = gaussian_sample(mean_BZ, factor, noise_KBZ)
        zero, one = torch.zeros_like(mean_BZ[0]), torch.eye(mean_BZ.shape[1]).to(mean_BZ)
        prior_KB = gaussian_log_density(latent_KBZ, zero, one)
        likelihood_KB = self.model.log_likelihood_given(self._flat(image_BCHW), latent_KBZ)
        return likelihood_KB + prior_KB - gaussian_log_density(latent_KBZ, mean_BZ, factor)

    def loss(self, batch: Batch) -> Losses:
        """Return the negative bound of prepared ``image`` ``(B, C, H, W)`` in nats for each pixel value."""
        image_BCHW = batch["image"]
        with torch.autocast(image_BCHW.device.type, enabled=False):  # a covariance needs all of its digits
            mean_BZ, factor = self.posterior(image_BCHW)
            if self.config.samples:
                noise = torch.randn(self.config.samples, *mean_BZ.shape, generator=generator_of(batch)).to(mean_BZ)
                bound_B = importance_bound(self.log_weights(image_BCHW, mean_BZ, factor, noise))
            else:
                bound_B = self.elbo(image_BCHW, mean_BZ, factor)
            return Losses(-bound_B.mean() / math.prod(self.shape), self._figures(image_BCHW, bound_B, mean_BZ, factor))

    # --8<-- [end:loss]

    @torch.no_grad()
    def _figures(self, image_BCHW: Tensor, bound_B: Tensor, mean_BZ: Tensor, factor: Tensor) -> dict[str, Tensor]:
        gap = (self.log_likelihood(image_BCHW) - bound_B).mean()
        kl_bits = self._kl(mean_BZ, factor).mean() / math.log(2)
        return {"gap": gap, "kl_bits": kl_bits, "sigma": self.model.variance.detach().sqrt()}

    def log_likelihood(self, image_BCHW: Tensor) -> Tensor:
        """Return ``log p(x)`` of prepared pictures in nats, ``(B,)``: exact."""
        return self.model.log_likelihood(self._flat(image_BCHW))

    def true_posterior(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean ``(B, Z)`` and lower Cholesky factor ``(Z, Z)`` of p(z|x): exact."""
        return self.model.posterior(self._flat(image_BCHW))

    @torch.enable_grad()
    def ascend(self, image_BCHW: Tensor, steps: int, lr: float = 0.1) -> tuple[Tensor, Tensor, list[float]]:
        """Climb the bound of each picture in its own mean and covariance by gradients, from the prior, with the model fixed.

        What a variational autoencoder without an inference network would do (Hoffman et al. 2013); ``per-sample`` goes to
        where this ends at once, by the formula.

        Args:
            image_BCHW: prepared pictures.
            steps: of Adam.
            lr: of the first one; it falls to 0 with a cosine.

        Returns:
            Means ``(B, Z)``, factors ``(B, Z, Z)``, and the mean bound in nats before each step and after the last.
        """
        size, count = self.config.latent_dim, len(image_BCHW)
        history: list[float] = []
        mean_BZ = self.model.weight.new_zeros(count, size).requires_grad_()
        raw_BZZ = self.model.weight.new_zeros(count, size, size).requires_grad_()
        free, optimizer = self.config.covariance == "full", torch.optim.Adam([mean_BZ, raw_BZZ], lr)
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = lr * (1 + math.cos(math.pi * step / steps)) / 2
            factor_BZZ = _factor(raw_BZZ, free)
            bound_B = self.elbo(image_BCHW, mean_BZ, factor_BZZ)
            gradients = torch.autograd.grad(-bound_B.sum(), [mean_BZ, raw_BZZ])
            mean_BZ.grad, raw_BZZ.grad = gradients
            optimizer.step()
            history.append(bound_B.mean().item())
        factor_BZZ = _factor(raw_BZZ, free).detach()
        history.append(self.elbo(image_BCHW, mean_BZ, factor_BZZ).mean().item())
        return mean_BZ.detach(), factor_BZZ, history

    # The image tokenizer: latents are the means of q.

    def to_latent(self, image_BCHW: Tensor) -> Tensor:
        """Return the means ``(B, Z)`` of the latents of prepared pictures."""
        return self.posterior(image_BCHW)[0]

    def to_image(self, latent: Tensor) -> Tensor:
        """Return the means of the pixels, ``(B, C, H, W)``, that latents ``(B, Z)`` stand for."""
        return self.model.decode(latent.to(self.model.weight.dtype)).unflatten(1, self.shape)

    def latent_shape(self) -> tuple[int, ...]:
        """Return ``(Z,)``."""
        return (self.config.latent_dim,)

    def rate(self, image_BCHW: Tensor) -> Tensor:
        """Return the divergence of q from the prior of each prepared picture in bits, ``(B,)``."""
        return self._kl(*self.posterior(image_BCHW)) / math.log(2)

    def health(self) -> list[str]:
        """Warn of noise at its floor: the likelihood then grows without end."""
        sigma = float(self.model.variance.detach().sqrt())
        if sigma > 1.01 * HALF_BIN:
            return []
        return [
            f"The noise has shrunk to its floor ({HALF_BIN:.4f}, half a grey level): the pictures lie in "
            f"{self.config.latent_dim} dimensions. Lower model.latent_dim, or train on pictures that differ."
        ]

    def train_flops(self, batch_size: int) -> float:
        """Return the operations of one step: a product with W and one with the encoder, and twice as many backward."""
        return 12.0 * batch_size * self.model.weight.numel()

    def _flat(self, image_BCHW: Tensor) -> Tensor:
        return precise(image_BCHW).flatten(1).to(self.model.weight.dtype)

    @staticmethod
    def _kl(mean_BZ: Tensor, factor: Tensor) -> Tensor:
        """Return the divergence of N(mean, factor factor') from the prior in nats, ``(B,)``."""
        return gaussian_kl(mean_BZ, factor, torch.zeros_like(mean_BZ), torch.eye(mean_BZ.shape[1]).to(mean_BZ))


def _factor(raw_BZZ: Tensor, full: bool) -> Tensor:
    """Return Cholesky factors, of standard deviations ``exp(raw)`` along the diagonal."""
    diagonal = raw_BZZ.diagonal(dim1=1, dim2=2).exp().diag_embed()
    return diagonal + raw_BZZ.tril(-1) if full else diagonal
