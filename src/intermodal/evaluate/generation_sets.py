"""Sets of pictures compared by features: drawn ones, held-out ones, training ones and samples of a Gaussian of pixels.

N drawn or held-out pictures   M training pictures   P numbers of a picture   D features
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from intermodal.data.processors import ImageProcessor
from intermodal.data.source import SourceConfig
from intermodal.evaluate.energy import spread_out
from intermodal.evaluate.prior import batched
from intermodal.evaluate.tokenizers import batch_of
from intermodal.metrics.frechet import coverage, frechet_distance, kernel_distance
from intermodal.nn.features import features_v1

CHUNK = 64
"""Pictures in the feature network at a time."""
NEIGHBOUR = 3
"""Which neighbour a ball of ``precision`` and ``recall`` reaches to."""
TYPICAL = 0.05
"""Nearer to training pictures than all but this share of held-out pictures is not novel."""
ROWS = 256
"""Pictures whose distances to all training pictures are held at a time."""


@dataclass(frozen=True)
class Training:
    """What is known of training pictures, and of a Gaussian of their pixels.

    Attributes:
        features_MD: of the training pictures.
        gaussian_ND: of samples of the Gaussian.
        places: which samples of the source the training pictures are.
    """

    features_MD: Tensor
    gaussian_ND: Tensor
    places: list[int]


@torch.no_grad()
def features_of(images: Sequence[Image.Image]) -> Tensor:
    """Return the pooled features on features-v1 of pictures of one size, ``(N, D)``; small ones are enlarged."""
    network, parts = features_v1(), []
    for part in batched(images, CHUNK):
        image_BCHW = batch_of(part).float() / 255
        if (side := min(image_BCHW.shape[2:])) < network.config.smallest:
            factor = math.ceil(network.config.smallest / side)
            image_BCHW = F.interpolate(image_BCHW, scale_factor=factor, mode="bilinear", align_corners=False)
        parts.append(network.pooled(image_BCHW))
    return torch.cat(parts)


class PixelGaussian:
    """Samples of a Gaussian with the mean and covariance of pictures that are seen once, few at a time.

    A sample is ``mean + X^T g / sqrt(M - 1)``, with X the centred pictures ``(M, P)`` and g of M unit normal numbers:
    neither X nor its covariance ``(P, P)`` is ever held.

    Args:
        numbers: P.
        count: N, how many samples.
        seed: of the samples.
    """

    def __init__(self, numbers: int, count: int, seed: int = 0) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._pictures, self._sum_P = 0, torch.zeros(numbers)
        self._mixed_NP, self._weight_N = torch.zeros(count, numbers), torch.zeros(count)

    def add(self, x_mP: Tensor) -> None:
        """Take note of pictures; values around 0 lose no digits."""
        g_Nm = torch.randn(len(self._weight_N), len(x_mP), generator=self._generator)
        self._pictures += len(x_mP)
        self._sum_P += x_mP.sum(0)
        self._mixed_NP.addmm_(g_Nm, x_mP)
        self._weight_N += g_Nm.sum(1)

    def samples(self) -> Tensor:
        """Return the samples ``(N, P)``."""
        mean_P = self._sum_P / self._pictures
        return mean_P + (self._mixed_NP - self._weight_N[:, None] * mean_P) / math.sqrt(max(self._pictures - 1, 1))


@functools.lru_cache(maxsize=2)
def training_of(source: SourceConfig, picture: ImageProcessor, most: int, count: int) -> Training:
    """Look at ``most`` training pictures at most, once, and sample a Gaussian of their pixels ``count`` times.

    What is found stays in memory for the next evaluation of the same run.
    """
    train, (height, width) = source.open("train"), picture.size
    places, gaussian = spread_out(len(train), most), PixelGaussian(3 * height * width, count)
    features = []
    for images in batched((picture.fitted(train.sample(i)["image"]) for i in places), CHUNK):
        features.append(features_of(images))
        gaussian.add(batch_of(images).flatten(1).float() - 127.5)
    pixels_NP = (gaussian.samples() + 127.5).round().clamp(0, 255).byte()
    arrays = pixels_NP.view(count, 3, height, width).permute(0, 2, 3, 1).numpy()
    return Training(torch.cat(features), features_of([Image.fromarray(array) for array in arrays]), places)


def set_figures(real_ND: Tensor, drawn_ND: Tensor, training: Training) -> dict[str, float]:
    """Return the figures on features; those that need more pictures than there are, are left out."""
    count = len(drawn_ND)
    known_ND = training.features_MD[spread_out(len(training.features_MD), count)]
    sets = {"": drawn_ND, "chance_": training.gaussian_ND[:count], "training_": known_ND}
    found: dict[str, float] = {}
    for name, distance in (("frechet", frechet_distance), ("kid", kernel_distance)):
        found |= {
            who + name: distance(real_ND, other) for who, other in sets.items() if len(other) > 1 and len(real_ND) > 1
        }
    for who, other in sets.items():
        if min(len(real_ND), len(other)) > NEIGHBOUR:
            share = coverage(real_ND, other, NEIGHBOUR)
            found |= {f"{who}precision": share.precision, f"{who}recall": share.recall}
    near_N, _ = nearest_known(drawn_ND, training.features_MD)
    typical_N, _ = nearest_known(real_ND, training.features_MD)
    found["novelty"] = novelty(near_N, typical_N)
    return found


def nearest_known(asked_ND: Tensor, known_MD: Tensor) -> tuple[Tensor, Tensor]:
    """Return each picture's distance to its nearest training picture by features, and which that is, ``(N,)`` each."""
    exact: Any = "donot_use_mm_for_euclid_dist"
    found = [torch.cdist(part, known_MD, compute_mode=exact).min(1) for part in asked_ND.split(ROWS)]
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])


def novelty(near_N: Tensor, typical_N: Tensor) -> float:
    """Return the share of drawn pictures that are no copies.

    Args:
        near_N: the distance of each drawn picture to its nearest training picture.
        typical_N: the same of held-out pictures; nearer than 95 % of them is too near.
    """
    bound = typical_N.quantile(TYPICAL)
    return float(((near_N >= bound) & (near_N > 0)).double().mean())
