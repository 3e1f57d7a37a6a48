"""Judges an image tokenizer: how much of held-out pictures comes back, and for how many bits.

Every figure is a mean over held-out pictures, fitted to the model's size, and of eight-bit pixels, as a person gets them.

- ``psnr``: of each picture, in decibels. The error counts as that of rounding to whole grey levels at least, so that a
  picture that comes back exactly has 58.9 dB and not infinitely many.
- ``chance_psnr``: what a thumbnail of as many bits reaches: the largest small RGB picture at eight bits a channel that fits
  into the bits of the picture's own latent (never less than one pixel), made and enlarged again by bicubic interpolation.
- ``ssim``: structural similarity (Wang et al. 2004); not of pictures under 11 pixels.
- ``perceptual``, ``frechet``: distances in the features of the library's own network, *features-v1*, trained on emoji
  (:mod:`intermodal.nn.features`): between each picture and what comes back, and between the two sets of pictures (Heusel et
  al. 2017), the latter in a full evaluation only. Another network, or another number of pictures, gives other figures: they
  compare with each other and with no published LPIPS or FID. Not of pictures under 16 pixels.
- ``bits``, ``bits_per_pixel``: what a latent takes, by :meth:`ImageTokenizer.bits`, and that over the picture's pixels.
- Of codes, ``usage``: the share of the codebook that occurs among all codes of the judged pictures, and ``perplexity``: how
  many codes of equal frequency would be as hard to guess. Where a place has several codes (residual quantizers) each has a
  codebook of its own, and the figures are means over these.
- Of real numbers whose posterior is held near a unit normal (a model that has ``posterior``), ``active_units``: how many of
  the latent's means vary between pictures by a variance of more than 0.01 (Burda et al. 2016, section 5.2), and
  ``active_share``: of all.

``chance_`` before a name stands for the same figure of the thumbnails.

    N pictures   H, W height and width in pixels   h, w places of the latent, Q codes at each   K codes of a codebook
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from intermodal.core.errors import DataError, TrainingError
from intermodal.core.progress import Progress
from intermodal.data.source import Source, SourceConfig
from intermodal.evaluate.encoding import Steps
from intermodal.evaluate.energy import spread_out
from intermodal.evaluate.result import Bars, Evaluation, Gallery, Headline, Item, Panel, Table
from intermodal.losses.perceptual import perceptual_distance
from intermodal.methods.image_tokenizers.codebook import collapsed
from intermodal.metrics import pictures as distances
from intermodal.metrics.frechet import frechet_distance
from intermodal.nn.features import features_v1

if TYPE_CHECKING:
    from intermodal.methods.image_tokenizers.tokenizer import ImageTokenizer

PICTURES, QUICK, SHOWN, CHUNK = 512, 128, 10, 64
BARS = 16
"""So many codes are drawn, evenly spread over their ranks."""
MOST_PSNR = 10 * math.log10(255**2 * 12)
"""Of a picture that comes back exactly: the error of rounding to whole grey levels is 1/12."""
ACTIVE = 0.01


def evaluate_tokenizer(
    method: ImageTokenizer, source: SourceConfig, split: str, progress: Progress, *, full: bool = True
) -> Evaluation:
    """Judge an image tokenizer on a split; see the module's text.

    Args:
        method: the model.
        source: pictures; labels and texts are not looked at.
        split: what to judge on.
        progress: told what is done.
        full: 512 pictures, evenly spread, with panels; else 128 and figures alone.

    Raises:
        DataError: if the split is empty or a picture is unreadable.
        TrainingError: if a latent is not finite.
    """
    start = time.monotonic()
    steps = Steps(progress, {"Encoding and decoding": 8, "Drawing": 1})
    pictures = source.open(split)
    places = spread_out(len(pictures), PICTURES if full else QUICK)
    seen = Figures(method.latent_shape(), method.codebook_size, hasattr(method, "posterior"), sets=full)
    steps("Encoding and decoding")
    for originals in _fitted(method, pictures, places):
        latents = encoded(method, originals)
        bits = method.bits(originals)
        seen.add(originals, latents, method.decode(latents), bits)
        steps("Encoding and decoding", len(seen) / len(places))
    metrics = seen.metrics()
    if not full:
        return Evaluation(split, metrics, [], time.monotonic() - start)
    steps("Drawing")
    worst = [places[i] for i in np.argsort(seen.each["psnr"], kind="stable")[:SHOWN]]
    about = f"{SHOWN} of {len(places):,} held-out pictures, evenly spread. "
    panels: list[Panel] = [
        returned(method, pictures, spread_out(len(pictures), SHOWN), "What comes back", about),
        _table(metrics, seen),
        *([_frequencies(seen)] if seen.counts is not None else []),
        returned(method, pictures, worst, "What comes back worst", "Those with the lowest PSNR. ", failures=True),
    ]
    return Evaluation(split, metrics, panels, time.monotonic() - start, _headline(metrics, seen))


def _fitted(method: ImageTokenizer, source: Source, places: Sequence[int]) -> Iterator[list[Image.Image]]:
    """Yield the pictures at some places as the model takes them, few at a time."""
    height, width = method.picture.size
    most = max(1, min(CHUNK, 4_000_000 // (height * width)))
    for first in range(0, len(places), most):
        yield [method.picture.fitted(source.sample(i)["image"]) for i in places[first : first + most]]


def encoded(method: ImageTokenizer, images: Sequence[Image.Image]) -> np.ndarray:
    """Return latents, checked.

    Raises:
        TrainingError: if one is not finite.
    """
    latents = method.encode(images)
    if not np.isfinite(latents).all():
        raise TrainingError("The model turns pictures into latents that are not finite: its weights are broken.")
    return latents


def thumbnail(image: Image.Image, bits: float) -> Image.Image:
    """Return a picture as the largest RGB thumbnail of its shape that fits ``bits`` shows it, at 24 bits a pixel.

    Bicubic both ways; a thumbnail has one pixel at least, however few the bits.
    """
    pixels = max(int(bits // 24), 1)
    rows = max(min(int(math.sqrt(pixels * image.height / image.width)), image.height), 1)
    columns = max(min(pixels // rows, image.width), 1)
    small = image.resize((columns, rows), Image.Resampling.BICUBIC)
    return small.resize(image.size, Image.Resampling.BICUBIC)


def difference(image: Image.Image, other: Image.Image) -> Image.Image:
    """Return half the difference of two pictures around middle grey: grey is where they agree."""
    levels = (np.asarray(other, np.int16) - np.asarray(image, np.int16)) // 2 + 128
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8))


def batch_of(images: Sequence[Image.Image]) -> Tensor:
    """Return RGB pictures of one size as uint8 ``(N, 3, H, W)``."""
    return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images])


def decibels(images: Sequence[Image.Image], others: Sequence[Image.Image]) -> list[float]:
    """Return the PSNR of each pair; :data:`MOST_PSNR` at most."""
    return distances.psnr(batch_of(images), batch_of(others), 255.0).clamp(max=MOST_PSNR).tolist()


@torch.no_grad()
def perceptual(images: Sequence[Image.Image], others: Sequence[Image.Image]) -> list[float]:
    """Return the perceptual distance of each pair of RGB pictures on features-v1; none of pictures that are too small."""
    if min(images[0].size) < features_v1().config.smallest:
        return []
    return perceptual_distance(batch_of(images).float() / 255, batch_of(others).float() / 255).tolist()


def fidelity(images: Sequence[Image.Image], others: Sequence[Image.Image]) -> dict[str, list[float]]:
    """Return ``psnr``, and where pictures are large enough ``ssim`` and ``perceptual``, of each pair of RGB pictures.

    Raises:
        DataError: if they are of different sizes.
    """
    if (came := others[0].size) != (size := images[0].size):
        raise DataError(f"The model turns pictures of {size[0]} x {size[1]} into ones of {came[0]} x {came[1]}.")
    found = {"psnr": decibels(images, others), "perceptual": perceptual(images, others)}
    if min(size) >= distances.WINDOW:
        found["ssim"] = distances.ssim(batch_of(images), batch_of(others), 255.0).tolist()
    return {name: values for name, values in found.items() if values}


@dataclass
class Figures:
    """What is known of the pictures so far; memory does not grow with them but by a few numbers each.

    Attributes:
        shape: of a latent.
        codebook: K; None for a latent of real numbers.
        posterior: whether the numbers of a latent are held near a unit normal.
        sets: keep the features of all pictures, for distances between sets.
        pixels: of a picture.
        each: figures of each picture, by name.
        features: of each picture, what comes back, and its thumbnail, ``(n, D)`` each time.
        counts: how often each code occurred, ``(Q, K)``; None for a latent of real numbers.
    """

    shape: tuple[int, ...]
    codebook: int | None
    posterior: bool = False
    sets: bool = False
    pixels: int = 0
    each: dict[str, list[float]] = field(default_factory=dict)
    features: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)
    counts: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.codebook is not None:
            self.counts = np.zeros((self.shape[2] if len(self.shape) == 3 else 1, self.codebook), np.int64)
        self._first: np.ndarray | None = None
        self._sums = np.zeros((2, *(self.shape if self.codebook is None else ())))

    def add(
        self, images: Sequence[Image.Image], latents: np.ndarray, others: Sequence[Image.Image], bits: np.ndarray
    ) -> None:
        """Take note of pictures, their latents, what comes back, and how many bits each latent takes.

        Raises:
            DataError: if what comes back is of another size.
        """
        small = [thumbnail(image, float(b)) for image, b in zip(images, bits, strict=True)]
        self.pixels = images[0].width * images[0].height
        found = {**fidelity(images, others), "bits": bits.tolist()}
        found |= {f"chance_{name}": values for name, values in fidelity(images, small).items()}
        for name, values in found.items():
            self.each.setdefault(name, []).extend(values)
        if self.sets and "perceptual" in found:
            with torch.no_grad():
                original, returned, thumb = (
                    features_v1().pooled(batch_of(i).float() / 255) for i in (images, others, small)
                )
            self.features.append((original, returned, thumb))
        if self.counts is not None:
            columns = latents.reshape(-1, len(self.counts)).T
            self.counts += np.stack([np.bincount(column, minlength=self.counts.shape[1]) for column in columns])
        else:
            values = latents.astype(np.float64)
            self._first = values[0] if self._first is None else self._first  # sums around it lose no digits
            self._sums += np.stack([(values - self._first).sum(0), np.square(values - self._first).sum(0)])

    def metrics(self) -> dict[str, float]:
        """Return the figures, the headline first."""
        mean = {name: float(np.mean(values)) for name, values in self.each.items()}
        found = {"psnr": mean["psnr"], "chance_psnr": mean["chance_psnr"]}
        found |= {"bits_per_pixel": mean["bits"] / self.pixels, "bits": mean["bits"]}
        found |= {n: mean[n] for name in ("ssim", "perceptual") for n in (name, f"chance_{name}") if n in mean}
        if len(self) > 1 and self.features:
            original, returned, small = (torch.cat(parts) for parts in zip(*self.features, strict=True))
            found["frechet"] = frechet_distance(original, returned)
            found["chance_frechet"] = frechet_distance(original, small)
        if self.counts is not None:
            found |= {"usage": float((self.counts > 0).mean()), "perplexity": float(np.mean(perplexity(self.counts)))}
        elif self.posterior:
            found |= {"active_units": float(self.active()), "active_share": self.active() / math.prod(self.shape)}
        return {**found, "pictures": float(len(self))}

    def __len__(self) -> int:
        return len(self.each.get("psnr", []))

    def active(self) -> int:
        """Return how many numbers of the latent vary between pictures."""
        return int((self.variance() > ACTIVE).sum())

    def variance(self) -> np.ndarray:
        """Return how much each number of the latent varies between pictures, of the latent's shape."""
        mean, square = self._sums / max(len(self), 1)
        return square - np.square(mean)

    def warnings(self) -> list[str]:
        """Return in words what is wrong with the latents."""
        if self.counts is None:
            if self.active() or not self.posterior:
                return []
            numbers = math.prod(self.shape)
            return [f"The posterior has collapsed: none of the latent's {numbers:,} numbers depends on the picture."]
        found = []
        for level, (row, worth) in enumerate(zip(self.counts, perplexity(self.counts), strict=True), 1):
            said = collapsed(float((row > 0).mean()), float(worth), len(row), int(row.sum()), "")
            found += [f"Level {level}: {words}" if len(self.counts) > 1 else words for words in said]
        return found


