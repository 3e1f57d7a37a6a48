"""Measure and draw how much of pictures the image tokenizers keep for how many bits.

    python docs/figures_tokenizers.py --emoji RUN... --photos RUN... [--size 64]

Each run is a tokenizer: a run's or model's folder, ``NAME=FOLDER`` for another name. Those after ``--emoji`` are judged on
the emoji set's held-out concepts (test), those after ``--photos`` on Flickr8k's validation photographs, which
``INTERMODAL_DATA`` holds, all at ``--size`` pixels a side, beside JPEG, WebP and thumbnails. The figures go to
``benchmarks/results/curves``, the picture to ``docs/images/rate-distortion.png``. Without any run the picture is drawn anew
from recorded figures.
"""

from __future__ import annotations

import argparse
import datetime
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

import intermodal
from intermodal.core.files import write_json
from intermodal.data.emoji import EmojiSource
from intermodal.data.flickr import Flickr8kSource
from intermodal.data.source import SourceConfig
from intermodal.evaluate.rate_distortion import Curve, codec_curves, pictures_of, tokenizer_curve
from intermodal.methods.image_tokenizers.tokenizer import ImageTokenizer

HERE = Path(__file__).parent
PICTURE = HERE / "images" / "rate-distortion.png"
RESULTS = HERE.parent / "benchmarks" / "results" / "curves"
SETS: dict[str, tuple[SourceConfig, str, str]] = {
    "emoji": (EmojiSource(), "test", "emoji of held-out concepts"),
    "photos": (Flickr8kSource(), "validation", "Flickr8k photographs"),
}
GREYS = {"JPEG": "tab:gray", "WebP": "black", "thumbnail": "tab:brown"}
MARKS = "osD^vP*X<>"


def measure(kind: str, runs: list[str], size: int) -> None:
    """Judge tokenizers and codecs on one of the sets, and record what was found."""
    source, split, about = SETS[kind]
    images = pictures_of(source, split, size)
    curves = []
    for run in runs:
        name, _, folder = run.rpartition("=")
        model = intermodal.load(folder)
        if not isinstance(model, ImageTokenizer):
            raise SystemExit(f"{folder} is no image tokenizer.")
        curves.append(tokenizer_curve(name or Path(folder).name, model, images))
        print(kind, curves[-1], flush=True)
    curves += codec_curves(images)
    data = {
        "pictures": f"{len(images)} {about}, {size} x {size} pixels",
        "date": datetime.date.today().isoformat(),
        "curves": [curve.to_dict() for curve in curves],
    }
    write_json(RESULTS / f"rate_distortion_{kind}.json", data)


def draw(kinds: list[str]) -> None:
    """Draw the recorded figures: a row for each set, a column for each distance."""
    figure, rows = plt.subplots(len(kinds), 2, figsize=(12, 4.6 * len(kinds)), squeeze=False)
    found = [json.loads((RESULTS / f"rate_distortion_{kind}.json").read_text(encoding="utf-8")) for kind in kinds]
    sets = [[Curve.from_dict(curve) for curve in data["curves"]] for data in found]
    names = dict.fromkeys(curve.name for curves in sets for curve in curves if not curve.baseline)
    looks = {name: (MARKS[i % len(MARKS)], f"C{i % 10}") for i, name in enumerate(names)}
    for row, data, curves in zip(rows, found, sets, strict=True):
        for axes, label, value in zip(
            row, ("PSNR, dB", "distance on features-v1"), ("psnr", "perceptual"), strict=True
        ):
            one_plot(axes, curves, value, looks)
            axes.set_xscale("log")
            axes.set_xlabel("bits per pixel")
            axes.set_ylabel(label)
            axes.set_title(data["pictures"], fontsize=10)
            axes.grid(alpha=0.25, which="both")
    handles = {text: line for axes in rows.flat for line, text in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.tight_layout()
    figure.legend(
        handles.values(), handles.keys(), loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=4, frameon=False
    )
    figure.savefig(PICTURE, dpi=90, bbox_inches="tight")
    plt.close(figure)


def one_plot(axes: Axes, curves: list[Curve], value: str, looks: dict[str, tuple[str, str]]) -> None:
    """Draw the curves of one distance: the codecs in grey, dashed without their headers, the tokenizers in colours.

    A tokenizer's mark and colour are the same in every plot.
    """
    for curve in curves:
        points = [(p.bits_per_pixel, getattr(p, value)) for p in curve.points if getattr(p, value) is not None]
        if not points:
            continue
        x, y = zip(*points, strict=True)
        if curve.baseline:
            dashed = "without" in curve.name
            style = {"color": GREYS[curve.name.partition(",")[0]], "linestyle": "--" if dashed else "-"}
            axes.plot(x, y, marker=".", markersize=4, linewidth=1.2, label=curve.name, **style)
        else:
            mark, color = looks[curve.name]
            axes.plot(x, y, marker=mark, color=color, markersize=8, linewidth=1.8, label=curve.name, zorder=3)


def main() -> None:
    """Measure what is named, and draw what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--emoji", nargs="+", default=[], metavar="RUN")
    parser.add_argument("--photos", nargs="+", default=[], metavar="RUN")
    parser.add_argument("--size", type=int, default=64)
    arguments = parser.parse_args()
    for kind in SETS:
        if runs := getattr(arguments, kind):
            measure(kind, runs, arguments.size)
    kinds = [kind for kind in SETS if (RESULTS / f"rate_distortion_{kind}.json").exists()]
    if not kinds:
        raise SystemExit("Nothing is recorded yet: name runs with --emoji or --photos.")
    draw(kinds)


if __name__ == "__main__":
    main()
