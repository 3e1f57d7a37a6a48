"""Train a recipe from the first step to the report, in one call."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from intermodal.core.errors import ConfigError
from intermodal.core.progress import Progress, silent
from intermodal.core.registry import load_class
from intermodal.core.version import __version__
from intermodal.data.source import SourceConfig
from intermodal.evaluate.result import save as save_evaluation
from intermodal.methods.base import TrainsNatively
from intermodal.recipes import get_recipe
from intermodal.recipes.base import Recipe
from intermodal.report.build import build_report
from intermodal.train.base import Training
from intermodal.train.folder import Run
from intermodal.train.loop import Trainer
from intermodal.train.native import NativeTrainer
from intermodal.train.progress import clock


def fit(
    recipe: Recipe | str,
    run: Run | str | Path | None = None,
    *,
    data: SourceConfig | str | Path | None = None,
    resume: bool = True,
    evaluate: bool = True,
    quiet: bool = False,
    **overrides: Any,
) -> Run:
    """Train a recipe, judge it on its final split and write the report.

    Args:
        recipe: a recipe, or the name of one.
        run: the run's folder; a new one under ``runs/`` by default.
        data: train on this instead of the recipe's own data: what ``--data`` takes, or a source's configuration.
        resume: go on from the newest checkpoint if the folder has one.
        evaluate: judge the trained model and write the report.
        quiet: print nothing.
        **overrides: fields of the recipe, nested ones with a double underscore: ``train__steps=200``.

    Returns:
        The run; ``run.model()`` loads what was trained.

    Raises:
        ConfigError: for unknown recipes or fields, and a folder that holds a run of another recipe.
        DataError: if the data is not there or does not have what the method needs.
        TrainingError: if the loss is no longer a number.
    """
    recipe = get_recipe(recipe) if isinstance(recipe, str) else recipe
    if data is not None:
        recipe = recipe.on(data) if isinstance(data, SourceConfig) else recipe.on_named(str(data))
    if overrides:
        recipe = recipe.replace(**overrides)
    run = run if isinstance(run, Run) else Run(run) if run is not None else Run.new(recipe.name)
    if not resume and run.checkpoints():
        raise ConfigError(f"{run.path} already holds a run: choose another folder, or let it resume.")
    native = recipe.train.native and issubclass(load_class(recipe.method), TrainsNatively)
    trainer: Training = (NativeTrainer if native else Trainer)(recipe, run, quiet=quiet)
    run = trainer.run
    finished = trainer.fit()
    if finished and evaluate and trainer.is_main:
        judge(run, recipe.final_split, trainer.progress.stage, trainer.progress.say)
    return run


def judge(run: Run, split: str, progress: Progress = silent, say: Callable[[str], None] = print) -> Path:
    """Judge a run's trained model on a split, save what was found and write the report; return the report's path."""
    recipe = run.recipe()
    say(f"Judging on the {split} split ...")
    start = time.monotonic()
    result = recipe.evaluate(run.model(), split, progress)
    save_evaluation(result, run.path / "evaluation" / split)
    report = build_report(run.path)
    name, value = next(iter(result.metrics.items()), ("nothing", float("nan")))
    say(f"{name} {value:.3f} on {split} (in {clock(time.monotonic() - start)}).")
    say(f"Report: {report}")
    say(f"Model:  {run.model_path}   (intermodal {__version__})")
    return report
