"""``intermodal caption``: writes down what pictures show."""

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
    OptionalFloat,
    OptionalInt,
    Output,
    UsageError,
    errors,
    open_session,
    output,
    parse,
    progress,
    refuse_existing,
    show_unreadable,
)
from intermodal.cli.pictures import Walk, lines_to, listed

if TYPE_CHECKING:
    from intermodal.core.captioning import Caption


@dataclass(frozen=True, kw_only=True)
class Arguments(OnDevice):
    """Say in words what a picture shows, or each picture of a folder.

    Attributes:
        model: a run, a checkpoint, a published folder or a hub id.
        inputs: pictures, or folders of them.
        beam: how many hypotheses are kept; 1, the default, writes greedily.
        length_penalty: of a beam: 0 favours short captions, 1 (the default) ranks by the mean over the tokens.
        temperature: draw tokens at this temperature; 0, the default, takes the most probable one.
        top_k: draw from so many of the most probable tokens.
        top_p: draw from the most probable tokens that together have this probability.
        length: the most tokens of a caption.
        seed: of drawing. Same seed, same captions.
        output: write a line of JSON a picture here.
        overwrite: replace what is there.
    """

    model: Model
    inputs: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE|FOLDER...")]]
    beam: OptionalInt = None
    length_penalty: OptionalFloat = None
    temperature: OptionalFloat = None
    top_k: OptionalInt = None
    top_p: OptionalFloat = None
    length: OptionalInt = None
    seed: OptionalInt = None
    output: Output = None
    overwrite: bool = False


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    arguments = parse(Arguments, argv, "caption")
    if not arguments.inputs:
        raise UsageError("Say what to caption: pictures, or folders of them.")
    if arguments.output is not None:
        refuse_existing(arguments.output, arguments.overwrite)
    with ExitStack() as stack:
        report = stack.enter_context(progress())
        from intermodal.index.captioning import caption_settings, captions

        settings = caption_settings(_given(arguments))
        files = listed(arguments.inputs)
        model = captions(open_session(arguments.model, arguments.device, report).model, "To caption")
        sink = stack.enter_context(lines_to(arguments.output))
        walk = Walk(files, f"captioning {len(files):,} pictures" if len(files) > 1 else "captioning", report)
        for names, pictures, within in walk.batches():
            found = model.caption(pictures, settings.replace(seed=settings.seed + walk.made), watch=within)
            for name, caption in zip(names, found, strict=True):
                _write(sink, name, caption, alone=walk.alone)
    show_unreadable(walk.unreadable)
    if arguments.output is not None:
        errors().print(f"{arguments.output}: {walk.made:,} captions.", markup=False)
    return 0


def _given(arguments: Arguments) -> dict[str, Any]:
    names = ("beam", "length_penalty", "temperature", "top_k", "top_p", "seed")
    return {name: getattr(arguments, name) for name in names} | {"most": arguments.length}


def _write(sink: Any, name: str, caption: Caption, *, alone: bool) -> None:
    if sink is None:
        output().print(caption.text if alone else f"{name}\t{caption.text}", markup=False)
        return
    row = {"path": name, "caption": caption.text, "log_prob": caption.log_prob, "ended": caption.ended}
    sink.write(json.dumps(row, ensure_ascii=False) + "\n")
