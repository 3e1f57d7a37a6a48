"""Judges a variational autoencoder: bits per dimension, the prior's samples, and what lies between and along latents.

- ``bits_per_dim``: the negative evidence lower bound of held-out pictures in bits, over their C H W numbers. It is the
  length of a lossless code of the eight-bit RGB pictures that bits-back coding attains (Hinton & van Camp 1993; Townsend et
  al. 2019): every likelihood is taken as the probability of the pixel's level (:meth:`VAE.log_likelihood` with ``bins``),
  never as a density.
- ``iw_bits_per_dim``: the same of the importance-weighted bound (Burda et al. 2016, equation 8) of :data:`SAMPLES` latents.
- ``kl_bits_per_dim``: the divergence's part of it.
- ``png_bits_per_dim``, ``webp_bits_per_dim``: the same pictures as PNG and lossless WebP files, containers included.

    N, B pictures   C, H, W channels, height and width   Z numbers or channels of the latent
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from intermodal.core.progress import Progress
from intermodal.data.source import SourceConfig
from intermodal.evaluate.energy import read_pictures, spread_out
from intermodal.evaluate.result import Bars, Gallery, Item, Panel
from intermodal.losses.variational import importance_bound
from intermodal.methods.image_tokenizers.tokenizer import evaluating
from intermodal.methods.image_tokenizers.vae import VAE
from intermodal.nn.gaussian import DiagonalGaussian

PICTURES, QUICK, SAMPLES, CHUNK = 256, 64, 64, 64
SHOWN, STEPS, UNITS, REACH = 24, 9, 8, 2.5
SEED = 0


@dataclass(frozen=True)
class Bounds:
    """Lower bounds of ``log p(x)`` of eight-bit pictures, in nats, each ``(B,)``.

    Attributes:
        elbo: the evidence lower bound, averaged over the samples.
        importance: the importance-weighted bound of all samples together; in the mean never lower.
        kl: the divergence, by its formula.
    """

    elbo: Tensor
    importance: Tensor
    kl: Tensor


@torch.no_grad()
def bounds(method: VAE, image_BCHW: Tensor, samples: int, generator: torch.Generator) -> Bounds:
    """Return lower bounds of how likely prepared pictures are.

    Args:
        method: the model, in evaluation mode, so that a width that training finds for each batch is the remembered one.
        image_BCHW: prepared pictures of whole grey levels.
        samples: how many latents are drawn for each, at least 1.
        generator: whose numbers they are.
    """
    posterior = method.posterior(image_BCHW)
    prior = DiagonalGaussian(torch.zeros_like(posterior.mean), torch.zeros_like(posterior.log_var))
    likelihoods, weights, kl_B = [], [], posterior.kl().flatten(1).sum(1)
    for _ in range(samples):
        latent = posterior.sample(generator)
        likelihoods.append(method.log_likelihood(image_BCHW, method.output(latent), bins=True))
        ratio_B = (prior.log_density(latent) - posterior.log_density(latent)).flatten(1).sum(1)
        weights.append(likelihoods[-1] + ratio_B)
    return Bounds(torch.stack(likelihoods).mean(0) - kl_B, importance_bound(torch.stack(weights)), kl_B)


@torch.no_grad()
def extras(
    method: VAE, source: SourceConfig, split: str, progress: Progress, *, full: bool
) -> tuple[dict[str, float], list[Panel]]:
    """Return the figures of the module's text, and in full the panels.

    Args:
        method: the model.
        source: pictures.
        split: what to judge on.
        progress: told what is done.
        full: 256 pictures, 64 samples of each latent and the panels; else 64 pictures and one sample.
    """
    image_NCHW = read_pictures(source.open(split), method.picture, PICTURES if full else QUICK)
    with evaluating(method):
        metrics = _bits(method, image_NCHW, progress, SAMPLES if full else 1)
        if not full:
            return metrics, []
        metrics |= files(method.picture.decode(image_NCHW))
        progress("Drawing", 0.9)
        panels: list[Panel] = [samples(method), interpolations(method, image_NCHW), traversals(method, image_NCHW)]
        panels.append(units(method, image_NCHW))
    return metrics, panels


def _bits(method: VAE, image_NCHW: Tensor, progress: Progress, samples: int) -> dict[str, float]:
    found, generator = [], torch.Generator().manual_seed(SEED)
    for first in range(0, len(image_NCHW), CHUNK):
        progress("Bounding the likelihood", first / len(image_NCHW))
        found.append(bounds(method, image_NCHW[first : first + CHUNK].to(method.device), samples, generator))
    unit = image_NCHW[0].numel() * math.log(2)
    metrics = {"bits_per_dim": -torch.cat([b.elbo for b in found]).mean().item() / unit}
    if samples > 1:
        metrics["iw_bits_per_dim"] = -torch.cat([b.importance for b in found]).mean().item() / unit
    return {**metrics, "kl_bits_per_dim": torch.cat([b.kl for b in found]).mean().item() / unit}


def files(images: Sequence[Image.Image]) -> dict[str, float]:
    """Return the bits per dimension of pictures as lossless files of the usual kinds."""
    found = {}
    for kind, options in (("png", {"optimize": True}), ("webp", {"lossless": True, "quality": 100})):
        sizes = []
        for image in images:
            buffer = io.BytesIO()
            image.save(buffer, kind, **options)
            sizes.append(8 * len(buffer.getvalue()) / (3 * image.width * image.height))
        found[f"{kind}_bits_per_dim"] = float(np.mean(sizes))
    return found


def samples(method: VAE) -> Gallery:
    """Return pictures of latents from the prior."""
    made = method.generate(SHOWN, seed=SEED)
    rows = [(Item(text="samples"), [Item(image=image) for image in made[i : i + 12]]) for i in range(0, SHOWN, 12)]
    about = "Latents from the unit normal, decoded; the means of the pixels, without the noise of the likelihood."
    return Gallery("Samples of the prior", about, rows)


def interpolations(method: VAE, image_NCHW: Tensor) -> Gallery:
    """Return pictures of latents on the lines between those of held-out pictures."""
    pairs = image_NCHW[spread_out(len(image_NCHW), 8)].to(method.device)
    means = method.to_latent(pairs)
    rows = []
    for i in range(0, len(means) - 1, 2):
        line = torch.stack([torch.lerp(means[i], means[i + 1], t / (STEPS - 1)) for t in range(STEPS)])
        shown = [Item(image=image) for image in method.picture.decode(method.to_image(line).float())]
        ends = method.picture.decode(pairs[i : i + 2])
        rows.append((Item(image=ends[0], text="from"), [*shown, Item(image=ends[1], note="to")]))
    about = "Straight lines between the means of two held-out pictures' latents, in nine steps."
    return Gallery("Interpolations", about, rows)


def traversals(method: VAE, image_NCHW: Tensor) -> Gallery:
    """Return one picture decoded with one number of its latent changed, for the numbers that carry most bits."""
    picture = image_NCHW[spread_out(len(image_NCHW), 3)[1:2]].to(method.device)
    mean = method.to_latent(picture)
    order = _bits_of_units(method, image_NCHW).argsort(descending=True)[:UNITS].tolist()
    rows = []
    for unit in order:
        line = mean.repeat(STEPS, *[1] * (mean.ndim - 1))
        places = torch.linspace(-REACH, REACH, STEPS, device=mean.device)
        line[:, unit] = places.view(-1, *[1] * (mean.ndim - 2)) + (mean[:, unit] if mean.ndim > 2 else 0)
        images = method.picture.decode(method.to_image(line).float())
        notes = [f"{place:+.1f}" for place in places.tolist()]
        rows.append((Item(text=f"number {unit}"), [Item(image=i, note=n) for i, n in zip(images, notes, strict=True)]))
    what = "set to" if mean.ndim == 2 else "raised everywhere by"
    about = f"One held-out picture; in each row one number of its latent is {what} the value below. Most bits first."
    return Gallery("Traversals", about, rows)


def units(method: VAE, image_NCHW: Tensor) -> Bars:
    """Return how many bits each number of a vector, or channel of a map, takes."""
    bits = _bits_of_units(method, image_NCHW)
    order = bits.argsort(descending=True)[:32].tolist()
    what = "number" if len(method.latent_shape()) == 1 else "channel"
    about = f"The divergence of each {what} of the latent, mean over held-out pictures, the largest first (at most 32)."
    return Bars("Where the bits are", about, [f"{what} {i}" for i in order], bits[order].tolist(), unit="bits")


def _bits_of_units(method: VAE, image_NCHW: Tensor) -> Tensor:
    """Return the mean bits of each number of a vector or channel of a map, ``(Z,)``."""
    kl = torch.cat([method.posterior(part).kl() for part in image_NCHW.to(method.device).split(CHUNK)])
    return (kl.flatten(2).sum(2) if kl.ndim > 2 else kl).mean(0).cpu() / math.log(2)
