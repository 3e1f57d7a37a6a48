"""Draw the pictures of LLaVA's page: ``python docs/figures_llava.py RUN``, RUN being one of the recipe llava.

What a trained model answers about unseen concepts and where its answers' words look (``images/llava-looking.png``), and its
exact match by kind of question beside those that see no picture, of the run's own evaluation (``images/llava-kinds.png``).
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from intermodal.core.chat import Turn
from intermodal.data.questions import QuestionSource
from intermodal.evaluate.looking_picture import draw_looking
from intermodal.evaluate.questions import OURS, WHO
from intermodal.hub.load import load
from intermodal.methods.vision_language.llava import LLaVA
from intermodal.nn import tower as towers
from intermodal.train.folder import Run

IMAGES = Path(__file__).parent / "images"
ASKED = (
    "which colour is most of it?",
    "which group does it belong to?",
    "in which style is it drawn?",
    "say a word about it",
)
COLOURS = ("#0d9488", "#94a3b8", "#475569", "#cbd5e1")
SHOWN = 3


def looking(folder: str) -> None:
    """Draw where the words of answers about pictures of unseen concepts look; pictures are spread evenly over the split."""
    model = load(folder)
    assert isinstance(model, LLaVA)
    source = QuestionSource().open("test")
    grid = towers.grid(model.config.tower, model.config.layers)
    rows = []
    for number in range(SHOWN):
        picture = source.picture(len(source) * (2 * number + 1) // (2 * SHOWN))
        words: list[str] = []
        looks: list[np.ndarray] = []
        for asked in ASKED:
            said, seen = model.looks([Turn(asked, None, (picture,))])
            words, looks = words + said, [*looks, seen[:, -grid[0] * grid[1] :]]
        rows.append((picture, words, np.concatenate(looks)))
    draw_looking(rows, grid).save(IMAGES / "llava-looking.png", optimize=True)


def kinds(folder: str) -> None:
    """Draw exact match by kind of question as bars."""
    run = Run(folder)
    metrics = run.evaluation(run.recipe().final_split).metrics
    names = [n for n in metrics if f"chance_{n}" in metrics and n not in ("name_words", "caption_cider")]
    who = {"": OURS, **{k: v for k, v in WHO.items() if f"{k}exact" in metrics}}
    figure, axis = plt.subplots(figsize=(9, 3.2), dpi=160)
    place, width = np.arange(len(names)), 0.8 / len(who)
    for i, (prefix, label) in enumerate(who.items()):
        values = [100 * metrics[prefix + name] for name in names]
        axis.bar(place + (i - (len(who) - 1) / 2) * width, values, width, label=label, color=COLOURS[i])
    axis.set_xticks(place, names)
    axis.set_ylabel("right word for word, %")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8)
    figure.savefig(IMAGES / "llava-kinds.png", bbox_inches="tight")


if __name__ == "__main__":
    looking(sys.argv[1])
    kinds(sys.argv[1])
