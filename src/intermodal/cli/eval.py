"""``intermodal eval``: judges a trained model on held-out data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from intermodal.cli.common import (
    Model,
    OnDevice,
    OptionalText,
    errors,
    open_session,
    parse,
    print_json,
    print_metrics,
    progress,
)


@dataclass(frozen=True, kw_only=True)
class Arguments(OnDevice):
    """Judge a run, or any other model by the first recipe of its method.

    Attributes:
        model: a run, a checkpoint, a published folder or a hub id.
        split: validation, test, or another that the data has; by default the recipe's final one.
        data: judge on this instead: a folder or file, hub:owner/name, or a known set.
        json: print the figures as JSON.
    """

    model: Model
    split: OptionalText = None
    data: OptionalText = None
    json: bool = False


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    arguments = parse(Arguments, argv, "eval")
    with progress() as report:
        session = open_session(arguments.model, arguments.device, report)
        from intermodal.evaluate.result import save
        from intermodal.recipes import get_recipe
        from intermodal.report.build import build_report
        from intermodal.train.folder import Run

        folder = Run(session.path)
        is_run = (folder.path / "recipe.json").exists()
        recipe = folder.recipe() if is_run else get_recipe(session.card.recipes[0])
        if arguments.data is not None:
            recipe = recipe.on_named(arguments.data)
        split = arguments.split or recipe.final_split
        result = recipe.evaluate(session.model, split, report)
        page = None
        if is_run:
            name = split if arguments.data is None else f"{split}-{Path(arguments.data).name}"
            save(result, folder.path / "evaluation" / name.replace(":", "-"))
            report("writing the report", 0.0)
            page = build_report(folder.path)
    if arguments.json:
        print_json({"split": result.split, "seconds": result.seconds, "metrics": result.metrics})
        return 0
    print_metrics(result.metrics)
    if page is not None:
        errors().print(f"Report: {page}", markup=False)
    return 0
