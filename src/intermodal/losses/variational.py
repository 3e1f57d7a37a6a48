"""The variational principle: bounds of a log-likelihood from samples, and Gaussians with full covariances.

With ``log w = log p(x, z) - log q(z)`` of latents drawn from q, the mean of ``log w`` estimates the evidence lower bound
(Kingma & Welling 2014, equation 2), and the logarithm of the mean of ``w`` over K of them the importance-weighted bound,
which rises to ``log p(x)`` with K (Burda et al. 2016, equation 8 and theorem 1). What the former lacks of it is
``KL(q(z) || p(z|x))``.

A Gaussian is a mean ``(..., Z)`` and the lower Cholesky factor ``(..., Z, Z)`` of its covariance, whose diagonal is above
zero. Gaussians whose numbers are independent are in :mod:`intermodal.nn.gaussian`.

    S samples of a latent   K those that make one bound   B data   Z numbers of a latent
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from intermodal.core.errors import ConfigError


def elbo(log_weight_SB: Tensor) -> Tensor:
    """Return the evidence lower bound in nats, estimated without bias: the mean over the samples, ``(B,)``."""
    return log_weight_SB.mean(0)


def importance_bound(log_weight_SB: Tensor, samples: int | None = None) -> Tensor:
    """Return the importance-weighted bound in nats, estimated without bias, ``(B,)`` (Burda et al. 2016, equation 8).

    Args:
        log_weight_SB: ``log p(x, z) - log q(z)`` of S independent latents of q for each datum.
        samples: K, of a bound; the mean over the S / K groups of neighbours is returned. All S by default; 1 is
            :func:`elbo`.

    Raises:
        ConfigError: if K does not divide S.
    """
    count = len(log_weight_SB)
    size = count if samples is None else samples
    if size < 1 or count % size:
        raise ConfigError(f"Importance-weighted bound: K must divide the {count} samples, found {size}.")
    return (log_weight_SB.unflatten(0, (-1, size)).logsumexp(1) - math.log(size)).mean(0)


def gaussian_sample(mean: Tensor, factor: Tensor, noise: Tensor) -> Tensor:
    """Return ``mean + factor @ noise``, which has the Gaussian's law if the noise ``(..., Z)`` is unit normal."""
    return mean + (factor @ noise.unsqueeze(-1)).squeeze(-1)


def gaussian_log_density(value: Tensor, mean: Tensor, factor: Tensor) -> Tensor:
    """Return the logarithm of the density at ``value`` ``(..., Z)`` in nats, ``(...,)``."""
    white = _solve(factor, value - mean)
    return -0.5 * (value.shape[-1] * math.log(2 * math.pi) + white.square().sum(-1)) - _half_log_det(factor)


def gaussian_kl(mean: Tensor, factor: Tensor, other_mean: Tensor, other_factor: Tensor) -> Tensor:
    """Return the divergence of a Gaussian from another one in nats, ``(...,)``.

    ``(tr(P^-1 S) + (m - n)' P^-1 (m - n) - Z + log det P - log det S) / 2`` for N(m, S) and the other N(n, P).
    """
    shape = torch.broadcast_shapes(factor.shape, other_factor.shape)
    ratio = torch.linalg.solve_triangular(other_factor.expand(shape), factor.expand(shape), upper=False)
    shift = _solve(other_factor, mean - other_mean)
    square = ratio.square().sum((-2, -1)) + shift.square().sum(-1) - mean.shape[-1]
    return 0.5 * square + _half_log_det(other_factor) - _half_log_det(factor)


def _half_log_det(factor: Tensor) -> Tensor:
    return factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def _solve(factor: Tensor, value: Tensor) -> Tensor:
    """Return ``factor^-1 value`` of ``value`` ``(..., Z)``."""
    shape = torch.broadcast_shapes(factor.shape[:-2], value.shape[:-1])
    size = value.shape[-1]
    column = value.expand(*shape, size).unsqueeze(-1)
    return torch.linalg.solve_triangular(factor.expand(*shape, size, size), column, upper=False).squeeze(-1)
