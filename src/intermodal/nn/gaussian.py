"""Gaussians whose numbers are independent: what variational encoders return.

B batch   Z channels or numbers of a latent   ``...`` the rest of its shape
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

LOG_VAR = (-30.0, 20.0)
"""Bounds of the logarithm of a variance: those of the published autoencoders (Rombach et al. 2022)."""


@dataclass(frozen=True)
class DiagonalGaussian:
    """Independent normal distributions.

    Attributes:
        mean: of each, any shape.
        log_var: the logarithm of each variance, of the same shape.
    """

    mean: Tensor
    log_var: Tensor

    @classmethod
    def of(cls, moments: Tensor) -> Self:
        """Return the Gaussian of a network's output ``(B, 2 Z, ...)``: Z means, then Z logarithms of variances, bounded."""
        mean, log_var = moments.chunk(2, dim=1)
        return cls(mean, log_var.clamp(*LOG_VAR))

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Return ``mean + sigma * noise`` (Kingma & Welling 2014, equation 10), through which gradients reach both.

        Args:
            generator: whose numbers the noise is, drawn where the generator lives; None for torch's global one.
        """
        place = self.mean.device if generator is None else generator.device
        noise = torch.randn(self.mean.shape, generator=generator, device=place, dtype=self.mean.dtype)
        return self.mean + torch.exp(0.5 * self.log_var) * noise.to(self.mean.device)

    def kl(self) -> Tensor:
        """Return the divergence of each from the unit normal in nats, of the mean's shape (the same paper, appendix B)."""
        return 0.5 * (self.mean.square() + self.log_var.exp() - 1 - self.log_var)

    def log_density(self, value: Tensor) -> Tensor:
        """Return the logarithm of each density at ``value``, in nats, of the mean's shape."""
        return -0.5 * (math.log(2 * math.pi) + self.log_var + (value - self.mean).square() * torch.exp(-self.log_var))
