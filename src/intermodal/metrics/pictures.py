"""How much two pictures differ, place by place: peak signal-to-noise ratio and structural similarity.

Shapes: B pictures, C channels, H, W height and width in pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from intermodal.core.errors import DataError

WINDOW = 11
"""Taps of the window along one axis (Wang et al. 2004, section III-B)."""
SIGMA = 1.5
"""Its standard deviation in pixels (the same section)."""
K1, K2 = 0.01, 0.03
"""What stabilises the two ratios, as shares of the peak (section III-B; C1 = (K1 peak)^2 and C2 = (K2 peak)^2)."""


def psnr(image_BCHW: Tensor, other_BCHW: Tensor, peak: float = 1.0) -> Tensor:
    """Return the peak signal-to-noise ratio of each picture, ``10 log10(peak^2 / MSE)``, in decibels.

    The mean squared error is over all pixels and channels of one picture, so a set's figure is the mean of its pictures'
    decibels, which is not the ratio of the whole set's mean error.

    Args:
        image_BCHW: pictures, values in 0..``peak``.
        other_BCHW: what they are compared with, the same shape.
        peak: the largest value that a pixel can have, its smallest being 0: 1 for pictures in 0..1, 255 for bytes.

    Returns:
        Shape ``(B,)``, float64; infinite where two pictures are equal.

    Raises:
        DataError: if the shapes differ or hold no pixel, or a value is not finite.
        ValueError: if the peak is not above 0.
    """
    image, other = _pair(image_BCHW, other_BCHW, peak)
    return 10 * torch.log10(peak**2 / (image - other).square().mean(dim=(1, 2, 3)))


def ssim(image_BCHW: Tensor, other_BCHW: Tensor, peak: float = 1.0) -> Tensor:
    """Return the structural similarity of each picture (Wang et al. 2004, equation 13 and section III-B).

    Means, variances and the covariance are taken under a Gaussian window of 11 x 11 taps and standard deviation 1.5 whose
    weights sum to one, at each place where the whole window lies in the picture; the map's mean is over places and, for
    colour, over channels each taken by itself. The authors' program does so for grey pictures, and drops the border as here;
    torchmetrics adds places of a reflected border to the mean, so its figures differ a little.

    Args:
        image_BCHW: pictures, values in 0..``peak``; at least 11 pixels high and wide.
        other_BCHW: what they are compared with, the same shape.
        peak: the largest value that a pixel can have, its smallest being 0.

    Returns:
        Shape ``(B,)``, float64, at most 1, which is reached by equal pictures alone.

    Raises:
        DataError: if the shapes differ or a picture is smaller than the window, or a value is not finite.
        ValueError: if the peak is not above 0.
    """
    image, other = _pair(image_BCHW, other_BCHW, peak)
    if min(image.shape[2:]) < WINDOW:
        raise DataError(
            f"SSIM looks through a window of {WINDOW} x {WINDOW} pixels, found pictures of {image.shape[2]} x "
            f"{image.shape[3]}: compare such small pictures by PSNR."
        )
    c1, c2 = (K1 * peak) ** 2, (K2 * peak) ** 2
    mean_x, mean_y = _windowed(image), _windowed(other)
    variances = _windowed(image * image + other * other) - mean_x * mean_x - mean_y * mean_y
    covariance = _windowed(image * other) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x * mean_x + mean_y * mean_y + c1)
    return (luminance * (2 * covariance + c2) / (variances + c2)).mean(dim=(1, 2, 3))


def _windowed(x_BCHW: Tensor) -> Tensor:
    """Return the mean under the Gaussian window at each place where it lies inside, one axis after the other."""
    offset = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    weight = torch.exp(-0.5 * (offset / SIGMA) ** 2)
    taps: list[float] = (weight / weight.sum()).tolist()
    for dim in (2, 3):
        size = x_BCHW.shape[dim] - WINDOW + 1
        # Sums written out: some ten times as fast here as a convolution of one channel.
        mean = x_BCHW.narrow(dim, WINDOW // 2, size) * taps[WINDOW // 2]
        for k in range(WINDOW // 2):
            pair = x_BCHW.narrow(dim, k, size) + x_BCHW.narrow(dim, WINDOW - 1 - k, size)
            mean = mean.add_(pair, alpha=taps[k])
        x_BCHW = mean
    return x_BCHW


def _pair(image_BCHW: Tensor, other_BCHW: Tensor, peak: float) -> tuple[Tensor, Tensor]:
    """Check two batches and return them in float64: the differences of squares here cancel in single precision."""
    if image_BCHW.shape != other_BCHW.shape or image_BCHW.ndim != 4 or not image_BCHW.numel():
        raise DataError(
            "Pictures are compared in two batches of one shape (B, C, H, W) with at least one pixel, found "
            f"{tuple(image_BCHW.shape)} and {tuple(other_BCHW.shape)}."
        )
    if not peak > 0:
        raise ValueError(f"The peak is the largest value of a pixel and must be above 0, found {peak}.")
    image, other = image_BCHW.double(), other_BCHW.double()
    for pictures in (image, other):
        if not (finite_B := torch.isfinite(pictures).flatten(1).all(1)).all():
            raise DataError(f"Picture {int(finite_B.int().argmin())} of a batch holds a value that is not finite.")
    return image, other
