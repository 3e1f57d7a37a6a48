"""Judges a linear-Gaussian model of pictures: how far each bound is from the likelihood, and the model from the best one.

All in float64, on held-out pictures:

- ``log_likelihood``, ``elbo``: ``log p(x)`` and the evidence lower bound in nats for each of a picture's D numbers, which
  are in -1..1. They are densities: they compare with each other and with no code length.
- ``chance_log_likelihood``: of one Gaussian of equal variance in all directions; ``ml_log_likelihood``: of the model that
  is most likely for the training pictures, by its formula (Tipping & Bishop 1999).
- ``gap``: what the bound lacks, in nats for each picture. ``identity_error``: the largest difference between a picture's
  gap and its ``KL(q || p(z|x))``, which are equal.
- ``family_gap``: what the best q of the method's family would still lack; ``amortisation_gap``: what q lacks beyond that,
  since a network gave it (Cremer et al. 2018). ``diagonal_gap``: the former for Gaussians of independent numbers.
- ``iw_gap``: what the importance-weighted bound of 1,024 samples lacks.
- ``degrees``: the largest angle between the space of W and that of the principal components; ``median_degrees``: the
  median.
- ``sigma``, ``ml_sigma``: the noise's standard deviation, of the model and of the most likely one.

    N pictures   D numbers of each   Z numbers of a latent   S samples   K samples of a bound
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from intermodal.core.progress import Progress
from intermodal.data.source import SourceConfig
from intermodal.evaluate.energy import read_pictures, spread_out
from intermodal.evaluate.result import Gallery, Item, Line, Lines, Panel, Scatter, Table
from intermodal.losses.variational import gaussian_kl, importance_bound
from intermodal.methods.image_tokenizers.elbo import ELBO
from intermodal.nn.linear_gaussian import LinearGaussian, principal_angles

PICTURES, QUICK, BOUNDED, SHOWN, STEPS = 512, 128, 64, 12, 400
TRAINED = 20_000
"""Training pictures, at most, that the most likely model is computed from."""
MOST = 1024
"""K of the tightest bound; there are as many samples of each picture's latent."""
WIDE = 2.0
"""Covariance of the q that is too wide, in units of the posterior's."""
NEAR = 20.0
"""Nats below the likelihood from which the climb of single posteriors is drawn."""
SEED = 0

Posterior = tuple[Tensor, Tensor]


@torch.no_grad()
def extras(
    method: ELBO, source: SourceConfig, split: str, progress: Progress, *, full: bool
) -> tuple[dict[str, float], list[Panel]]:
    """Return the figures of the module's text, and in full the panels.

    Args:
        method: the model.
        source: pictures; in full those of its training split, too, give the most likely model.
        split: what to judge on.
        progress: told what is done.
        full: all figures and panels; else what takes no time, on fewer pictures.
    """
    exact = copy.deepcopy(method).double().eval()
    image_NCHW = read_pictures(source.open(split), method.picture, PICTURES if full else QUICK).double()
    numbers = image_NCHW[0].numel()
    found = posteriors(exact, image_NCHW)
    likelihood_N = exact.log_likelihood(image_NCHW)
    bound_N = {name: exact.elbo(image_NCHW, *q) for name, q in found.items()}
    kl_N = {name: gaussian_kl(*q, *found["true posterior"]) for name, q in found.items()}
    gap = {name: (likelihood_N - bound).mean().item() for name, bound in bound_N.items()}
    metrics = {
        "log_likelihood": likelihood_N.mean().item() / numbers,
        "elbo": bound_N["inference"].mean().item() / numbers,
        "gap": gap["inference"],
        "identity_error": max((likelihood_N - b - kl_N[name]).abs().max().item() for name, b in bound_N.items()),
        "sigma": exact.model.variance.sqrt().item(),
    }
    if not full:
        return metrics, []
    family = 0.0 if method.config.covariance == "full" else gap["best diagonal"]
    metrics |= {
        "family_gap": family,
        "amortisation_gap": gap["inference"] - family,
        "diagonal_gap": gap["best diagonal"],
    }
    progress("Reading training pictures", 0.2)
    train = read_pictures(source.open("train"), method.picture, TRAINED).flatten(1).double()
    best = LinearGaussian.fit(train, method.config.latent_dim, floor=exact.model.floor)
    metrics |= _against(exact.model, best, train, image_NCHW.flatten(1))
    progress("Sampling the bounds", 0.6)
    some = image_NCHW[spread_out(len(image_NCHW), BOUNDED)]
    curves = bounds(exact, some, torch.Generator().manual_seed(SEED))
    metrics["iw_gap"] = exact.log_likelihood(some).mean().item() - curves["inference"][-1]
    progress("Drawing", 0.9)
    spectrum = torch.linalg.eigvalsh(torch.cov(train.T, correction=0)).flip(0)
    panels: list[Panel] = [
        _bounds(curves, exact.log_likelihood(some).mean().item(), len(some)),
        _gaps(exact, some),
        _per_sample(exact, some),
        _table(metrics, method),
        _spectrum(exact.model, spectrum),
        _directions(exact),
    ]
    return metrics, panels


