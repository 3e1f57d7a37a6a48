"""The tables and the picture of the page on the feature network, from the figures of ``tools/judge_features.py``.

``python docs/figures_features.py`` draws ``docs/images/features-v1.png``; the tables are written by ``docs/build.py``.
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
RESULTS = HERE.parent / "benchmarks" / "results" / "curves" / "features_v1.json"
PICTURE = HERE / "images" / "features-v1.png"
AXES = {
    "blur": "blur, standard deviation in pixels",
    "noise": "noise, standard deviation",
    "jpeg": "JPEG, quality",
    "shift": "shift, pixels",
}
STYLES = {"features-v1": ("tab:blue", "-"), "random weights": ("tab:gray", "--")}


def tables() -> str:
    """Return what was measured as tables."""
    if not RESULTS.exists():
        return "Not measured yet.\n"
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    text = (
        f"Measured on the {found['pictures']:,} pictures of the emoji set's split `test`, concepts that were never "
        f"trained on; where pictures are changed, on {found['compared']} of them.\n\n"
        "*Read-out*: how often the sub-group (of 98) is told from the features, by 20 neighbours and by a linear probe; on "
        "held-out concepts and, as *new styles*, in the two styles that were never seen.\n\n"
        "| features | k-NN | probe | k-NN, new styles | probe, new styles |\n|---|---|---|---|---|\n"
    )
    for name, row in found["read_out"].items():
        text += (
            f"| {name} | " + " | ".join(f"{row[k]:.3f}" for k in ("knn", "probe", "style_knn", "style_probe")) + " |\n"
        )
    text += "\n*Order*: of how many pictures the distance grows when a change gets one step stronger.\n\n| distance | "
    text += " | ".join(AXES) + " |\n|---" + "|---" * len(AXES) + "|\n"
    for name, kinds in found["order"].items():
        text += f"| {name} | " + " | ".join(f"{kinds[k]['in_order']:.3f}" for k in AXES) + " |\n"
    text += (
        "\n*What squared errors cannot tell*: how often a blur is farther from the picture than a shift by one pixel of the "
        f"very same squared error ({found['blur_over_shift']['pictures']:.0f} pictures); and how often one concept in two "
        "artists' styles is nearer than two concepts in one style "
        f"({found['concept_over_style']['triplets']:.0f} triplets; chance is 0.5).\n\n"
        "| distance | blur over shift | concept over style |\n|---|---|---|\n"
    )
    for name in found["order"]:
        blur = found["blur_over_shift"].get(name)  # squared errors are equal by construction
        text += f"| {name} | {'-' if blur is None else f'{blur:.3f}'} | {found['concept_over_style'][name]:.3f} |\n"
    own = found["sets"][found["network"]]
    text += (
        f"\n*Fréchet distance on {found['network']}* of half of the pictures to the same half changed, from the weakest to "
        f"the strongest change. Two halves of the pictures themselves are {own['halves']:.3g} apart: so far are sets of "
        "this size that differ in nothing but the draw.\n\n| change | strengths | distances |\n|---|---|---|\n"
    )
    for kind, label in AXES.items():
        strengths = found["order"][found["network"]][kind]["strengths"]
        text += f"| {label} | {', '.join(f'{s:g}' for s in strengths)} | {', '.join(f'{d:.3g}' for d in own[kind])} |\n"
    return text


def main() -> None:
    """Draw one plot a change."""
    order = json.loads(RESULTS.read_text(encoding="utf-8"))["order"]
    figure, plots = plt.subplots(1, len(AXES), figsize=(3.1 * len(AXES), 3.1), sharey=True)
    for axes, (kind, label) in zip(plots, AXES.items(), strict=True):
        for name, (colour, line) in STYLES.items():
            found = order[name][kind]
            axes.plot(found["strengths"], found["mean"], line, color=colour, marker="o", markersize=4, label=name)
        if kind == "jpeg":
            axes.invert_xaxis()
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
    plots[0].set_ylim(bottom=0)  # all share one axis
    plots[0].set_ylabel("perceptual distance")
    plots[0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(PICTURE, dpi=90)
    plt.close(figure)
    print(f"Wrote {PICTURE}.")


if __name__ == "__main__":
    main()
