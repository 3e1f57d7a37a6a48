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
import numpy as np
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
    "binding": r"$L = \sum_{M}\ \frac{1}{2}\left(L_{I,M} + L_{M,I}\right)\qquad"
    r"L_{I,M} = -\frac{1}{B}\sum_i \log\frac{e^{s_M\,q_i\cdot k_i}}{\sum_j e^{s_M\,q_i\cdot k_j}}$",
    "sgns": r"$L = -\log\,\sigma(u_c\cdot v_w) - \sum_{k=1}^{K}\log\,\sigma(-u_{n_k}\cdot v_w)"
    r"\qquad n_k \sim \mathrm{count}^{3/4}$",
    "pair": r"$L = y\,\frac{1}{2}\,d^2 + (1 - y)\,\frac{1}{2}\,\max(0,\ m - d)^2$",
    "triplet": r"$L = \max\left(0,\ d(a, p) - d(a, n) + m\right)$",
    "nt-xent": r"$L = -\frac{1}{2B}\sum_{i}\,\log\frac{e^{z_i\cdot z_{j(i)}/\tau}}{\sum_{a \neq i} e^{z_i\cdot z_a/\tau}}$",
    "supcon-out": r"$L_{out} = \sum_i \frac{-1}{|P(i)|}\sum_{p\in P(i)}"
    r"\log\frac{e^{z_i\cdot z_p/\tau}}{\sum_{a \neq i} e^{z_i\cdot z_a/\tau}}$",
    "supcon-in": r"$L_{in} = \sum_i -\log\left[\frac{1}{|P(i)|}\sum_{p\in P(i)}"
    r"\frac{e^{z_i\cdot z_p/\tau}}{\sum_{a \neq i} e^{z_i\cdot z_a/\tau}}\right]$",
    "vicreg": r"$L = \frac{\lambda}{BD}\sum_{i}\|z_i - z'_i\|^2"
    r" + \mu\,\left[v(Z) + v(Z')\right] + \nu\,\left[c(Z) + c(Z')\right]$",
    "vicreg-terms": r"$v(Z) = \frac{1}{D}\sum_{d}\max\left(0,\ 1 - \sqrt{C_{dd} + \epsilon}\right)"
    r"\qquad c(Z) = \frac{1}{D}\sum_{d \neq e} C_{de}^2$",
    "e-ssl": r"$L = L_{SSL}(z, z') + \lambda\,\mathrm{CE}\left(p(f(g_k x)),\ k\right)\qquad k \in \{0, 1, 2, 3\}$",
    "ebm-density": r"$p(x) = \frac{e^{-E(x)}}{Z}\qquad Z = \int e^{-E(x)}\,dx$",
    "ebm-gradient": r"$\nabla\,\mathbf{E}\left[-\log p(x)\right] = \mathbf{E}_{data}\left[\nabla E(x)\right]"
    r" - \mathbf{E}_{p}\left[\nabla E(x)\right]$",
    "ebm-loss": r"$L = \log\left(1 + e^{\,g}\right) + \alpha\left(\overline{E(x)^2} + \overline{E(\tilde{x})^2}\right)"
    r"\qquad g = \overline{E(x)} - \overline{E(\tilde{x})}$",
    "langevin": r"$\tilde{x}_{k+1} = \tilde{x}_k - \eta\,\nabla E(\tilde{x}_k) + \sigma\,\epsilon_k"
    r"\qquad \epsilon_k \sim N(0, 1)$",
    "bert": r"$L = -\frac{1}{|M|}\sum_{i \in M} \log p(w_i\ |\ \tilde{x})\ -\ \lambda\,\log p(r\ |\ \tilde{x})"
    r"\qquad r \in \{next,\ random\}$",
    "simcse": r"$L = -\frac{1}{B}\sum_i \log\frac{e^{h_i\cdot h_i^+/\tau}}"
    r"{\sum_j \left(e^{h_i\cdot h_j^+/\tau} + e^{h_i\cdot h_j^-/\tau}\right)}$",
    "nce-logit": r"$h(u) = \sigma\left(\log p_{model}(u) - \log p_{noise}(u) - \log k\right)$",
    "nce-loss": r"$L = -\mathbf{E}_{data}\left[\log h(x)\right] - k\,\mathbf{E}_{noise}\left[\log(1 - h(y))\right]$",
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


BASELINES = {
    "colours_": "colours to words",
    "pixels_": "raw pixels",
    "random_": "random weights",
    "ppca_": "PPCA",
    "bigram_": "bigram",
    "majority_": "most frequent",
    "overlap_": "overlap of words",
    "before_": "before SimCSE",
    "sif_": "word2vec, SIF",
    "words_": "word2vec, mean",
    "through_": "through training pictures",
    "chance_": "chance",
}
"""How a baseline's figures begin, and what stands over their column."""


