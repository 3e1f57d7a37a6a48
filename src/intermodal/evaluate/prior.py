"""Judges a prior over the codes of an image tokenizer: how few bits it needs, and what pictures it makes.

- ``log2_likelihood``: the mean of ``log2 p(s)`` over held-out pictures, s being a picture's codes: minus ``bits``, which an
  arithmetic coder with the model's probabilities would spend on a picture. ``chance_log2_likelihood`` is that of the unigram
  model below.
- ``unigram_bits``: the same of the best model without context: at every place the frequencies of the codes that training
  pictures have there, smoothed towards those of all places. How strongly is chosen on the held-out pictures themselves, in
  the unigram's favour. ``uniform_bits``: of codes that are all equally likely, ``L log2 K``.
- ``bits_per_pixel``: ``bits`` over the picture's pixels; ``right``: how often the most probable code is the right one.
- ``frechet_samples``, ``frechet_unigram``: Fréchet distance, in the features of the library's own network (features-v1; no
  published FID compares), between held-out pictures and as many samples of the prior, or of the unigram model.
  ``frechet_returned``: of what the tokenizer makes of held-out pictures, which no prior over its codes can hope to beat.

N pictures   L codes of a picture   K codes of the codebook   D features
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from PIL import Image
from torch import Tensor

from intermodal.core.progress import Progress
from intermodal.data.source import Source, SourceConfig
from intermodal.evaluate.encoding import Steps
from intermodal.evaluate.energy import read_pictures, spread_out
from intermodal.evaluate.result import Bars, Evaluation, Gallery, Headline, Item, Line, Lines, Panel
from intermodal.evaluate.tokenizers import batch_of
from intermodal.methods.image_tokenizers.over_codes import OverCodes
from intermodal.methods.image_tokenizers.prior import CodePrior
from intermodal.methods.image_tokenizers.tokenizer import evaluating
from intermodal.metrics.frechet import frechet_distance
from intermodal.nn.features import features_v1

PICTURES, QUICK, COUNTED, SHOWN, COMPLETED, CHUNK = 512, 128, 6000, 12, 6, 64
STRENGTHS = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
"""So many imagined pictures the frequencies of all places count for at each place."""
SEED = 0


class Unigram:
    """Frequencies of codes at each place, smoothed towards those of all places.

    Args:
        codes_NL: of training pictures.
        codebook: K.
    """

    def __init__(self, codes_NL: Tensor, codebook: int) -> None:
        places, pictures = codes_NL.shape[1], len(codes_NL)
        flat = (codes_NL + codebook * torch.arange(places)).flatten()
        self.count_LK = torch.bincount(flat, minlength=places * codebook).view(places, codebook).double()
        overall_K = self.count_LK.sum(0) + 0.5
        self.overall_K, self.pictures, self.strength = overall_K / overall_K.sum(), pictures, STRENGTHS[0]

    def bits(self, codes_NL: Tensor) -> Tensor:
        """Return ``-log2 p`` of each code, ``(N, L)``."""
        return -self.probabilities().log2()[torch.arange(codes_NL.shape[1]), codes_NL]

    def probabilities(self) -> Tensor:
        """Return the probability of every code at every place, ``(L, K)``."""
        return (self.count_LK + self.strength * self.overall_K) / (self.pictures + self.strength)

    def fit(self, codes_NL: Tensor) -> None:
        """Choose the strength of the smoothing that suits some codes best."""
        found = {}
        for self.strength in STRENGTHS:
            found[self.strength] = float(self.bits(codes_NL).mean())
        self.strength = min(found, key=found.__getitem__)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Return codes ``(count, L)``."""
        return torch.multinomial(self.probabilities(), count, replacement=True, generator=generator).T