def posteriors(method: ELBO, image_NCHW: Tensor) -> dict[str, Posterior]:
    """Return mean and factor of several q for prepared pictures: the method's own, and others to compare it with."""
    true = method.true_posterior(image_NCHW)
    return {
        "inference": method.posterior(image_NCHW),
        "best diagonal": method.model.best_diagonal(image_NCHW.flatten(1)),
        "too wide": (true[0], math.sqrt(WIDE) * true[1]),
        "true posterior": true,
    }


def bounds(method: ELBO, image_NCHW: Tensor, generator: torch.Generator) -> dict[str, list[float]]:
    """Return, for each q of :func:`posteriors`, the importance-weighted bound in nats for K = 1, 2, 4 ... 1,024.

    Each is the mean over pictures and over 1,024 / K groups of the same samples.
    """
    size = method.config.latent_dim
    noise = torch.randn(MOST, len(image_NCHW), size, generator=generator, dtype=torch.float64).to(image_NCHW.device)
    found = {}
    for name, (mean_NZ, factor) in posteriors(method, image_NCHW).items():
        weight_SN = torch.cat([method.log_weights(image_NCHW, mean_NZ, factor, part) for part in noise.split(64)])
        found[name] = [importance_bound(weight_SN, k).mean().item() for k in _doubling()]
    return found


def isotropic(train_ND: Tensor, held_ND: Tensor, floor: float) -> Tensor:
    """Return log densities ``(N,)`` in nats of held-out data under the Gaussian of one variance fitted to training data."""
    mean_D = train_ND.mean(0)
    variance = (train_ND - mean_D).square().mean().clamp(min=floor**2)
    square_N = (held_ND - mean_D).square().sum(1) / variance
    return -0.5 * (held_ND.shape[1] * (2 * math.pi * variance).log() + square_N)


def _against(model: LinearGaussian, best: LinearGaussian, train: Tensor, held: Tensor) -> dict[str, float]:
    """Return how a model stands beside the most likely one; nats for each number."""
    numbers, angles = held.shape[1], torch.rad2deg(principal_angles(model.weight, best.weight))
    return {
        "chance_log_likelihood": isotropic(train, held, model.floor).mean().item() / numbers,
        "ml_log_likelihood": best.log_likelihood(held).mean().item() / numbers,
        "train_log_likelihood": model.log_likelihood(train).mean().item() / numbers,
        "ml_train_log_likelihood": best.log_likelihood(train).mean().item() / numbers,
        "degrees": angles[0].item(),
        "median_degrees": angles.median().item(),
        "ml_sigma": best.variance.sqrt().item(),
    }


def _doubling() -> list[int]:
    return [2**i for i in range(MOST.bit_length())]


def _bounds(curves: dict[str, list[float]], likelihood: float, count: int) -> Lines:
    x = [float(k) for k in _doubling()]
    names = {"inference": "q of the model's inference", "best diagonal": "best q of independent numbers"}
    names["too wide"] = f"true posterior, its covariance times {WIDE:.0f}"
    series = [Line("log p(x), exact", x, [likelihood] * len(x))]
    series += [Line(words, x, curves[name]) for name, words in names.items()]
    about = (
        f"The importance-weighted bound of K samples, mean of {count} held-out pictures; at K = 1 it is the evidence lower "
        "bound. It rises with K to the likelihood, the faster the nearer q is to the posterior."
    )
    return Lines("Bounds and likelihood", about, "K", "nats for each picture", series, log_x=True)


def _gaps(method: ELBO, image_NCHW: Tensor) -> Scatter:
    """Return the gap of the bound against the divergence of q from the posterior, for several q."""
    generator = torch.Generator().manual_seed(SEED)
    mean_NZ, factor = method.true_posterior(image_NCHW)
    width_N = 4.0 ** (torch.rand(len(mean_NZ), generator=generator, dtype=torch.float64).to(mean_NZ) - 0.5)
    words = {
        "the model's inference": method.posterior(image_NCHW),
        "best q of independent numbers": method.model.best_diagonal(image_NCHW.flatten(1)),
        "true posterior, made wider or narrower": (mean_NZ, width_N[:, None, None] * factor),
    }
    likelihood_N = method.log_likelihood(image_NCHW)
    points: list[tuple[float, float]] = []
    for q in words.values():
        divergence, gap = gaussian_kl(*q, mean_NZ, factor), likelihood_N - method.elbo(image_NCHW, *q)
        points += zip(divergence.tolist(), gap.tolist(), strict=True)
    about = (
        "Each point is a held-out picture and a q: to the right KL(q || p(z|x)), upward log p(x) minus the evidence lower "
        "bound, both in nats. They are equal, so that all points lie on the diagonal."
    )
    groups = [name for name in words for _ in range(len(mean_NZ))]
    return Scatter("What the bound lacks is the divergence", about, points, [""] * len(points), groups)


