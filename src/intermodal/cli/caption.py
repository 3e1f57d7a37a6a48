"""``intermodal caption``: writes down what pictures show."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from intermodal.cli.common import (
    Model,
    OnDevice,
    Report,
    UsageError,
    errors,
    open_session,
    output,
    parse,
    progress,
    refuse_existing,
    show_unreadable,
)

if TYPE_CHECKING:
    from intermodal.core.captioning import Caption
    from intermodal.data.source import Unreadable

OptionalInt = Annotated[int | None, tyro.conf.arg(metavar="INT")]
OptionalFloat = Annotated[float | None, tyro.conf.arg(metavar="FLOAT")]


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
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o", "--out"], metavar="PATH")] = None
    overwrite: bool = False


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    arguments = parse(Arguments, argv, "caption")
    if not arguments.inputs:
        raise UsageError("Say what to caption: pictures, or folders of them.")
    if arguments.output is not None:
        refuse_existing(arguments.output, arguments.overwrite)
    unreadable: list[Unreadable] = []
    with ExitStack() as stack:
        report = stack.enter_context(progress())
        from intermodal.cli.encode import listed
        from intermodal.core.errors import DataError
        from intermodal.core.files import atomic_file
        from intermodal.data.images import open_image
        from intermodal.index.captioning import caption_settings, captions
        from intermodal.index.embedding import in_batches

        settings = caption_settings(_given(arguments))
        files = listed(arguments.inputs)
        session = open_session(arguments.model, arguments.device, report)
        model = captions(session.model, "To caption")
        what = f"captioning {len(files):,} pictures" if len(files) > 1 else "captioning"
        report(what, 0.0)
        sink: Any = None
        if arguments.output is not None:
            sink = stack.enter_context(stack.enter_context(atomic_file(arguments.output)).open("w", encoding="utf-8"))
        done = made = 0
        for read, pictures, bad in in_batches(files, lambda item: open_image(item[0]), lambda item: str(item[0])):
            unreadable += [problem for _, problem in bad]
            if pictures:
                within = partial(_within, report, what, done, len(pictures), len(files))
                found = model.caption(pictures, settings.replace(seed=settings.seed + made), watch=within)
                made += len(pictures)
                for (_, name), caption in zip(read, found, strict=True):
                    _write(sink, name, caption, alone=len(files) == 1)
            done += len(read) + len(bad)
            report(what, done / len(files))
        if not made:
            raise DataError(f"None of the pictures can be read; the first: {unreadable[0].reason}")
    show_unreadable(unreadable)
    if arguments.output is not None:
        errors().print(f"{arguments.output}: {made:,} captions.", markup=False)
    return 0


def _within(report: Report, what: str, done: int, size: int, count: int, _: str, share: float) -> None:  # noqa: PLR0917
    report(what, (done + share * size) / count)


def _given(arguments: Arguments) -> dict[str, Any]:
    names = ("beam", "length_penalty", "temperature", "top_k", "top_p", "seed")
    return {name: getattr(arguments, name) for name in names} | {"most": arguments.length}


def _write(sink: Any, name: str, caption: Caption, *, alone: bool) -> None:
    if sink is None:
        output().print(caption.text if alone else f"{name}\t{caption.text}", markup=False)
        return
    row = {"path": name, "caption": caption.text, "log_prob": caption.log_prob, "ended": caption.ended}
    sink.write(json.dumps(row, ensure_ascii=False) + "\n")
