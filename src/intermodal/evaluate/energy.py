"""Judges an energy-based model of pictures: does it give real ones a lower energy than anything else?

Each ``auroc_*`` is the probability that a picture of a group has a higher energy than a real held-out one (half where they
tie), over all pairs.

- ``auroc_gaussian_noise`` ... ``auroc_invert``: the same held-out pictures, spoilt; ``auroc_corrupted`` is the mean over
  the kinds.
- ``paired_gaussian_noise`` ... ``paired_corrupted``: how often a spoilt picture has a higher energy than the very picture
  that it was made from. An energy also differs from picture to picture, with how rich they are; here that cancels.
- ``auroc_generated``: chains from noise of exactly as many steps as one step of training makes: the model's fresh
  negatives. Training is meant to hold these apart from data.
- ``auroc_long``: chains from noise of ``generate_steps``; ``auroc_buffer``: the chains of the replay buffer, which were
  gone on with all through training. A perfect model with perfect chains would reach 0.5 here and no more: its samples
  would be indistinguishable from data. Above 0.5, chains stop short of where the energy is low; below, they find places
  that the energy likes better than data.

Every figure stands beside ``chance_`` (0.5) and ``ppca_``: the same for the energy of a probabilistic principal component
analysis of the training pictures (Tipping & Bishop 1999), a Gaussian density of 64 directions and noise.

    M pictures   C, H, W channels and pixels   K directions
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from intermodal.core.progress import Progress
from intermodal.data.corruptions import CORRUPTIONS
from intermodal.data.processors import ImageProcessor
from intermodal.data.source import Source, SourceConfig
from intermodal.evaluate.encoding import Steps
from intermodal.evaluate.result import Bars, Evaluation, Gallery, Headline, Item, Line, Lines, Panel, Table
from intermodal.methods.contrastive.ebm import EBM
from intermodal.metrics.detection import auroc

PICTURES, QUICK, FITTED, SHOWN = 512, 128, 2000, 12
GENERATED = ("generated", "long", "buffer")
SEED = 0

Scorer = Callable[[Tensor], np.ndarray]


def spread_out(count: int, most: int) -> list[int]:
    """Return at most so many numbers below ``count``, evenly spread."""
    return [int(i) for i in np.linspace(0, count - 1, min(most, count)).round()]


def read_pictures(source: Source, processor: ImageProcessor, most: int) -> Tensor:
    """Return prepared pictures ``(M, C, H, W)``, evenly spread over a source."""
    return processor.prepare(
        torch.stack([processor.encode(source.sample(i)["image"]) for i in spread_out(len(source), most)])
    )


class PPCA:
    """Probabilistic principal component analysis: a Gaussian of K free directions and equal noise in all others.

    Args:
        picture_MCHW: prepared training pictures.
        directions: K, at most M - 1.
    """

    def __init__(self, picture_MCHW: Tensor, directions: int = 64) -> None:
        flat = picture_MCHW.flatten(1).float()
        self.mean = flat.mean(0)
        kept = max(min(directions, len(flat) - 1), 0)
        _, scale, axes = torch.linalg.svd(flat - self.mean, full_matrices=False)
        variance = scale.square() / max(len(flat) - 1, 1)
        rest = variance[kept:].sum() / max(flat.shape[1] - kept, 1)
        self.noise = torch.clamp(rest, min=1e-6)
        self.axes, self.variance = axes[:kept], variance[:kept].clamp(min=float(self.noise))

    def energy(self, picture_MCHW: Tensor) -> np.ndarray:
        """Return the negative log density ``(M,)`` of prepared pictures, without its constant."""
        centred = picture_MCHW.flatten(1).float() - self.mean
        inside = centred @ self.axes.T
        outside = centred.square().sum(1) - inside.square().sum(1)
        return ((inside.square() / self.variance).sum(1) / 2 + outside / self.noise / 2).cpu().numpy()


def evaluate_pictures(method: EBM, source: SourceConfig, split: str, progress: Progress, full: bool) -> Evaluation:
    """Judge an energy-based model of pictures on a split.

    Args:
        method: the model.
        source: the data; its training split gives the baseline and the nearest pictures.
        split: what to judge on.
        progress: told what is done.
        full: 512 pictures, long chains, baseline and panels; else 128 pictures, and short chains alone.
    """
    start = time.monotonic()
    steps = Steps(progress, {"Reading pictures": 3, "Sampling": 6, "Comparing energies": 3, "Drawing": 1})
    processor = method.processors["image"]
    assert isinstance(processor, ImageProcessor)
    method.eval()
    steps("Reading pictures")
    real = read_pictures(source.open(split), processor, PICTURES if full else QUICK)
    groups = {name: _to_model(change(_to_unit(real), generator()), real) for name, change in CORRUPTIONS.items()}
    steps("Sampling")
    groups |= generated(method, min(len(real), 128 if full else 32), full)
    steps("Comparing energies")
    metrics = _figures(groups, real, method.energy)
    if not full:
        return Evaluation(split, metrics, [], time.monotonic() - start)
    train = read_pictures(source.open("train"), processor, FITTED)
    baseline = _figures(groups, real, PPCA(train).energy)
    metrics |= {f"chance_{name}": 0.5 for name in baseline}
    metrics |= {f"ppca_{name}": value for name, value in baseline.items()}
    energies = {"real, held out": method.energy(real), "real, trained on": method.energy(train[: len(real)])}
    energies |= {_spoken(name): method.energy(group) for name, group in groups.items()}
    metrics["energy_real"] = float(energies["real, held out"].mean())
    metrics["energy_trained_on"] = float(energies["real, trained on"].mean())
    steps("Drawing")
    shown = [*_pictures(method, train, groups), *_plots(metrics, energies), _spoilt(method, real, groups)]
    headline = Headline(
        f"AUROC {metrics['auroc_corrupted']:.2f}",
        f"So often does a spoilt picture have a higher energy than a real one that was never trained on (mean over "
        f"{len(CORRUPTIONS)} ways to spoil it; chance 0.5); for fresh samples from noise it is "
        f"{metrics['auroc_generated']:.2f}.",
    )
    return Evaluation(split, metrics, shown, time.monotonic() - start, headline)


def generator() -> torch.Generator:
    """Return the generator of everything random in an evaluation."""
    return torch.Generator().manual_seed(SEED)


def generated(method: EBM, count: int, full: bool) -> dict[str, Tensor]:
    """Return short chains from noise, and in full also long ones and those of the buffer."""
    drawn = generator()
    noise = method.noise(count, drawn).to(method.device)
    found = {"generated": method.sample(noise, drawn)}
    if full:
        found["long"] = method.sample(noise[: max(count // 2, 1)], drawn, method.config.generate_steps)
        found["buffer"] = method.buffer[:count].float()
    return found


def _figures(groups: dict[str, Tensor], real: Tensor, score: Scorer) -> dict[str, float]:
    low = score(real)
    each = {name: auroc(score(group), low) for name, group in groups.items()}
    corrupted = float(np.mean([each[name] for name in CORRUPTIONS]))
    order = [*(n for n in GENERATED if n in each), *CORRUPTIONS]
    paired = {name: _above(score(groups[name]), low) for name in CORRUPTIONS}
    return {
        "auroc_corrupted": corrupted,
        **{f"auroc_{name}": each[name] for name in order},
        "paired_corrupted": float(np.mean(list(paired.values()))),
        **{f"paired_{name}": value for name, value in paired.items()},
    }


def _above(spoilt_M: np.ndarray, real_M: np.ndarray) -> float:
    """Return how often the energy rises when a picture is spoilt; half where it stays."""
    return float(((spoilt_M > real_M) + (spoilt_M == real_M) / 2).mean())


def _to_unit(picture_MCHW: Tensor) -> Tensor:
    return ((picture_MCHW + 1) / 2).clamp(0, 1)


def _to_model(unit_MCHW: Tensor, like: Tensor) -> Tensor:
    return (unit_MCHW * 2 - 1).to(like)


def _spoken(name: str) -> str:
    words = {"generated": "samples, short chains", "long": "samples, long chains", "buffer": "samples, buffer"}
    return words.get(name, name.replace("_", " "))


def _pictures(method: EBM, train: Tensor, groups: dict[str, Tensor]) -> list[Panel]:
    long = groups["long"][:SHOWN]
    flat = train.flatten(1)
    nearest = [int((flat - sample.flatten()).square().sum(1).argmin()) for sample in long]
    samples, neighbours = method.decode(long), method.decode(train[nearest])
    about = (
        f"The first {len(long)} chains of {method.config.generate_steps} steps from noise, and under them the nearest of "
        f"{len(train):,} training pictures (squared distance of pixels)."
    )
    rows = [
        (Item(text="samples"), [Item(image=image) for image in samples]),
        (Item(text="nearest training pictures"), [Item(image=image) for image in neighbours]),
        (Item(text="chains of the buffer"), [Item(image=image) for image in method.decode(groups["buffer"][:SHOWN])]),
    ]
    return [Gallery("What it generates", about, rows), _chain(method)]


def _chain(method: EBM) -> Gallery:
    """Return a few chains from noise to picture, at steps that double."""
    drawn, last = generator(), method.config.generate_steps
    kept = [0, *(2**i for i in range(1, 20) if 2**i < last), last]
    noise = method.noise(4, drawn).to(method.device)
    seen = {0: noise}

    def watch(step: int, samples: Tensor) -> None:
        if step in kept:
            seen[step] = samples.clone()

    method.sample(noise, drawn, last, watch)
    pictures = {step: method.decode(samples) for step, samples in seen.items()}
    rows = [
        (Item(text=f"chain {i + 1}"), [Item(image=pictures[s][i], note=f"step {s}") for s in kept if s in pictures])
        for i in range(len(noise))
    ]
    return Gallery("From noise to picture", "Langevin chains: each step goes down the energy and adds noise.", rows)


def _plots(metrics: dict[str, float], energies: dict[str, np.ndarray]) -> list[Panel]:
    names = [n for n in metrics if n.startswith("auroc_")]
    pairs = [n for n in metrics if n.startswith("paired_")]
    bars = Bars(
        "Told from real pictures by the energy",
        "AUROC: how often the energy is higher than that of a real held-out picture. The mark is the energy of a Gaussian "
        "density with 64 directions (PPCA). For samples of long chains a perfect model would have 0.5.",
        [_spoken(n.removeprefix("auroc_")) for n in names],
        [metrics[n] for n in names],
        baseline=[metrics[f"ppca_{n}"] for n in names],
        baseline_name="PPCA",
    )
    within = Bars(
        "Does spoiling a picture raise its energy?",
        "Each picture against itself: the share whose energy rises. Differences between pictures cancel.",
        [_spoken(n.removeprefix("paired_")) for n in pairs],
        [metrics[n] for n in pairs],
        unit="%",
        baseline=[metrics[f"ppca_{n}"] for n in pairs],
        baseline_name="PPCA",
    )
    values = np.concatenate(list(energies.values()))
    low, high = np.quantile(values, [0.005, 0.995])
    edges = np.linspace(low, max(high, low + 1e-6), 41)
    middle = ((edges[1:] + edges[:-1]) / 2).tolist()
    series = []
    for name, energy in list(energies.items())[:10]:
        counts, _ = np.histogram(np.clip(energy, low, high), bins=edges)
        series.append(Line(name, middle, (counts / max(len(energy), 1)).tolist()))
    lines = Lines(
        "Energies",
        "The share of pictures of each group in each of 40 bins; what lies beyond the axis is counted in its last bin.",
        "energy",
        "share of pictures",
        series,
    )
    rows: list[list[str | float | None]] = [[n, float(e.mean()), float(e.std())] for n, e in energies.items()]
    table = Table("Energies of the groups", "", ["group", "mean", "standard deviation"], rows)
    return [bars, within, lines, table]


def _spoilt(method: EBM, real: Tensor, groups: dict[str, Tensor]) -> Gallery:
    places = spread_out(len(real), 6)
    shown = {"real": real[places], **{_spoken(n): groups[n][places] for n in CORRUPTIONS}}
    rows = []
    for name, pictures in shown.items():
        scores = method.energy(pictures)
        items = [Item(image=i, score=float(s)) for i, s in zip(method.decode(pictures), scores, strict=True)]
        rows.append((Item(text=name), items))
    return Gallery("Real and spoilt pictures", "The number is the energy.", rows)