def _per_sample(method: ELBO, image_NCHW: Tensor) -> Lines:
    """Return how the bound rises where each picture's own q is found by gradients, beside what the inference gives."""
    _, _, history = method.ascend(image_NCHW, STEPS)
    top = method.log_likelihood(image_NCHW).mean().item()
    first = next((i for i, bound in enumerate(history) if bound > top - NEAR), 0)
    x = [float(step) for step in range(first, len(history))]
    given = method.elbo(image_NCHW, *method.posterior(image_NCHW)).mean().item()
    series = [
        Line("log p(x), exact", x, [top] * len(x)),
        Line("the model's inference, without a step", x, [given] * len(x)),
        Line("q of each picture, by gradients", x, history[first:]),
    ]
    about = (
        "Each picture's own mean and covariance climb the bound from the prior (Adam), seen from where less than "
        f"{NEAR:.0f} nats are missing; the inference gives its q at once. {len(image_NCHW)} held-out pictures."
    )
    return Lines("A posterior for each picture", about, "step", "nats for each picture", series)


def _table(metrics: dict[str, float], method: ELBO) -> Table:
    rows: list[list[str | float | None]] = [
        ["log p(x), nats for each number", metrics["log_likelihood"], metrics["ml_log_likelihood"]],
        ["the same of training pictures", metrics["train_log_likelihood"], metrics["ml_train_log_likelihood"]],
        ["sigma of the noise", metrics["sigma"], metrics["ml_sigma"]],
        ["largest angle between the spaces, degrees", metrics["degrees"], 0.0],
        ["median angle", metrics["median_degrees"], 0.0],
        ["gap of the bound, nats for each picture", metrics["gap"], 0.0],
        ["of which the family of q", metrics["family_gap"], 0.0],
        ["of which the inference network", metrics["amortisation_gap"], 0.0],
        ["largest difference of gap and divergence", metrics["identity_error"], 0.0],
    ]
    about = (
        f"Inference: {method.config.inference}, {method.config.covariance} covariance. Beside it the model that is most "
        "likely for the training pictures, by the formula of principal component analysis."
    )
    return Table("Where the climb ended", about, ["", "reached", "maximum likelihood"], rows)


def _spectrum(model: LinearGaussian, values_D: Tensor) -> Lines:
    latent_dim, (length, *_) = model.weight.shape[1], values_D.shape
    kept = torch.linalg.svdvals(model.weight).square() + model.variance
    shown = min(2 * latent_dim, length)
    learnt = [*kept.tolist(), *[model.variance.item()] * (shown - latent_dim)][:shown]
    x = [float(i) for i in range(1, shown + 1)]
    series = [Line("the model", x, learnt), Line("training pictures", x, values_D[:shown].clamp(min=1e-12).tolist())]
    about = (
        f"Eigenvalues of the covariance, the largest first. The model has {latent_dim} of its own and gives all others the "
        "variance of its noise, which at the maximum of the likelihood is their mean."
    )
    return Lines("Variance in each direction", about, "direction", "variance", series, log_y=True)


def _directions(method: ELBO) -> Gallery:
    """Return the mean picture, moved along the principal directions of the model by two standard deviations."""
    axes, scale, _ = torch.linalg.svd(method.model.weight, full_matrices=False)
    picture, mean = method.picture, method.model.mean
    rows: list[tuple[Item, list[Item]]] = []
    for sign, words in ((0.0, "the mean"), (2.0, "two deviations up"), (-2.0, "two deviations down")):
        count = 1 if sign == 0 else min(SHOWN, len(scale))
        moved = torch.stack([mean + sign * scale[i] * axes[:, i] for i in range(count)])
        rows.append((Item(text=words), [Item(image=i) for i in picture.decode(moved.unflatten(1, method.shape))]))
    samples = method.generate(SHOWN, seed=SEED)
    rows.append((Item(text="samples of the prior"), [Item(image=image) for image in samples]))
    return Gallery("What it has learnt", "The principal directions of W, the strongest first.", rows)
