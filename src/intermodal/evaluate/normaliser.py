"""How well noise-contrastive estimation learns a normaliser that is known, over the size of the sample.

The model is a Gaussian whose energy is quadratic and whose normaliser is one more parameter (Gutmann & Hyvarinen 2010,
section 3.1). The data are exact samples of a Gaussian, so the right normaliser is known in closed form, and the error
should fall as one over the root of the sample size (their theorem 3: the estimate is asymptotically normal).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from intermodal.core.progress import Progress, silent
from intermodal.data.densities import GaussianMixture, Kind, density
from intermodal.evaluate.result import Line, Lines
from intermodal.losses.nce import nce_loss
from intermodal.methods.contrastive.nce import NCE, NCEConfig
from intermodal.nn.energy import QuadraticEnergyConfig

SIZES = (100, 300, 1000, 3000, 10_000)
NOISE_WIDTH = 1.2


@dataclass(frozen=True)
class NormaliserStudy:
    """What was found.

    Attributes:
        sizes: samples of the data.
        errors: root mean square error of the log normaliser in nats, one number a size.
        slope: of the errors over the sizes, both in logarithms; -0.5 is expected.
    """

    sizes: tuple[int, ...]
    errors: tuple[float, ...]
    slope: float


def fit_gaussian(
    point_ND: np.ndarray, noise_samples: int, rng: np.random.Generator, iterations: int = 60
) -> tuple[float, NCE]:
    """Fit mean, precision and normaliser of a Gaussian by NCE on all points at once, in float64 by L-BFGS.

    Args:
        point_ND: the data.
        noise_samples: k; the noise is normal, with the data's mean and 1.2 times their standard deviation.
        rng: draws the noise.
        iterations: of L-BFGS, at most.

    Returns:
        The learnt log normaliser, and the model.
    """
    mean, std = point_ND.mean(0), NOISE_WIDTH * point_ND.std(0)
    config = NCEConfig(
        network=QuadraticEnergyConfig(dim=point_ND.shape[1]),
        noise_samples=noise_samples,
        noise_mean=tuple(mean.tolist()),
        noise_std=tuple(std.tolist()),
    )
    method = NCE(config, {}).double()
    data = torch.from_numpy(point_ND)
    noise = torch.from_numpy(mean + std * rng.standard_normal((noise_samples * len(point_ND), point_ND.shape[1])))
    data_noise, noise_noise = method.noise_density(data), method.noise_density(noise)
    optimizer = torch.optim.LBFGS(method.parameters(), max_iter=iterations, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nce_loss(method.log_density(data), method.log_density(noise), data_noise, noise_noise)
        loss.backward()
        return loss

    optimizer.step(closure)
    return float(method.log_normaliser.detach()), method


def study_normaliser(
    kind: Kind = "gaussian",
    sizes: Sequence[int] = SIZES,
    *,
    repeats: int = 20,
    noise_samples: int = 5,
    seed: int = 0,
    progress: Progress = silent,
) -> NormaliserStudy:
    """Return the error of the learnt log normaliser over sample sizes.

    Args:
        kind: ``gaussian-1d`` or ``gaussian``.
        sizes: samples of the data.
        repeats: independent data sets of each size.
        noise_samples: k.
        seed: of data and noise.
        progress: told what is done.
    """
    truth = density(kind)
    assert isinstance(truth, GaussianMixture)
    errors = []
    for place, size in enumerate(sizes):
        progress("Learning normalisers", place / len(sizes))
        found = []
        for repeat in range(repeats):
            rng = np.random.default_rng([seed, size, repeat])
            found.append(fit_gaussian(truth.sample(size, rng), noise_samples, rng)[0] - truth.log_normaliser)
        errors.append(math.sqrt(float(np.mean(np.square(found)))))
    slope = float(np.polyfit(np.log(sizes), np.log(errors), 1)[0])
    return NormaliserStudy(tuple(sizes), tuple(errors), slope)


def normaliser_lines(studies: dict[str, NormaliserStudy]) -> Lines:
    """Return the errors of several studies as curves, with the rate that theory gives beside them."""
    series = [Line(name, [float(s) for s in study.sizes], list(study.errors)) for name, study in studies.items()]
    first = next(iter(studies.values()))
    rate = [first.errors[0] * math.sqrt(first.sizes[0] / size) for size in first.sizes]
    series.append(Line("one over the root of the size", [float(s) for s in first.sizes], rate))
    return Lines(
        "Error of the learnt log normaliser",
        "A Gaussian whose normaliser is known, fitted by NCE to exact samples: root mean square error over 20 data sets.",
        "samples",
        "error (nats)",
        series,
        log_x=True,
        log_y=True,
    )
