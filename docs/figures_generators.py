"""The table over all generators of pictures, and quality against steps, from what ``benchmarks/generators.py`` recorded.

``python docs/figures_generators.py`` draws ``docs/images/generators-steps.png`` anew; ``make docs`` writes the table.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

HERE = Path(__file__).parent
RECORD = HERE.parent / "benchmarks" / "results" / "curves" / "generators.json"
IMAGES = HERE / "images"
PLOT = IMAGES / "generators-steps.png"
COLUMNS = {
    "kid": ("kernel distance × 1,000", lambda v: f"{1000 * v:.1f}"),
    "precision": ("precision", lambda v: f"{v:.2f}"),
    "recall": ("recall", lambda v: f"{v:.2f}"),
    "novelty": ("novelty", lambda v: f"{v:.2f}"),
    "clip_score": ("cosine with the text", lambda v: f"{v:.3f}"),
    "clip_r1": ("R@1", lambda v: f"{v:.3f}"),
    "clip_r10": ("R@10", lambda v: f"{v:.3f}"),
    "evaluations": ("passes", lambda v: f"{v:,}"),
    "cpu_seconds": ("CPU s a picture", lambda v: f"{v:.2g}"),
}
FIRST = "ddpm-1000"
SAMPLERS = {"ddim": ("DDIM", "o"), "dpm": ("DPM-Solver++ (2M)", "s")}
PICTURES = {
    "generators.png": "Every generator's pictures for eight prompts of which there is no picture, seeds 0 and 1, nothing "
    "picked; generators that take no prompt drew sixteen pictures",
    "generators-memory.png": "Of each generator the pictures that are nearest to a training picture, above that picture; "
    "first, for comparison, those held-out pictures that are",
    "generators-steps.png": "Fréchet distance and cosine with the text against steps",
}


def record() -> dict[str, Any] | None:
    """Return what was recorded, or None."""
    return json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else None


def tables() -> str:
    """Return the table, the comparison of samplers and the pictures that there are."""
    if (data := record()) is None:
        return "Not measured yet.\n"
    head = ["", "Fréchet distance", *(name for name, _ in COLUMNS.values())]
    text = "| " + " | ".join(head) + " |\n|---" + "|---:" * (len(head) - 1) + "|\n"
    references = [{"title": f"*{name}*", **values} for name, values in data["references"].items()]
    for row in [*data["rows"], *references]:
        cells = [f"{said(how, row.get(name))}" for name, (_, how) in COLUMNS.items()]
        distance = "" if row.get("frechet") is None else f"{row['frechet']:.3f}"
        spread = f" ± {row['frechet_spread']:.3f}" if "frechet_spread" in row else ""
        text += f"| {row['title']} | {distance}{spread} | {' | '.join(cells)} |\n"
    judge = f" The judge of pictures and texts is a `{data['judge']}`." if data["judge"] else ""
    threads = sorted({number for row in data["rows"] for number in row["threads"]})
    text += (
        f"\n{data['pictures']:,} pictures a row of {data['size'][1]} × {data['size'][0]} pixels against as many held-out "
        f"ones ({data['held_out']}).{judge} {data['hardware']}, {' and '.join(map(str, threads))} thread(s), torch "
        f"{data['versions']['torch']}, {data['date'][:10]}. The ± is one standard deviation over what is drawn.\n"
    )
    if guided := sorted({row["guidance"] for row in data["rows"] if row["steps"] and not row["about_guidance"]}):
        text += f"The diffusion rows have guidance {' and '.join(f'{g:g}' for g in guided)} where they name none.\n"
    text += beside_ddpm(data)
    shown = [f"\n![{words}](images/{name})\n" for name, words in PICTURES.items() if (IMAGES / name).exists()]
    return text + "".join(shown)


def said(how: Any, value: Any) -> str:
    """Return a figure as a cell."""
    return "–" if value is None else how(value)


def beside_ddpm(data: dict[str, Any]) -> str:
    """Return each sampler's distance beside that of DDPM with all its steps, as a table."""
    rows = [row for row in data["rows"] if row["steps"] and "frechet_ratio" in row and row["name"] != FIRST]
    if not rows:
        return ""
    text = "\n| the same network | Fréchet distance, DDPM's is 1 | times as fast |\n|---|---:|---:|\n"
    for row in rows:
        ratio = f"{row['frechet_ratio']:.3f} ± {row['frechet_ratio_spread']:.3f}"
        text += f"| {row['title']} | {ratio} | {row['times_as_fast']:.1f} |\n"
    return text


def draw() -> None:
    """Draw quality against steps, if it is recorded."""
    if (data := record()) is None or not any(row["steps"] for row in data["rows"]):
        return
    told = any("clip_score" in row for row in data["rows"])
    figure, both = plt.subplots(1, 1 + told, figsize=(6.2 * (1 + told), 4.4), squeeze=False)
    one_plot(both[0, 0], data, "frechet", "Fréchet distance on features-v1, less is better")
    if told:
        one_plot(both[0, 1], data, "clip_score", "cosine of picture and text, by the judge")
    figure.tight_layout()
    figure.savefig(PLOT, dpi=90)
    plt.close(figure)


def one_plot(axes: Axes, data: dict[str, Any], name: str, label: str) -> None:
    """Draw one figure of each sampler over its steps, and DDPM's with ten per cent on either side."""
    for number, (sampler, (title, mark)) in enumerate(SAMPLERS.items()):
        rows = [row for row in data["rows"] if row["sampler"] == sampler and name in row]
        rows = [row for row in rows if not row["about_guidance"]]
        x, y = [row["steps"] for row in rows], [row[name] for row in rows]
        spread = [row[f"{name}_spread"] for row in rows] if name == "frechet" else None
        axes.errorbar(x, y, yerr=spread, marker=mark, color=f"C{number}", capsize=3, label=title)
    for row in data["rows"]:
        if row["name"] == FIRST and name in row:
            spread = row["frechet_spread"] if name == "frechet" else None
            axes.errorbar(
                [row["steps"]], [row[name]], yerr=spread, marker="D", color="black", capsize=3, label=row["title"]
            )
            if name == "frechet":
                axes.axhspan(0.9 * row[name], 1.1 * row[name], color="black", alpha=0.08, label="within 10 % of it")
    reference = "training pictures" if name == "frechet" else "held-out pictures"
    if (value := data["references"][reference].get(name)) is not None:
        axes.axhline(value, color="tab:gray", linestyle="--", linewidth=1, label=reference)
    axes.set_xscale("log")
    axes.set_xlabel("steps")
    axes.set_ylabel(label)
    axes.grid(alpha=0.25, which="both")
    axes.legend(frameon=False, fontsize=8)


if __name__ == "__main__":
    draw()
