"""``intermodal encode``: turns pictures into a file of tokens."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from intermodal.cli.common import (
    Model,
    OnDevice,
    UsageError,
    errors,
    open_session,
    parse,
    progress,
    refuse_existing,
    show_unreadable,
)

if TYPE_CHECKING:
    from intermodal.data.source import Unreadable


@dataclass(frozen=True, kw_only=True)
class Arguments(OnDevice):
    """Turn pictures, or all pictures of a folder, into tokens: a file that `intermodal decode` turns back into pictures.

    Attributes:
        model: a run, a checkpoint, a published folder or a hub id.
        inputs: pictures, or folders of them.
        output: write the tokens here.
        half: store real numbers in 16 bits instead of 32; codes are stored exactly, in as many bits as they need.
        overwrite: replace what is there.
    """

    model: Model
    inputs: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE|FOLDER...")]]
    output: Annotated[Path, tyro.conf.arg(aliases=["-o", "--out"], metavar="PATH")] = Path("tokens.imtok")
    half: bool = False
    overwrite: bool = False


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    arguments = parse(Arguments, argv, "encode")
    if not arguments.inputs:
        raise UsageError("Say what to encode: pictures, or folders of them.")
    refuse_existing(arguments.output, arguments.overwrite)
    unreadable: list[Unreadable] = []
    with ExitStack() as stack:
        report = stack.enter_context(progress())
        session = open_session(arguments.model, arguments.device, report)
        from intermodal.core.errors import DataError
        from intermodal.core.files import atomic_file
        from intermodal.data.images import open_image
        from intermodal.data.tokens import TokenWriter
        from intermodal.index.embedding import in_batches, reconstructs

        model = reconstructs(session.model, "To encode")
        files = listed(arguments.inputs)
        what = f"encoding {len(files):,} pictures"
        report(what, 0.0)
        sink = stack.enter_context(stack.enter_context(atomic_file(arguments.output)).open("wb"))
        writer = TokenWriter(sink, session.tokenizer, half=arguments.half)
        done, bits = 0, 0.0
        for read, pictures, bad in in_batches(files, lambda item: open_image(item[0]), lambda item: str(item[0])):
            unreadable += [problem for _, problem in bad]
            done += len(read) + len(bad)
            if pictures:
                writer.add(model.encode(pictures), [name for _, name in read], [p.size for p in pictures])
                bits += float(model.bits(pictures).sum()) if model.codebook_size is None else 0.0
            report(what, done / len(files))
        if not len(writer):
            raise DataError(f"None of the pictures can be read; the first: {unreadable[0].reason}")
        writer.close()
    show_unreadable(unreadable)
    made_by = writer.made_by
    each = bits / len(writer) if made_by.codebook is None else made_by.bits
    size = f"{each:,.0f} bits a picture; {arguments.output.stat().st_size:,} bytes in all, with names and sizes."
    said = f"{arguments.output}: {len(writer):,} pictures ({made_by}), {size}"
    errors().print(said + (f" {len(unreadable):,} could not be read." if unreadable else ""), markup=False)
    return 0


def listed(inputs: Sequence[Path]) -> list[tuple[Path, str]]:
    """Return the pictures with their names: within the folder where there is one folder, else as they were given."""
    from intermodal.index.embedding import find_pictures

    if len(inputs) == 1 and inputs[0].is_dir():
        return [(file, file.relative_to(inputs[0]).as_posix()) for file in find_pictures(inputs[0])]
    if len(inputs) == 1:
        return [(inputs[0], inputs[0].name)]
    files = [file for path in inputs for file in (find_pictures(path) if path.is_dir() else [path])]
    return [(file, Path(os.path.normpath(file)).as_posix()) for file in files]
