"""``intermodal classify``: sorts pictures under labels of a person's choice, or under the model's own classes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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

if TYPE_CHECKING:
    from intermodal.data.source import Unreadable


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
    unreadable: list[Unreadable] = []
    with ExitStack() as stack:
        report = stack.enter_context(progress())
        session = open_session(arguments.model, arguments.device, report)
        from intermodal.core.capabilities import labels_for
        from intermodal.core.errors import DataError
        from intermodal.core.files import atomic_file
        from intermodal.data.images import open_image
        from intermodal.index.embedding import classifies, find_pictures, in_batches

        model = classifies(session.model, "To classify")
        labels = labels_for(model, arguments.labels)
        if not labels:
            raise UsageError("This model has no classes of its own: name at least one label (--labels cat dog).")
        files = [f for path in arguments.inputs for f in (find_pictures(path) if path.is_dir() else [path])]
        what = f"classifying {len(files)} pictures"
        report(what, 0.0)
        sink: Any = None
        if arguments.output is not None:
            sink = stack.enter_context(stack.enter_context(atomic_file(arguments.output)).open("w"))
        done = 0
        for read, pictures, bad in in_batches(files, open_image, str):
            unreadable += [problem for _, problem in bad]
            done += len(read) + len(bad)
            if not pictures:
                continue
            chosen = model.classify(pictures, labels, arguments.templates)
            for file, shares in zip(read, chosen, strict=True):
                best = sorted(zip(shares.tolist(), labels, strict=True), reverse=True)[: arguments.top]
                _write(sink, file, best)
            report(what, done / len(files))
        if len(unreadable) == len(files):
            raise DataError(f"None of the pictures can be read; the first: {unreadable[0].reason}")
    show_unreadable(unreadable)
    if arguments.output is not None:
        errors().print(f"{arguments.output}: {len(files) - len(unreadable)} pictures.", markup=False)
    return 0


def _write(sink: Any, file: Path, best: list[tuple[float, str]]) -> None:
    if sink is None:
        output().print(f"{file}  " + "  ".join(f"{label} {share:.1%}" for share, label in best), markup=False)
        return
    row = {"path": str(file), "labels": [{"label": label, "probability": share} for share, label in best]}
    sink.write(json.dumps(row, ensure_ascii=False) + "\n")