def perplexity(count_QK: np.ndarray) -> np.ndarray:
    """Return the exponential of the entropy of each row of counts, ``(Q,)``; 0 of a row without counts."""
    total_Q1 = count_QK.sum(1, keepdims=True)
    share_QK = count_QK / np.maximum(total_Q1, 1)
    log_QK = np.log(np.where(share_QK > 0, share_QK, 1.0))
    return np.exp(-(share_QK * log_QK).sum(1)) * (total_Q1[:, 0] > 0)


def returned(
    method: ImageTokenizer, source: Source, places: Sequence[int], title: str, about: str, *, failures: bool = False
) -> Gallery:
    """Return some pictures of a source above what comes back, the difference, and a thumbnail of as many bits."""
    originals = [image for part in _fitted(method, source, places) for image in part]
    others = method.decode(encoded(method, originals))
    small = [thumbnail(image, float(bits)) for image, bits in zip(originals, method.bits(originals), strict=True)]
    rows = [
        (Item(text="original"), [Item(image=image) for image in originals]),
        (Item(text="what comes back"), _noted(originals, others)),
        (
            Item(text="difference"),
            [Item(image=difference(a, b)) for a, b in zip(originals, others, strict=True)],
        ),
        (Item(text="thumbnail of as many bits"), _noted(originals, small)),
    ]
    return Gallery(title, f"{about}The difference is halved, around middle grey.", rows, failures)


