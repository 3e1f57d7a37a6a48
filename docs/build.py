"""Draw and write what the handbook shows: equations, tables of methods and figures, pictures. Run by ``make docs``.

Everything lands in ``docs/_generated`` (made anew each time) except the pictures in ``docs/images``, which are kept.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from PIL import Image

from intermodal.core.registry import cards
from intermodal.data.emoji import EmojiSource
from intermodal.recipes import get_recipe
from intermodal.recipes.measured import measured

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
        figures = [measured_line(name) for name in card.recipes if name in measured()]
        page = HERE / "methods" / f"{card.id}.md"
        name = f"[{card.id}](methods/{card.id}.md)" if page.exists() else card.id
        lines.append(
            f"| {name} | {card.title} | {card.paper} | {', '.join(card.capabilities)} | {'<br>'.join(figures)} "
            f"| {card.reference} |"
        )
    return "\n".join(lines) + "\n"


def measured_line(recipe: str) -> str:
    """Return one recipe's measured result in a line."""
    m = measured()[recipe]
    return (
        f"`{recipe}`: {m['metric']} {m['value']:.3f} (chance or baseline {m['baseline']:.3f}) on {m['split']}, "
        f"{m['minutes']:.1f} min on {m['hardware']}, {m['date']}"
    )


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


def main() -> None:
    """Write everything."""
    GENERATED.mkdir(exist_ok=True)
    IMAGES.mkdir(exist_ok=True)
    for name, text in EQUATIONS.items():
        equation(name, text)
    (GENERATED / "methods.md").write_text(methods_table(), encoding="utf-8")
    for method in cards():
        (GENERATED / f"{method}.md").write_text(measured_table(method), encoding="utf-8")
    augment_picture()
    readme = HERE.parent / "README.md"
    before, rest = readme.read_text(encoding="utf-8").split(START)
    after = rest.split(END)[1]
    table = methods_table().replace("](methods/", "](docs/methods/")
    readme.write_text(f"{before}{START}\n{table}{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
