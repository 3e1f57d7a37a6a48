"""Record what a finished run reached as its recipe's measured result: ``python tools/record.py runs/clip-...``.

The figure, its baseline, date, hardware and time are taken from the run's folder; none is typed by hand.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from intermodal.core.files import read_json, write_json
from intermodal.recipes import get_recipe, measured
from intermodal.recipes.image_generation import GeneratorRecipe
from intermodal.recipes.llava import LLaVARecipe
from intermodal.train.folder import Run


def main(folder: str) -> int:
    """Write one entry of ``measured.json``."""
    run = Run(folder)
    recipe = run.recipe()
    summary, result = run.summary(), run.evaluation(recipe.final_split)
    if summary["status"] != "finished":
        print(f"{folder} is not finished: nothing recorded.", file=sys.stderr)
        return 2
    aside: dict[str, Any] = {"expect": ()}
    if isinstance(recipe, GeneratorRecipe):
        aside["judge"] = None  # who judges changes nothing of what is judged
    if isinstance(recipe, LLaVARecipe):
        aside["text_only"] = None  # nor does what stands beside it
    if recipe.replace(**aside) != get_recipe(recipe.name).replace(**aside):
        print(f"{folder} ran with settings that are not the recipe's own: nothing recorded.", file=sys.stderr)
        return 2
    file = Path(measured.__file__).with_name(measured.FILE)
    entries = read_json(file) if file.exists() else {}
    name, value = next(iter(result.metrics.items()))
    entries[recipe.name] = {
        "metric": name,
        "value": round(value, 4),
        "baseline": round(result.metrics[f"chance_{name}"], 4),
        "metrics": {k: round(v, 4) for k, v in result.metrics.items()},
        "split": f"{summary['data'].split(' (')[0]}, {recipe.final_split}",
        "date": summary["date"],
        "hardware": summary["hardware"],
        "minutes": round(summary["seconds"] / 60, 2),
        "cpu_minutes": round(summary["cpu_seconds"] / 60, 2),
        "steps": summary["steps"],
    }
    write_json(file, dict(sorted(entries.items())))
    print(f"{recipe.name}: {name} {value:.4f} recorded in {file.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