def _noted(originals: Sequence[Image.Image], others: Sequence[Image.Image]) -> list[Item]:
    found = zip(others, decibels(originals, others), strict=True)
    return [Item(image=image, note=f"{value:.1f} dB") for image, value in found]


def _frequencies(seen: Figures) -> Bars:
    assert seen.counts is not None
    levels, codes = seen.counts.shape
    shares = np.sort(seen.counts / np.maximum(seen.counts.sum(1, keepdims=True), 1), 1)[:, ::-1].mean(0)
    groups = np.array_split(np.arange(codes), min(BARS, codes))
    names = [f"{g[0] + 1:,}" if len(g) == 1 else f"{g[0] + 1:,} to {g[-1] + 1:,}" for g in groups]
    each = " (the mean of its codebooks, each by itself)" if levels > 1 else ""
    return Bars(
        "How often codes occur",
        f"The {codes:,} codes, the most frequent first{each}: the share that each group has of all codes of the judged "
        "pictures. The mark is its share if all were equally frequent.",
        names,
        [float(shares[g].sum()) for g in groups],
        unit="%",
        baseline=[len(g) / codes for g in groups],
        baseline_name="equal",
    )


def _table(metrics: dict[str, float], seen: Figures) -> Table:
    names = {
        "psnr": "PSNR, dB",
        "ssim": "SSIM",
        "perceptual": "perceptual distance on features-v1",
        "frechet": "Fréchet distance on features-v1",
    }
    rows: list[list[str | float | None]] = [
        [words, metrics[name], metrics.get(f"chance_{name}")] for name, words in names.items() if name in metrics
    ]
    rows += [["bits per pixel", metrics["bits_per_pixel"], None], ["bits of a picture", metrics["bits"], None]]
    if seen.counts is not None:
        rows += [["share of codes that occur", metrics["usage"], None], ["perplexity", metrics["perplexity"], None]]
        for level, (row, worth) in enumerate(zip(seen.counts, perplexity(seen.counts), strict=True), 1):
            if len(seen.counts) > 1:
                rows.append([f"level {level}: share of codes that occur", float((row > 0).mean()), None])
                rows.append([f"level {level}: perplexity", float(worth), None])
    elif seen.posterior:
        rows.append([f"active numbers, of {math.prod(seen.shape):,}", metrics["active_units"], None])
    about = f"Means over {len(seen):,} held-out pictures, beside a thumbnail of as many bits."
    return Table("Figures", about, ["", "reached", "thumbnail"], rows)


def _headline(metrics: dict[str, float], seen: Figures) -> Headline:
    said = (
        f"So near is what comes back of {len(seen):,} held-out pictures (peak signal-to-noise ratio, mean), at "
        f"{metrics['bits_per_pixel']:.3g} bits per pixel; a thumbnail of as many bits reaches "
        f"{metrics['chance_psnr']:.1f} dB."
    )
    return Headline(f"{metrics['psnr']:.1f}\N{NO-BREAK SPACE}dB", " ".join([said, *seen.warnings()]))