def evaluate_prior(
    method: CodePrior, source: SourceConfig, split: str, progress: Progress, *, full: bool = True
) -> Evaluation:
    """Judge a prior on a split; see the module's text.

    Args:
        method: the model.
        source: pictures; its training split gives the unigram model and the nearest pictures.
        split: what to judge on.
        progress: told what is done.
        full: 512 pictures, as many samples, and panels; else 128 pictures and the bits alone.
    """
    start = time.monotonic()
    steps = Steps(progress, {"Encoding": 4, "Sampling": 6, "Drawing": 2})
    with evaluating(method), torch.no_grad():
        held_out, train = source.open(split), source.open("train")
        steps("Encoding")
        codes_NL = codes_of(method, held_out, PICTURES if full else QUICK, lambda done: steps("Encoding", done / 3))
        known_NL = codes_of(
            method, train, COUNTED if full else QUICK, lambda done: steps("Encoding", (1 + 2 * done) / 3)
        )
        unigram = Unigram(known_NL, method.codebook_size)
        unigram.fit(codes_NL)
        bits_NL, right = _bits(method, codes_NL)
        bits, plain_NL = float(bits_NL.sum(1).mean()), unigram.bits(codes_NL)
        metrics = {
            "log2_likelihood": -bits,
            "chance_log2_likelihood": -float(plain_NL.sum(1).mean()),
            "bits": bits,
            "unigram_bits": float(plain_NL.sum(1).mean()),
            "uniform_bits": codes_NL.shape[1] * math.log2(method.codebook_size),
            "bits_per_pixel": bits / math.prod(method.picture.size),
            "right": right,
        }
        if not full:
            return Evaluation(split, metrics, [], time.monotonic() - start)
        steps("Sampling")
        made = method.generate(len(codes_NL), seed=SEED)
        steps("Sampling", 0.7)
        plain_MK = unigram.sample(len(codes_NL), torch.Generator().manual_seed(SEED)).to(method.device)
        plain = [image for part in plain_MK.split(CHUNK) for image in method.pictures(part)]
        metrics |= _distances(method, held_out, codes_NL, made, plain)
        steps("Drawing")
        panels: list[Panel] = [
            _bars(metrics),
            _samples(method, train, made, plain),
            _completed(method, held_out),
            by_place({"the prior": bits_NL, "unigram at each place": plain_NL}),
        ]
    words = (
        f"are what the codes of a held-out picture cost on average, {metrics['bits_per_pixel']:.3f} a pixel. Without "
        f"context, by how often each code occurs at its place, it would be {metrics['unigram_bits']:.0f}; all codes equally "
        f"likely, {metrics['uniform_bits']:.0f}."
    )
    headline = Headline(f"{bits:.0f}\N{NO-BREAK SPACE}bits", words)
    return Evaluation(split, metrics, panels, time.monotonic() - start, headline)


def codes_of(method: OverCodes, source: Source, most: int, report: Callable[[float], None]) -> Tensor:
    """Return the codes ``(N, L)``, on the CPU, of at most so many pictures, evenly spread over a source."""
    processor, found, places = method.picture, [], spread_out(len(source), most)
    for first in range(0, len(places), CHUNK):
        raw = [processor.encode(source.sample(i)["image"]) for i in places[first : first + CHUNK]]
        found.append(method.codes(processor.prepare(torch.stack(raw).to(method.device))).cpu())
        report(min(1.0, (first + CHUNK) / len(places)))
    return torch.cat(found)


def _bits(method: CodePrior, codes_NL: Tensor) -> tuple[Tensor, float]:
    """Return ``-log2 p`` of every code ``(N, L)``, and how often the most probable code is right."""
    found, right = [], 0
    for part in codes_NL.split(CHUNK):
        logits_BLK = method.logits(part.to(method.device))
        found.append(method.bits_of(part.to(method.device), logits_BLK).cpu())
        right += int((logits_BLK.argmax(-1).cpu() == part).sum())
    return torch.cat(found), right / codes_NL.numel()


def _distances(
    method: CodePrior, held_out: Source, codes_NL: Tensor, made: list[Image.Image], plain: list[Image.Image]
) -> dict[str, float]:
    """Return the Fréchet distances of the module's text; none where pictures are too few or too small."""
    network = features_v1()
    if min(method.picture.size) < network.config.smallest or len(made) < 2:
        return {}
    places = spread_out(len(held_out), len(codes_NL))
    real = (method.picture.fitted(held_out.sample(i)["image"]) for i in places)
    returned = (image for part in codes_NL.to(method.device).split(CHUNK) for image in method.pictures(part))
    real_ND, *others = (
        torch.cat([network.pooled(batch_of(part).float() / 255) for part in batched(images, CHUNK)])
        for images in (real, made, plain, returned)
    )
    names = ("frechet_samples", "frechet_unigram", "frechet_returned")
    return {name: frechet_distance(real_ND, other) for name, other in zip(names, others, strict=True)}


