"""``intermodal read``: writes down the text in pictures, line by line, with the place of each line."""

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
    from intermodal.core.reading import Line

ENDINGS = (".jsonl", ".txt")


@dataclass(frozen=True, kw_only=True)
class Arguments(OnDevice):
    """Read the text in a picture of a page or a line, or in each picture of a folder.

    Attributes:
        model: a run, a checkpoint, a published folder or a hub id.
        inputs: pictures, or folders of them.
        whole: each picture is one line: do not look for lines in it.
        boxes: print where each line stands before it: left, top, right and lower edge in pixels.
        beam: how many hypotheses are kept; 1 reads greedily. The model's own number by default.
        length: the most tokens of a line.
        output: write a line of JSON a picture (.jsonl), or the text alone (.txt), here.
        overwrite: replace what is there.
    """

    model: Model
    inputs: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE|FOLDER...")]]
    whole: bool = False
    boxes: bool = False
    beam: OptionalInt = None
    length: OptionalInt = None
    output: Output = None
    overwrite: bool = False


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    arguments = parse(Arguments, argv, "read")
    if not arguments.inputs:
        raise UsageError("Say what to read: pictures, or folders of them.")
    if arguments.output is not None:
        if arguments.output.suffix.lower() not in ENDINGS:
            raise UsageError(f"What is read is written as .jsonl or .txt, found {arguments.output.name!r}.")
        refuse_existing(arguments.output, arguments.overwrite)
    blank = read_lines = 0
    with ExitStack() as stack:
        report = stack.enter_context(progress())
        from intermodal.index.captioning import caption_settings
        from intermodal.index.reading import reading_settings, reads

        given = {"beam": arguments.beam, "most": arguments.length}
        caption_settings(given)  # wrong numbers are said at once
        files = listed(arguments.inputs)
        model = reads(open_session(arguments.model, arguments.device, report).model, "To read")
        settings = reading_settings(model, given)
        sink = stack.enter_context(lines_to(arguments.output))
        walk = Walk(files, f"reading {len(files):,} pictures" if len(files) > 1 else "reading", report)
        for names, pictures, within in walk.batches():
            found = model.read(pictures, settings, cut=not arguments.whole, watch=within)
            for name, lines in zip(names, found, strict=True):
                _write(sink, arguments, name, lines, alone=walk.alone)
                read_lines, blank = read_lines + len(lines), blank + (not lines)
    show_unreadable(walk.unreadable)
    if blank:
        errors().print(
            "No line of text was found: the page is blank."
            if walk.made == 1
            else f"{blank:,} pages have no line of text.",
            markup=False,
        )
    if arguments.output is not None:
        errors().print(f"{arguments.output}: {read_lines:,} lines of {walk.made:,} pictures.", markup=False)
    return 0


def _write(sink: Any, arguments: Arguments, name: str, lines: list[Line], *, alone: bool) -> None:
    if arguments.output is not None and arguments.output.suffix.lower() == ".jsonl":
        from intermodal.core.reading import text_of

        page = {"path": name, "text": text_of(lines), "lines": [line.to_dict() for line in lines]}
        sink.write(json.dumps(page, ensure_ascii=False) + "\n")
        return
    rows = [(",".join(map(str, line.box)) + " " if arguments.boxes else "") + line.text for line in lines]
    if sink is not None:
        sink.write("".join(f"{row}\n" for row in rows) + ("" if alone else "\f\n"))
        return
    for row in rows:
        output().print(row if alone else f"{name}\t{row}", markup=False, highlight=False, soft_wrap=True)
