"""Draw the pictures of the pages on energies and noise from finished runs: ``python docs/figures_energy.py RUNS``.

``RUNS`` holds the folders ``ebm-samples``, ``ebm-2d``, ``nce-density``; ``benchmarks/results/curves/nce_noise.json`` is the
sweep. What is not there is left as it was.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from PIL import Image

from intermodal.evaluate.result import Gallery, Item, Lines
from intermodal.evaluate.result import load as load_evaluation

HERE = Path(__file__).parent
IMAGES = HERE / "images"
SWEEP = HERE.parent / "benchmarks" / "results" / "curves" / "nce_noise.json"


def panels(run: Path) -> list[object]:
    """Return the panels of a run's final evaluation."""
    return list(load_evaluation(run / "evaluation" / "test").panels)


def gallery(run: Path, title: str) -> Gallery:
    """Return the gallery of a title."""
    return next(p for p in panels(run) if isinstance(p, Gallery) and p.title == title)


def row_of(items: list[Item], path: Path, height: float = 3.2) -> None:
    """Draw pictures with their names side by side."""
    figure, axes = plt.subplots(1, len(items), figsize=(height * len(items), height))
    for place, item in zip(axes, items, strict=True):
        place.imshow(item.image)
        place.set_title(item.text, fontsize=11)
        place.set_axis_off()
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    plt.close(figure)


def sheet(rows: list[list[Item]], path: Path, scale: int = 2, gap: int = 4) -> None:
    """Write rows of equally large pictures as one picture."""
    width, height = rows[0][0].image.size  # type: ignore[union-attr]
    step_x, step_y = width * scale + gap, height * scale + gap
    canvas = Image.new("RGB", (max(map(len, rows)) * step_x - gap, len(rows) * step_y - gap), (255, 255, 255))
    for y, row in enumerate(rows):
        for x, item in enumerate(row):
            assert item.image is not None
            enlarged = item.image.resize((width * scale, height * scale), Image.Resampling.NEAREST)
            canvas.paste(enlarged, (x * step_x, y * step_y))
    canvas.save(path, optimize=True)


def curves(panel: Lines, path: Path) -> None:
    """Draw a panel of curves."""
    figure, axes = plt.subplots(figsize=(6, 4))
    for line in panel.series:
        theory = line.name.startswith("one over")
        axes.plot(line.x, line.y, "k:" if theory else "o-", label=line.name)
    label(axes, panel.x_label, panel.y_label, panel.log_x, panel.log_y)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def label(axes: Axes, x: str, y: str, log_x: bool, log_y: bool) -> None:
    """Name the axes."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_xscale("log" if log_x else "linear")
    axes.set_yscale("log" if log_y else "linear")
    axes.legend(frameon=False)


def sweep(path: Path) -> None:
    """Draw perplexity over k, with the softmax and the counting models as lines."""
    data = json.loads(SWEEP.read_text(encoding="utf-8"))
    found = [m for m in data["models"] if m["noise_samples"] is not None]
    figure, axes = plt.subplots(figsize=(6, 4))
    axes.plot([m["noise_samples"] for m in found], [m["perplexity"] for m in found], "o-", label="NCE")
    for model in data["models"]:
        if model["noise_samples"] is None:
            axes.axhline(model["perplexity"], color="black", linestyle="--", label="softmax, same steps")
    axes.axhline(data["bigram"], color="grey", linestyle=":", label="bigram, Kneser-Ney")
    axes.axhline(data["unigram"], color="grey", linestyle="-.", label="unigram")
    label(axes, "noise words k", f"perplexity, {data['words']:,} held-out words", True, True)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main(runs: Path) -> None:
    """Draw what there is."""
    for name in ("ebm-2d", "nce-density"):
        if (runs / name / "evaluation" / "test").is_dir():
            maps, points = (row[1] for row in gallery(runs / name, "True and learnt density").rows)
            row_of([*maps, points[1]], IMAGES / f"{name}.png")
    if (runs / "nce-density" / "evaluation" / "test").is_dir():
        found = next(p for p in panels(runs / "nce-density") if isinstance(p, Lines) and "normaliser" in p.title)
        curves(found, IMAGES / "nce-normaliser.png")
    if (runs / "ebm-samples" / "evaluation" / "test").is_dir():
        made = gallery(runs / "ebm-samples", "What it generates")
        sheet([items for _, items in made.rows[:2]], IMAGES / "ebm-samples.png")
        sheet(
            [items for _, items in gallery(runs / "ebm-samples", "From noise to picture").rows],
            IMAGES / "ebm-chain.png",
        )
    if SWEEP.exists():
        sweep(IMAGES / "nce-noise.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