def batched(images: Iterable[Image.Image], size: int) -> Iterator[list[Image.Image]]:
    """Yield pictures in lists of at most ``size``, one list in memory at a time."""
    iterator = iter(images)
    while part := list(itertools.islice(iterator, size)):
        yield part


def nearest_pictures(images: list[Image.Image], method: OverCodes, source: Source, most: int) -> list[Image.Image]:
    """Return for each picture the nearest of at most so many of a source, by the squared distance of pixels."""
    asked_NP = batch_of(images).flatten(1).float()
    best_N, found = torch.full((len(images),), torch.inf), list(images)
    known = (method.picture.fitted(source.sample(i)["image"]) for i in spread_out(len(source), most))
    for part in batched(known, CHUNK):
        distance_N, place_N = torch.cdist(asked_NP, batch_of(part).flatten(1).float()).min(1)
        for i in (distance_N < best_N).nonzero().flatten().tolist():
            found[i], best_N[i] = part[int(place_N[i])], distance_N[i]
    return found


def _bars(metrics: dict[str, float]) -> Bars:
    return Bars(
        "Bits of a picture",
        "What the codes of a held-out picture cost with the probabilities of each model; less is better.",
        ["the prior", "unigram at each place", "all codes equally likely"],
        [metrics["bits"], metrics["unigram_bits"], metrics["uniform_bits"]],
        unit="bits",
    )


def _samples(method: CodePrior, train: Source, made: list[Image.Image], plain: list[Image.Image]) -> Gallery:
    nearest = nearest_pictures(made[:SHOWN], method, train, COUNTED)
    rows = [
        (Item(text="samples"), [Item(image=image) for image in made[:SHOWN]]),
        (Item(text="nearest training pictures"), [Item(image=image) for image in nearest]),
        (Item(text="more samples"), [Item(image=image) for image in made[SHOWN : 2 * SHOWN]]),
        (Item(text="samples of the unigram"), [Item(image=image) for image in plain[:SHOWN]]),
    ]
    about = (
        f"The first {min(2 * SHOWN, len(made))} pictures of seed {SEED}, not picked. Under the first {SHOWN} the nearest of "
        f"{min(COUNTED, len(train)):,} training pictures by squared distance of pixels."
    )
    return Gallery("What it makes", about, rows)


def _completed(method: CodePrior, held_out: Source) -> Gallery:
    """Return held-out pictures of which the upper half is given and the lower is made, three times."""
    image_NCHW = read_pictures(held_out, method.picture, COMPLETED).to(method.device)
    codes_NL = method.codes(image_NCHW)
    half, generator = codes_NL.shape[1] // 2, torch.Generator().manual_seed(SEED)
    tries = [method.pictures(method.continued(codes_NL[:, :half], generator)) for _ in range(3)]
    originals = [Item(image=image) for image in method.picture.decode(image_NCHW)]
    return upper_half_given(originals, method.pictures(codes_NL), tries)


def upper_half_given(originals: list[Item], whole: list[Image.Image], tries: list[list[Image.Image]]) -> Gallery:
    """Return pictures, what their codes are decoded to, and pictures that went on from the upper half of their codes."""
    rows = []
    for i, original in enumerate(originals):
        shown = [Item(image=whole[i], note="its codes"), *(Item(image=made[i], note="gone on with") for made in tries)]
        rows.append((original, shown))
    return Gallery("The upper half given", "The lower half of the codes is made, three times.", rows)


def by_place(bits: Mapping[str, Tensor]) -> Lines:
    """Return the mean bits of each place of a picture by models, from bits ``(N, L)`` by each model's name."""
    series = []
    for name, bits_NL in bits.items():
        series.append(Line(name, [float(i) for i in range(bits_NL.shape[1])], bits_NL.double().mean(0).tolist()))
    about = (
        "The mean bits of each code, row by row: the more of a picture is known, the less surprising is what follows."
    )
    return Lines("Bits by place", about, "place", "bits", series)
