"""What the pages of vision transformers show: the table beside transformers, the curve of costs, Swin's windows.

``python docs/figures_vision.py [RUN]`` draws the pictures, of a run of the recipe ``swin`` its attention too;
:func:`tables` is called by docs/build.py.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CURVES = HERE.parent / "benchmarks" / "results" / "curves"
PEERS, COST = CURVES / "vision_peers.json", CURVES / "vision_cost.json"


def tables() -> str:
    """Return what our models and transformers' reach with the same budget."""
    if not PEERS.is_file():
        return ""
    data = json.loads(PEERS.read_text(encoding="utf-8"))
    rows = [
        "| recipe | held-out pictures | steps | seeds | top-1 ours | transformers | top-5 ours | transformers | CPU s ours "
        "| transformers |",
        "|---" * 10 + "|",
    ]
    for row in data["rows"]:
        ours, theirs = row["intermodal"], row["transformers"]
        rows.append(
            f"| `{row['recipe']}` | {row['judged']:,} | {row['steps']} x {row['batch']} | {row['seeds']} "
            f"| {_share(ours)} | {_share(theirs)} | {ours['top5']:.3f} | {theirs['top5']:.3f} "
            f"| {ours['train_cpu_seconds']:.0f} | {theirs['train_cpu_seconds']:.0f} |"
        )
    about = (
        "Beside transformers' own classes: their pooling (class token, mean of places) in the place of the recipes' flat "
        "one, the same first weights, batches, order and optimiser, bf16 autocast, no mixed pictures, no stochastic depth, "
        "a shorter budget than the recipes'; means over seeds, and behind ± half of what lies between best and "
        f"worst seed ({data['hardware']}, {data['date']}, `benchmarks/vision_training.py`).\n\n"
    )
    return about + "\n".join(rows) + "\n"


def _share(figures: dict[str, float]) -> str:
    return f"{figures['top1']:.3f} ± {figures['top1_spread'] / 2:.3f}"


def cost_picture() -> None:
    """Draw CPU seconds and operations over the side of the picture."""
    import matplotlib.pyplot as plt

    rows: list[dict[str, Any]] = json.loads(COST.read_text(encoding="utf-8"))["rows"]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    sizes = [row["size"] for row in rows]
    for name, colour in (("ViT-Small/16", "#8a5a00"), ("Swin-Tiny/4", "#0d7d74")):
        axes[0].plot(sizes, [row[name]["cpu_seconds"] for row in rows], "o-", color=colour, label=name)
        axes[1].plot(sizes, [row[name]["flops"] / 1e9 for row in rows], "o-", color=colour, label=name)
    for axis, label in zip(axes, ("CPU seconds of a forward pass", "billion operations"), strict=True):
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xticks(sizes, [str(size) for size in sizes])
        axis.minorticks_off()
        axis.set_xlabel("side of the picture, pixels")
        axis.set_ylabel(label)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    figure.savefig(HERE / "images" / "vision-cost.png", dpi=140)


def windows_picture() -> None:
    """Draw on an emoji the windows of a Swin of three stages."""
    from intermodal.data.emoji import EmojiSource
    from intermodal.evaluate.window_picture import draw_windows
    from intermodal.nn.swin import SwinConfig

    shown = SwinConfig(image_size=64, patch_size=4, width=48, depths=(2, 2, 2), heads=(2, 4, 8), window=4)
    image = EmojiSource(unit="picture").open("test").sample(1200)["image"]
    draw_windows(shown, image).resize((1200, 984)).save(HERE / "images" / "swin-windows.png", optimize=True)


def attention_picture(run: str) -> None:
    """Draw what the windows of a trained Swin look at on unseen emoji."""
    import intermodal
    from intermodal.data.emoji import EmojiSource
    from intermodal.evaluate.window_picture import draw_attention

    model: Any = intermodal.load(run)
    held = EmojiSource(unit="picture").open("test")
    images = [held.sample(i)["image"] for i in (300, 700, 1200)]
    drawn = draw_attention(model.image, images, model.processors["image"](images))
    drawn.resize((1200, round(1200 * drawn.height / drawn.width))).save(
        HERE / "images" / "swin-attention.png", optimize=True
    )


if __name__ == "__main__":
    windows_picture()
    if COST.is_file():
        cost_picture()
    for name in sys.argv[1:]:
        attention_picture(name)
