"""What the pages of captioners show: the table of benchmarks/captioners.py, and the gap between pictures and texts.

``python docs/figures_captioners.py RUN`` draws the gap in a CLIP's space; :func:`tables` is called by docs/build.py.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

FILE = Path(__file__).parent.parent / "benchmarks" / "results" / "curves" / "captioners.json"
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
    draw_gap(sets).save(Path(__file__).parent / "images" / "modality-gap.png", optimize=True)
    return metrics


if __name__ == "__main__":
    print(gap_picture(sys.argv[1]))