def all_figures(method: str) -> str:
    """Return every figure of a method's recipes beside its baselines, as tables."""
    text = ""
    for recipe in cards()[method].recipes:
        metrics = measured().get(recipe, {}).get("metrics", {})
        own = [n for n in metrics if not n.startswith(tuple(BASELINES))]
        prefixes = [p for p in BASELINES if any(p + n in metrics for n in own)]
        names = [n for n in own if any(p + n in metrics for p in prefixes)] if prefixes else own
        if not names:
            continue
        head = " | ".join(["figure", "reached", *(BASELINES[p] for p in prefixes)])
        rows = [f"| {head} |", "|---" * (2 + len(prefixes)) + "|"]
        for name in names:
            values = [metrics.get(who + name) for who in ("", *prefixes)]
            rows.append(f"| `{name}` | " + " | ".join("" if v is None else f"{v:.3g}" for v in values) + " |")
        text += f"\nAll figures of `{recipe}`:\n\n" + "\n".join(rows) + "\n"
    return text


ENCODERS = ("simclr", "e-ssl", "vicreg", "siamese", "triplet", "supcon", "supervised")
WITHOUT_LABELS = ENCODERS[:3]
FEATURES = {"knn": "k-NN", "probe": "probe", "style_knn": "k-NN, new styles", "style_probe": "probe, new styles"}


def encoders_table() -> str:
    """Return what the frozen features of each image encoder's recipe hold, beside random weights and raw pixels."""
    found = [(name, measured()[name]) for name in ENCODERS if name in measured()]
    if not found:
        return "Not measured yet.\n"
    rows = [
        f"| | labels | {' | '.join(FEATURES.values())} | minutes | CPU minutes |",
        "|---" * (len(FEATURES) + 4) + "|",
    ]
    for name, entry in found:
        values = [f"{entry['metrics'][f]:.3f}" for f in FEATURES]
        labels = "no" if name in WITHOUT_LABELS else "yes"
        rows.append(
            f"| `{name}` | {labels} | {' | '.join(values)} | {entry['minutes']:.1f} | {entry['cpu_minutes']:.1f} |"
        )
    metrics = found[0][1]["metrics"]
    for prefix, name in (("random_", f"random weights (of `{found[0][0]}`)"), ("pixels_", "raw pixels, 16 x 16")):
        values = [f"{metrics[prefix + f]:.3f}" for f in FEATURES]
        rows.append(f"| {name} | no | {' | '.join(values)} | | |")
    return "\n".join(rows) + "\n"


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


def augment_picture(name: str, file: str) -> None:
    """Draw eight training pictures above three versions of each, as a recipe augments them."""
    recipe = get_recipe(name)
    source = EmojiSource().open("train")
    assert recipe.augment is not None
    rows = range(0, len(source.rows), len(source.rows) // 8)[:8]
    pictures = [torch.tensor(list(source.image(r).tobytes())).view(64, 64, 3).permute(2, 0, 1) / 255 for r in rows]
    batch = torch.stack(pictures)
    generator = torch.Generator().manual_seed(0)
    augment = recipe.augment.replace(views=1)
    versions = [batch] + [augment.apply(batch, augment.draw(8, generator)) for _ in range(3)]
    grid = torch.cat([torch.cat(list(v), dim=2) for v in versions], dim=1)
    array = (grid * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(array).save(IMAGES / file, optimize=True)


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


TRANSFORMATIONS = ("rotation", "scale", "translation", "mirror", "upside_down")


def invariance_picture() -> None:
    """Draw who is invariant to what, and who is equivariant beyond that, for every recorded image encoder."""
    found = {name: measured()[name]["metrics"] for name in ENCODERS if name in measured()}
    if not found:
        return
    one = next(iter(found.values()))
    rows = [(name, "", metrics) for name, metrics in found.items()]
    rows += [("random weights", "random_", one), ("raw pixels", "pixels_", one)]
    kinds = (
        ("invariance", "Invariance (1: nothing changes, 0: as different as another picture)"),
        ("gain", "Equivariance beyond it (share of the change that a linear map predicts)"),
    )
    figure, both = plt.subplots(1, 2, figsize=(11, 0.42 * len(rows) + 1.4), sharey=True)
    for axes, (kind, title) in zip(both, kinds, strict=True):
        values = np.array([[m[f"{prefix}{kind}_{t}"] for t in TRANSFORMATIONS] for _, prefix, m in rows], float)
        axes.imshow(values, cmap="viridis", vmin=0, vmax=1, aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            ink = "white" if value < 0.6 else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=9, color=ink)
        axes.set_xticks(range(len(TRANSFORMATIONS)), [t.replace("_", " ") for t in TRANSFORMATIONS], fontsize=9)
        axes.set_yticks(range(len(rows)), [name for name, _, _ in rows], fontsize=9)
        axes.set_title(title, fontsize=9)
        axes.tick_params(length=0)
    figure.tight_layout()
    figure.savefig(IMAGES / "invariance.png", dpi=90)
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
    augment_picture("clip", "augment.png")
    augment_picture("simclr", "views.png")
    invariance_picture()
    (GENERATED / "image-encoders.md").write_text(encoders_table(), encoding="utf-8")
    readme = HERE.parent / "README.md"
    before, rest = readme.read_text(encoding="utf-8").split(START)
    after = rest.split(END)[1]
    table = methods_table().replace("](methods/", "](docs/methods/")
    readme.write_text(f"{before}{START}\n{table}{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
