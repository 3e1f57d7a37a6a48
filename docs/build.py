"""Draw and write what the handbook shows: equations, tables of methods and figures, pictures. Run by ``make docs``.

Everything lands in ``docs/_generated`` (made anew each time) except the pictures in ``docs/images``, which are kept.
"""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from PIL import Image

from intermodal.core.registry import cards
from intermodal.data.emoji import EmojiSource
from intermodal.evaluate.result import Heatmap
from intermodal.evaluate.result import load as load_evaluation
from intermodal.recipes import get_recipe
from intermodal.recipes.measured import in_words, measured

HERE = Path(__file__).parent
GENERATED = HERE / "_generated"
IMAGES = HERE / "images"

START, END = "<!-- methods: written by docs/build.py -->", "<!-- /methods -->"

EQUATIONS = {
    "clip-softmax": r"$L = -\frac{1}{2B}\sum_{i}\left[\log\frac{e^{s\,x_i\cdot y_i}}{\sum_j e^{s\,x_i\cdot y_j}}"
    r" + \log\frac{e^{s\,x_i\cdot y_i}}{\sum_j e^{s\,x_j\cdot y_i}}\right]$",
    "clip-sigmoid": r"$L = -\frac{1}{B}\sum_{i,j}\log\,\sigma\left(z_{ij}\,(s\,x_i\cdot y_j + b)\right)$",
}


def equation(name: str, text: str) -> None:
    """Write an equation as an inline SVG that takes the page's text colour."""
    figure = plt.figure(figsize=(0.01, 0.01))
    figure.text(0, 0, text, fontsize=16)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", transparent=True)
    plt.close(figure)
    svg = buffer.getvalue()
    svg = re.sub(r"<\?xml.*?<svg", "<svg", svg, flags=re.S)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{name}" fill="currentColor"', 1)
    (GENERATED / f"{name}.svg").write_text(re.sub(r"\n\s*", " ", svg) + "\n", encoding="utf-8")


def methods_table() -> str:
    """Return the table of methods with what each is measured to reach."""
    lines = ["| id | method | paper | can | measured | compared with |", "|---|---|---|---|---|---|"]
    for card in cards().values():
        figures = [f"`{name}`: {in_words(measured()[name])}" for name in card.recipes if name in measured()]
        page = HERE / "methods" / f"{card.id}.md"
        name = f"[{card.id}](methods/{card.id}.md)" if page.exists() else card.id
        lines.append(
            f"| {name} | {card.title} | {card.paper} | {', '.join(card.capabilities)} | {'<br>'.join(figures)} "
            f"| {card.reference} |"
        )
    return "\n".join(lines) + "\n"


