"""How likely pixels are under a decoder's output: densities, and probabilities of eight-bit values.

Pixels are in -1..1. Those of eight-bit pictures are ``k / 127.5 - 1`` with k from 0 to 255; around each lies a bin that
reaches half way to its neighbours, and the first and last bins reach to infinity. A probability of bins is at most one, so
that its negative logarithm can be compared between models and with files, in bits; a density has no upper bound, and its
logarithm depends on the unit that pixels are measured in (Theis et al. 2016, section 3.1).

All functions return nats for each pixel value, of the shape that their arguments broadcast to.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

LEVELS = 256
HALF_BIN = 1 / (LEVELS - 1)
"""Half the distance of neighbouring eight-bit pixels in -1..1."""
FLAT = 1e-3
"""Below this slope a density over 0..1 counts as even."""


def gaussian_density(pixel: Tensor, mean: Tensor, log_sigma: Tensor) -> Tensor:
    """Return the logarithm of the normal density (Kingma & Welling 2014, appendix C.2)."""
    return -0.5 * (math.log(2 * math.pi) + ((pixel - mean) * torch.exp(-log_sigma)).square()) - log_sigma


def gaussian_bins(pixel: Tensor, mean: Tensor, log_sigma: Tensor) -> Tensor:
    """Return the logarithm of the probability that a normal number falls into the pixel's bin."""
    scale = torch.exp(-log_sigma)
    low, high = (pixel - HALF_BIN - mean) * scale, (pixel + HALF_BIN - mean) * scale
    low, high = torch.where(pixel > mean, -high, low), torch.where(pixel > mean, -low, high)  # both in the lower half
    below_low, below_high = torch.special.log_ndtr(low), torch.special.log_ndtr(high)
    inside = below_high + _log_1m_exp(below_low - below_high)
    to_the_end = torch.special.log_ndtr((pixel.sign() * (mean - pixel) + HALF_BIN) * scale)
    return torch.where(_is_edge(pixel), to_the_end, inside)


def logistic_bins(pixel: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Return the logarithm of the probability that a logistic number falls into the pixel's bin.

    Kingma et al. 2016; Salimans et al. 2017, section 2.1. Written by the identity ``sigmoid(b) - sigmoid(a) =
    sigmoid(b) sigmoid(-a) (1 - exp(a - b))``, which loses no digits anywhere.
    """
    scale = torch.exp(-log_scale)
    low, high = (pixel - HALF_BIN - mean) * scale, (pixel + HALF_BIN - mean) * scale
    inside = F.logsigmoid(high) + F.logsigmoid(-low) + _log_1m_exp(-2 * HALF_BIN * scale)
    return torch.where(_is_edge(pixel), torch.where(pixel < 0, F.logsigmoid(high), F.logsigmoid(-low)), inside)


def bernoulli(pixel: Tensor, logit: Tensor) -> Tensor:
    """Return ``p log q + (1 - p) log(1 - q)`` with p the pixel in 0..1 and q the decoder's probability of white.

    The logarithm of a probability where every pixel is black or white (Kingma & Welling 2014, appendix C.1). For the greys
    between it is no likelihood at all: over 0..1 its exponential does not integrate to one (Loaiza-Ganem & Cunningham
    2019). :func:`continuous_bernoulli_bins` is what the same decoder says about eight-bit pixels.
    """
    return (pixel + 1) / 2 * logit + F.logsigmoid(-logit)


def continuous_bernoulli_bins(pixel: Tensor, logit: Tensor) -> Tensor:
    """Return the logarithm of the probability of a pixel's level, the 256th part of 0..1, under the continuous Bernoulli.

    The density is ``q^x (1 - q)^(1 - x)``, divided by its integral over 0..1 (Loaiza-Ganem & Cunningham 2019),
    so it is proportional to ``exp(x logit)``, whose integral over a bin is known.
    """
    level = ((pixel + 1) / 2 * (LEVELS - 1)).round()
    slope = logit.abs()
    start = torch.where(logit < 0, LEVELS - 1 - level, level) / LEVELS  # the same density, turned so that it rises
    steep = slope.clamp(min=FLAT)
    inside = start * steep + _log_expm1(steep / LEVELS) - _log_expm1(steep)
    return torch.where(slope < FLAT, inside.new_full((), -math.log(LEVELS)), inside)


def _is_edge(pixel: Tensor) -> Tensor:
    return pixel.abs() > 1 - HALF_BIN


def _log_1m_exp(x: Tensor) -> Tensor:
    """Return ``log(1 - exp(x))`` of numbers below 0."""
    return torch.log(-torch.expm1(x))


def _log_expm1(x: Tensor) -> Tensor:
    """Return ``log(exp(x) - 1)`` of numbers above 0."""
    return x + _log_1m_exp(-x)
