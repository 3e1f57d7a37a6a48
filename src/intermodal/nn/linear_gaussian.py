"""A linear map of a normal latent, plus noise: the one latent-variable model of which everything is known exactly.

``x = W z + mean + sigma noise`` with z and noise unit normal. Likelihood, posterior and the maximum of the likelihood have
formulas: probabilistic principal component analysis (Tipping & Bishop 1999; equation numbers below are theirs).

    N, B data   D numbers of a datum   Z numbers of a latent   S samples of a latent
"""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor, nn

from intermodal.core.errors import ConfigError, DataError


class LinearGaussian(nn.Module):
    """The model; its parameters are ``weight`` (D, Z), ``mean`` (D,) and ``log_variance`` (scalar).

    The noise's variance is ``floor ** 2 + exp(log_variance)``, so that the likelihood has a maximum also where data lie in
    Z dimensions and it would grow without end.

    Args:
        dim: D.
        latent_dim: Z, below D.
        floor: smallest standard deviation of the noise, at least 0.
        scale: standard deviation of the weights at the start; the noise's is 1 then, above the floor.

    Raises:
        ConfigError: if Z is not from 1 to D - 1.
    """

    def __init__(self, dim: int, latent_dim: int, *, floor: float = 0.0, scale: float = 0.1) -> None:
        super().__init__()
        if not 1 <= latent_dim < dim:
            raise ConfigError(f"A latent of {latent_dim} numbers for data of {dim}: it must have from 1 to {dim - 1}.")
        self.floor = floor
        self.weight = nn.Parameter(scale * torch.randn(dim, latent_dim))
        self.mean = nn.Parameter(torch.zeros(dim))
        self.log_variance = nn.Parameter(torch.tensor(0.0))

    @property
    def variance(self) -> Tensor:
        """The noise's variance, a scalar."""
        return self.floor**2 + self.log_variance.exp()

    def decode(self, latent: Tensor) -> Tensor:
        """Return the means ``(..., D)`` of data of latents ``(..., Z)``."""
        return latent @ self.weight.T + self.mean

    def log_likelihood(self, x_ND: Tensor) -> Tensor:
        """Return ``log p(x)`` in nats, ``(N,)``: the density of N(mean, W W' + sigma^2 I), without a D x D matrix."""
        dim, latent_dim = self.weight.shape
        centred_ND, factor_ZZ = x_ND - self.mean, torch.linalg.cholesky(self._matrix())
        inside_NZ = torch.linalg.solve_triangular(factor_ZZ, (centred_ND @ self.weight).T, upper=False).T
        square_N = (centred_ND.square().sum(1) - inside_NZ.square().sum(1)) / self.variance
        log_det = (dim - latent_dim) * self.variance.log() + 2 * factor_ZZ.diagonal().log().sum()
        return -0.5 * (dim * math.log(2 * math.pi) + log_det + square_N)

    def log_likelihood_given(self, x_ND: Tensor, latent: Tensor) -> Tensor:
        """Return ``log p(x|z)`` in nats of data ``(N, D)`` and latents ``(..., N, Z)``, ``(..., N)``."""
        square = (x_ND - self.decode(latent)).square().sum(-1)
        return -0.5 * (self.weight.shape[0] * (math.log(2 * math.pi) + self.variance.log()) + square / self.variance)

    def expected_log_likelihood_given(self, x_ND: Tensor, mean_NZ: Tensor, factor: Tensor) -> Tensor:
        """Return the mean of ``log p(x|z)`` over z of N(mean, factor factor'), ``(N,)``; ``factor`` ``(..., Z, Z)``."""
        spread = (self.weight @ factor).square().sum((-2, -1))
        return self.log_likelihood_given(x_ND, mean_NZ) - 0.5 * spread / self.variance

    def posterior(self, x_ND: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean ``(N, Z)`` and lower Cholesky factor ``(Z, Z)`` of p(z|x); the covariance is that of every datum.

        The mean is ``M^-1 W' (x - mean)``, the covariance ``sigma^2 M^-1`` with ``M = W' W + sigma^2 I`` (section 3.2).
        """
        factor_ZZ = torch.linalg.cholesky(self._matrix())
        mean_NZ = torch.cholesky_solve(((x_ND - self.mean) @ self.weight).T, factor_ZZ).T
        return mean_NZ, torch.linalg.cholesky(self.variance * torch.cholesky_inverse(factor_ZZ))

    def best_diagonal(self, x_ND: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and factor of the Gaussians of independent numbers with the least ``KL(q || p(z|x))``.

        The mean is the posterior's, each variance the inverse of the diagonal of the posterior's *precision*: smaller than
        the posterior's own variances unless the columns of W are orthogonal (mean-field, Bishop 2006, section 10.1.2).
        """
        mean_NZ, _ = self.posterior(x_ND)
        return mean_NZ, (self.variance / self._matrix().diagonal()).sqrt().diag()

    def sample(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return ``count`` data ``(count, D)`` and the latents ``(count, Z)`` that they were made from."""
        dim, latent_dim = self.weight.shape
        latent = torch.randn(count, latent_dim, generator=generator, dtype=self.weight.dtype).to(self.weight.device)
        noise = torch.randn(count, dim, generator=generator, dtype=self.weight.dtype).to(self.weight.device)
        return self.decode(latent) + self.variance.sqrt() * noise, latent

    @classmethod
    @torch.no_grad()
    def fit(cls, x_ND: Tensor, latent_dim: int, *, floor: float = 0.0) -> Self:
        """Return the model of the highest likelihood, in the data's dtype; see :meth:`of_covariance`."""
        mean_D = x_ND.mean(0)
        centred = x_ND - mean_D
        return cls.of_covariance(mean_D, centred.T @ centred / max(len(x_ND), 1), latent_dim, floor=floor)

    @classmethod
    @torch.no_grad()
    def of_covariance(cls, mean_D: Tensor, covariance_DD: Tensor, latent_dim: int, *, floor: float = 0.0) -> Self:
        """Return the model of the highest likelihood for data of this mean and covariance (divided by N, not by N - 1).

        ``W = U (L - sigma^2 I)^(1/2)`` with the Z largest eigenvalues L and their vectors U (equation 7; any rotation of it
        is as good), sigma^2 the mean of the other eigenvalues (equation 8).

        Raises:
            DataError: if the data are not finite, or lie in Z dimensions and there is no floor: the likelihood then has no
                maximum.
        """
        if not (mean_D.isfinite().all() and covariance_DD.isfinite().all()):
            raise DataError("There is a number that is not finite in the data, or there are none.")
        values_D, vectors_DD = torch.linalg.eigh(covariance_DD)
        kept, variance = values_D[-latent_dim:].flip(0), values_D[:-latent_dim].mean()
        extra = variance - floor**2
        smallest = torch.finfo(variance.dtype).eps * values_D[-1].clamp(min=0)
        if floor == 0 and extra <= smallest:
            raise DataError(
                f"The data lie in {latent_dim} dimensions, so that their likelihood has no maximum: lower latent_dim, or "
                "set a floor of the noise."
            )
        with torch.device("meta"):  # no random number is drawn
            model = cls(len(mean_D), latent_dim, floor=floor)
        model.mean = nn.Parameter(mean_D.clone())
        model.log_variance = nn.Parameter(extra.clamp(min=torch.finfo(variance.dtype).tiny).log())
        model.weight = nn.Parameter(vectors_DD[:, -latent_dim:].flip(1) * (kept - model.variance).clamp(min=0).sqrt())
        return model

    def _matrix(self) -> Tensor:
        """Return ``M = W' W + sigma^2 I``, ``(Z, Z)``."""
        identity = torch.eye(self.weight.shape[1], device=self.weight.device, dtype=self.weight.dtype)
        return self.weight.T @ self.weight + self.variance * identity


def principal_angles(first_DZ: Tensor, second_DZ: Tensor) -> Tensor:
    """Return the angles between the spaces that two matrices' columns span, in radians, ``(Z,)``, the largest first.

    By sines where angles are small and by cosines where they are large, so that none loses its digits (Björck & Golub 1973).
    """
    first, second = torch.linalg.qr(first_DZ).Q, torch.linalg.qr(second_DZ).Q
    cosine = torch.linalg.svdvals(first.T @ second).flip(0).clamp(0, 1)
    sine = torch.linalg.svdvals(second - first @ (first.T @ second)).clamp(0, 1)
    return torch.where(cosine.square() < 0.5, cosine.acos(), sine.asin())
