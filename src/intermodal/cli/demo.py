"""``intermodal demo``: the main job from start to end on the shipped pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from intermodal.cli import studio
from intermodal.cli.common import OptionalPath, errors, output, parse, progress


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Train CLIP on the shipped emoji set, judge it, write its report, and open a page to search with.

    Started again, it goes on where it was, or opens the page at once if all is done.

    Attributes:
        run: the folder of the run; runs/demo by default (runs/demo-smoke with --smoke).
        smoke: the same path in seconds, too short to learn much.
        serve: open the page at the end; without it the command ends with the report.
        port: the port of the page.
        open: open the page in the browser.
    """

    run: OptionalPath = None
    smoke: bool = False
    serve: bool = True
    port: int = 7860
    open: bool = True


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    arguments = parse(Arguments, argv, "demo")
    errors().print("1/3  Training CLIP: pictures and texts in one space. Loading torch ...", markup=False)
    from intermodal.recipes import get_recipe
    from intermodal.train.folder import Run
    from intermodal.train.run import fit, judge

    recipe = get_recipe("clip")
    if recipe.expect and not arguments.smoke:
        known = recipe.expect[0]
        errors().print(f"     It took {known.minutes:.0f} minutes on {known.hardware}.", markup=False)
    folder = Run(arguments.run or Path("runs/demo-smoke" if arguments.smoke else "runs/demo"))
    fit(recipe.smoke() if arguments.smoke else recipe, folder, evaluate=False)
    if folder.summary()["status"] != "finished":  # a SIGTERM ended it early: the same command goes on
        return 0
    report = folder.path / "report.html"
    if not (folder.path / "evaluation" / recipe.final_split).exists() or not report.exists():
        errors().print("2/3  Judging it on 300 concepts and two artists' styles that it has never seen (a minute) ...")
        with progress() as stage:
            judge(folder, recipe.final_split, stage, lambda text: errors().print(text, markup=False))
    errors().print("3/3  Opening the page to search with ...", markup=False)
    output().print(f"Report: {report.resolve()}", markup=False, soft_wrap=True)
    if not arguments.serve:
        return 0
    page = [str(folder.path), "--port", str(arguments.port), "--open" if arguments.open else "--no-open"]
    return studio.run(page)