def measured_table(method: str) -> str:
    """Return all figures of a method's recipes as a table."""
    rows = [
        "| recipe | figure | value | baseline | on | time | hardware | date |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for recipe in cards()[method].recipes:
        if recipe in measured():
            m = measured()[recipe]
            rows.append(
                f"| `{recipe}` | {m['metric']} | {m['value']:.3f} | {m['baseline']:.3f} | {m['split']} "
                f"| {m['minutes']:.1f} min | {m['hardware']} | {m['date']} |"
            )
    return "\n".join(rows) + "\n"


def all_figures(method: str) -> str:
    """Return every figure of a method's recipes beside its baselines, as tables."""
    text = ""
    for recipe in cards()[method].recipes:
        metrics = measured().get(recipe, {}).get("metrics", {})
        names = [n for n in metrics if f"chance_{n}" in metrics]
        rows = ["| figure | reached | colours to words | nearest pixels | chance |", "|---|---|---|---|---|"]
        for name in names:
            values = [metrics.get(who + name) for who in ("", "colours_", "pixels_", "chance_")]
            rows.append(f"| `{name}` | " + " | ".join("" if v is None else f"{v:.3f}" for v in values) + " |")
        if names:
            text += f"\nAll figures of `{recipe}`:\n\n" + "\n".join(rows) + "\n"
    return text


def performance_tables() -> str:
    """Return the recorded benchmarks as tables."""
    text = ""
    for file in sorted((HERE.parent / "benchmarks" / "results").glob("*.json")):
        data = json.loads(file.read_text(encoding="utf-8"))
        peers = ", ".join(f"{k} {v}" for k, v in data["versions"].items())
        where = f"{data['hardware']}, {data['threads']} thread(s), {data['date'][:10]}"
        text += f"## `{data['benchmark']}`\n\n{where}. {peers}.\n"
        for case in data["cases"]:
            text += f"\n**{case['title']}** (minimum of {case['repeats']})\n\n"
            text += "| | CPU s | x ours | wall s | x ours | peak MB | x ours |\n|---|---|---|---|---|---|---|\n"
            for row in case["contenders"]:
                if row["status"] != "ok":
                    text += f"| {row['name']} | {row['status']} | | | | | |\n"
                    continue
                ratio, peak = row["ratios_to_ours"], row["peak_bytes"]
                heavier = f"{ratio['peak_bytes']:.2f}" if "peak_bytes" in ratio else ""
                text += (
                    f"| {row['name']} | {row['cpu_s']:.3f} | {ratio['cpu_s']:.2f} | {row['wall_s']:.3f} "
                    f"| {ratio['wall_s']:.2f} | {'' if peak is None else f'{peak / 1e6:.0f}'} | {heavier} |\n"
                )
        text += "\n"
    return text


def augment_picture() -> None:
    """Draw eight training pictures above three augmented versions of each."""
    recipe = get_recipe("clip")
    source = EmojiSource().open("train")
    assert recipe.augment is not None
    rows = range(0, len(source.rows), len(source.rows) // 8)[:8]
    pictures = [torch.tensor(list(source.image(r).tobytes())).view(64, 64, 3).permute(2, 0, 1) / 255 for r in rows]
    batch = torch.stack(pictures)
    generator = torch.Generator().manual_seed(0)
    versions = [batch] + [recipe.augment.apply(batch, recipe.augment.draw(8, generator)) for _ in range(3)]
    grid = torch.cat([torch.cat(list(v), dim=2) for v in versions], dim=1)
    array = (grid * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(array).save(IMAGES / "augment.png", optimize=True)


def similarity_picture(run: Path) -> None:
    """Draw the similarities of held-out pictures and texts that a run's evaluation holds."""
    panel = next(p for p in load_evaluation(run / "evaluation" / "test").panels if isinstance(p, Heatmap))
    figure, axes = plt.subplots(figsize=(9, 9))
    axes.imshow(panel.values, cmap="viridis")
    axes.set_xticks(range(len(panel.columns)), [_short(item.text) for item in panel.columns], rotation=90, fontsize=7)
    axes.set_yticks(range(len(panel.rows)), [""] * len(panel.rows))
    for place, item in enumerate(panel.rows):
        if item.image is not None:
            axes.add_artist(
                AnnotationBbox(OffsetImage(item.image, zoom=0.3), (-1.1, place), frameon=False, annotation_clip=False)
            )
    axes.tick_params(length=0)
    figure.tight_layout()
    figure.savefig(IMAGES / "clip-similarity.png", dpi=80)
    plt.close(figure)


def _short(text: str, most: int = 24) -> str:
    return text if len(text) <= most else f"{text[:most]}…"


def main() -> None:
    """Write everything; a run given as argument draws the pictures of results anew."""
    GENERATED.mkdir(exist_ok=True)
    IMAGES.mkdir(exist_ok=True)
    if len(sys.argv) > 1:
        similarity_picture(Path(sys.argv[1]))
    for name, text in EQUATIONS.items():
        equation(name, text)
    (GENERATED / "methods.md").write_text(methods_table(), encoding="utf-8")
    (GENERATED / "performance.md").write_text(performance_tables(), encoding="utf-8")
    for method in cards():
        (GENERATED / f"{method}.md").write_text(measured_table(method) + all_figures(method), encoding="utf-8")
    augment_picture()
    readme = HERE.parent / "README.md"
    before, rest = readme.read_text(encoding="utf-8").split(START)
    after = rest.split(END)[1]
    table = methods_table().replace("](methods/", "](docs/methods/")
    readme.write_text(f"{before}{START}\n{table}{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
