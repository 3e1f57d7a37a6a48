"""``intermodal probe``: what several models' features hold, in one table and one picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from intermodal.cli.common import (
    OnDevice,
    OptionalPath,
    UsageError,
    errors,
    open_session,
    output,
    parse,
    print_json,
    progress,
)
from intermodal.core.errors import ConfigError

if TYPE_CHECKING:
    from intermodal.evaluate.result import Evaluation
    from intermodal.index.session import Session

_COLUMNS = (
    ("knn", "k-NN"),
    ("probe", "probe"),
    ("style_knn", "k-NN, new styles"),
    ("style_probe", "probe, new styles"),
    ("alignment", "alignment"),
    ("uniformity", "uniformity"),
    ("effective_rank", "rank"),
)
_INVARIANCE = tuple(
    (f"invariance_{name}", said)
    for name, said in (
        ("rotation", "rotation"),
        ("scale", "scale"),
        ("translation", "translation"),
        ("mirror", "mirror"),
        ("upside_down", "upside down"),
    )
)


@dataclass(frozen=True, kw_only=True)
class Arguments(OnDevice):
    """Judge and compare the features of models, as they are: k-NN, linear probe, invariance.

    Raw pixels, random weights, the most frequent class and chance stand beside them.

    Attributes:
        models: runs, checkpoints, published folders or hub ids.
        data: labelled pictures: a folder or file, hub:owner/name, or a known set (the emoji set by default).
        split: the split that is judged; the features of its training split answer for it.
        out: write the whole comparison as a page to this HTML file.
        json: print the figures as JSON.
    """

    models: tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="MODEL...")]]
    data: Annotated[str, tyro.conf.arg(metavar="DATA")] = "emoji"
    split: Annotated[str, tyro.conf.arg(metavar="SPLIT")] = "test"
    out: OptionalPath = None
    json: bool = False


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    arguments = parse(Arguments, argv, "probe")
    if not arguments.models:
        raise UsageError("Say whose features to judge: intermodal probe MODEL [MODEL ...].")
    if arguments.out is not None and arguments.out.is_dir():
        raise ConfigError(f"{arguments.out} is a folder: name the file to write, {arguments.out / 'features.html'}.")
    if arguments.out is not None and not arguments.out.resolve().parent.is_dir():
        raise ConfigError(f"The folder of {arguments.out} does not exist: make it, or choose another place.")
    with progress() as report:
        sessions = [open_session(model, arguments.device, report) for model in arguments.models]
        from intermodal.data.named import source_named
        from intermodal.evaluate.frozen import compare_frozen
        from intermodal.report.comparison import write_comparison

        names = names_of(sessions)
        models = {name: session.model for name, session in zip(names, sessions, strict=True)}
        result = compare_frozen(models, source_named(arguments.data), arguments.split, report)
        if arguments.out is not None:
            report("writing the page", 0.0)
            title = f"Features of {names[0]}" if len(names) == 1 else f"The features of {len(names)} models"
            lead = (
                f"{', '.join(names)}: frozen, judged on {arguments.data} ({arguments.split} split) in "
                f"{result.seconds:.0f} seconds."
            )
            write_comparison(arguments.out, title, lead, result)
    if arguments.json:
        # JSON has no NaN: a figure that is not defined is null.
        metrics = {name: value if math.isfinite(value) else None for name, value in result.metrics.items()}
        print_json({"split": result.split, "seconds": result.seconds, "metrics": metrics})
    else:
        _print(result)
    if arguments.out is not None:
        errors().print(f"Report: {arguments.out}", markup=False)
    return 0


def names_of(sessions: Sequence[Session]) -> list[str]:
    """Return a short name for each model: its run's, with as much of the path as tells two of them apart.

    Raises:
        ConfigError: if one model is given twice.
    """
    paths = [s.path.resolve() if s.path.exists() else s.path for s in sessions]
    parts = [p.parent.parts if (p.parent / "recipe.json").exists() else p.parts for p in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-depth:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    twice = next(n for n in names if names.count(n) > 1)
    raise ConfigError(f"The model {twice} is given twice: name each one once.")


def _print(result: Evaluation) -> None:
    """Print the figures of all rows, and below them what each is invariant to."""
    rows: dict[str, dict[str, float]] = {}
    for name, value in result.metrics.items():
        row, slash, figure = name.rpartition("/")
        if slash:
            rows.setdefault(row, {})[figure] = value
    guesses = {k: v for k, v in result.metrics.items() if "/" not in k}
    for said, key in (("most frequent class", "majority"), ("chance", "chance")):
        found = {f"{p}{what}": guesses.get(f"{key}_{p}top1") for p in ("", "style_") for what in ("knn", "probe")}
        rows[said] = {name: value for name, value in found.items() if value is not None}
    _table("", rows, _COLUMNS)
    measured = {name: row for name, row in rows.items() if _INVARIANCE[0][0] in row}
    if measured:
        output().print("")
        _table("invariance to", measured, _INVARIANCE)


def _table(head: str, rows: Mapping[str, Mapping[str, float]], columns: Sequence[tuple[str, str]]) -> None:
    shown = [(name, said) for name, said in columns if any(name in row for row in rows.values())]
    width = max(map(len, [*rows, head]))
    out = output()
    out.print("  ".join([f"{head:<{width}}", *(f"{said:>7}" for _, said in shown)]), markup=False)
    for name, row in rows.items():
        cells = [f"{row[n]:.3f}" if n in row else "" for n, _ in shown]
        line = [f"{name:<{width}}", *(f"{c:>{max(7, len(s))}}" for c, (_, s) in zip(cells, shown, strict=True))]
        out.print("  ".join(line).rstrip(), markup=False)
