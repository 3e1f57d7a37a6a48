"""What the pages of captioners show: the table of benchmarks/captioners.py, and pictures of trained runs.

``python docs/figures_captioners.py gap CLIP`` draws the gap in a CLIP's space, ``captions NAME RUN...`` what each run writes
about the same pictures (into ``images/captions-NAME.png``), ``looking RUN`` where a CoCa's words look. :func:`tables` is
called by docs/build.py.
"""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np

FILE = Path(__file__).parent.parent / "benchmarks" / "results" / "curves" / "captioners.json"
IMAGES = Path(__file__).parent / "images"
COLUMNS = {
    "cider": "CIDEr",
    "bleu4": "BLEU-4",
    "meteor": "METEOR",
    "rouge_l": "ROUGE-L",
    "clip_score": "CLIP score",
    "distinct": "distinct",
    "seconds": "CPU s a caption",
    "cpu_minutes": "training, CPU min",
}


def tables() -> str:
    """Return all captioners and the baselines, one a row, for each set; a figure that was not measured stays empty."""
    if not FILE.is_file():
        return "Not measured yet.\n"
    parts = []
    for name, data in json.loads(FILE.read_text(encoding="utf-8")).items():
        rows = ["| | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
        for row in data["rows"]:
            cells = ["" if row.get(column) is None else f"{row[column]:.3g}" for column in COLUMNS]
            rows.append(f"| {row['name']} | " + " | ".join(cells) + " |")
        where = f"{data['about']} ({data['hardware']}, {data['date']}, `benchmarks/captioners.py`)."
        parts.append(f"**{name}.** {where}\n\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def gap_picture(clip: str) -> dict[str, float]:
    """Draw texts, pictures and projected pictures of held-out emoji in a CLIP's space; return the figures."""
    from intermodal.evaluate.decap import gap_figures
    from intermodal.evaluate.modality_gap import draw_gap
    from intermodal.recipes.captioners import decap

    recipe = decap().replace(clip=clip)
    metrics, sets = gap_figures(recipe.build(), recipe.pictures, "test")
    draw_gap(sets).save(IMAGES / "modality-gap.png", optimize=True)
    return metrics


def captions_picture(name: str, folders: list[str], count: int = 7) -> None:
    """Draw held-out pictures, drawn at random, each beside a person's caption and what every run writes about it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from intermodal.evaluate.speech_pictures import DPI, INK, literal, rendered
    from intermodal.train.folder import Run

    runs = [Run(folder) for folder in folders]
    recipe: Any = runs[0].recipe()
    source = getattr(recipe, "pictures", recipe.source).open(recipe.final_split)
    chosen = np.random.default_rng(1).permutation(len(source))[:count]
    samples = [source.sample(int(i)) for i in chosen]
    pictures = [sample["image"] for sample in samples]
    columns = {"a person": [sample["text"] for sample in samples]}
    for run in runs:
        columns[run.recipe().name] = [caption.text for caption in run.model().caption(pictures)]
    figure = Figure(figsize=(1.3 + 2.0 * len(columns), 0.3 + 1.2 * count), dpi=DPI)
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(count, 1 + len(columns), squeeze=False, width_ratios=[1.2, *[2.0] * len(columns)])
    for axis in axes.flat:
        axis.axis("off")
    for row, picture in enumerate(pictures):
        axes[row, 0].imshow(picture.convert("RGB"))
        for column, texts in enumerate(columns.values(), 1):
            said = textwrap.shorten(literal(texts[row]), 110, placeholder=" ...")
            said = "\n".join(textwrap.wrap(said, 27)) or "(nothing)"
            axes[row, column].text(0.0, 0.5, said, va="center", fontsize=7.5, color=INK)
    for column, title in enumerate(columns, 1):
        axes[0, column].set_title(title, fontsize=9, color=INK, loc="left", fontweight="bold")
    figure.subplots_adjust(
        left=0.01, right=0.995, bottom=0.01, top=1 - 0.3 / (0.3 + 1.2 * count), wspace=0.06, hspace=0.08
    )
    rendered(canvas).save(IMAGES / f"captions-{name}.png", optimize=True)


def looking_picture(folder: str, count: int = 4) -> None:
    """Draw where each word of a CoCa's captions of held-out pictures looked."""
    from intermodal.evaluate.looking_picture import draw_looking
    from intermodal.train.folder import Run

    run = Run(folder)
    source = run.recipe().source.open(run.recipe().final_split)
    chosen = np.random.default_rng(1).permutation(len(source))[:count]
    rows, grid = run.model().looks_of([source.sample(int(i))["image"] for i in chosen])
    draw_looking([row for row in rows if row[1]], grid).save(IMAGES / "coca-looking.png", optimize=True)


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what == "gap":
        print(gap_picture(*rest))
    elif what == "captions":
        captions_picture(rest[0], rest[1:])
    else:
        looking_picture(*rest)
