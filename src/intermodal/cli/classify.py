"""``intermodal classify``: sorts pictures under labels of a person's choice, or under the model's own classes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from intermodal.cli.common import (
    Model,
    OnDevice,
    UsageError,
    errors,
    open_session,
    output,
    parse,
    progress,
    show_unreadable,
)
from intermodal.cli.pictures import Walk, lines_to


@dataclass(frozen=True, kw_only=True)
class Arguments(OnDevice):
    """Classify a picture, or all pictures of a folder.

    Attributes:
        model: a run, a checkpoint, a published folder or a hub id.
        inputs: pictures, or folders of them.
        labels: the names to choose among; of a model that learnt classes all of those by default.
        templates: prompts with one {} each, to put the labels in.
        top: how many labels to name for each picture.
        output: write a line of JSON a picture here.
    """

    model: Model
    inputs: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE|FOLDER...")]]
    labels: Annotated[tuple[str, ...], tyro.conf.arg(metavar="LABEL...")] = ()
    templates: Annotated[tuple[str, ...], tyro.conf.arg(metavar="TEMPLATE...")] = ("{}",)
    top: int = 5
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="PATH")] = None


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    arguments = parse(Arguments, argv, "classify")
    if not arguments.inputs or arguments.top < 1:
        raise UsageError("Classifying needs at least one picture, and --top of at least 1.")
    with ExitStack() as stack:
        report = stack.enter_context(progress())
        session = open_session(arguments.model, arguments.device, report)
        from intermodal.core.capabilities import labels_for
        from intermodal.index.embedding import classifies, find_pictures

        model = classifies(session.model, "To classify")
        labels = labels_for(model, arguments.labels)
        if not labels:
            raise UsageError("This model has no classes of its own: name at least one label (--labels cat dog).")
        files = [f for path in arguments.inputs for f in (find_pictures(path) if path.is_dir() else [path])]
        sink = stack.enter_context(lines_to(arguments.output))
        walk = Walk([(file, str(file)) for file in files], f"classifying {len(files)} pictures", report)
        for names, pictures, _ in walk.batches():
            chosen = model.classify(pictures, labels, arguments.templates)
            for name, shares in zip(names, chosen, strict=True):
                best = sorted(zip(shares.tolist(), labels, strict=True), reverse=True)[: arguments.top]
                _write(sink, name, best)
    show_unreadable(walk.unreadable)
    if arguments.output is not None:
        errors().print(f"{arguments.output}: {walk.made} pictures.", markup=False)
    return 0


def _write(sink: Any, file: str, best: list[tuple[float, str]]) -> None:
    if sink is None:
        output().print(f"{file}  " + "  ".join(f"{label} {share:.1%}" for share, label in best), markup=False)
        return
    row = {"path": file, "labels": [{"label": label, "probability": share} for share, label in best]}
    sink.write(json.dumps(row, ensure_ascii=False) + "\n")
