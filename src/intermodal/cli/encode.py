"""``intermodal encode``: turns pictures into a file of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

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
from intermodal.cli.pictures import Walk, listed


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
    with ExitStack() as stack:
        report = stack.enter_context(progress())
        session = open_session(arguments.model, arguments.device, report)
        from intermodal.core.files import atomic_file
        from intermodal.data.tokens import TokenWriter
        from intermodal.index.embedding import reconstructs

        model = reconstructs(session.model, "To encode")
        files = listed(arguments.inputs)
        walk = Walk(files, f"encoding {len(files):,} pictures", report)
        sink = stack.enter_context(stack.enter_context(atomic_file(arguments.output)).open("wb"))
        writer = TokenWriter(sink, session.tokenizer, half=arguments.half)
        bits = 0.0
        for names, pictures, _ in walk.batches():
            writer.add(model.encode(pictures), names, [p.size for p in pictures])
            bits += float(model.bits(pictures).sum()) if model.codebook_size is None else 0.0
        writer.close()
    show_unreadable(walk.unreadable)
    made_by = writer.made_by
    each = bits / len(writer) if made_by.codebook is None else made_by.bits
    size = f"{each:,.0f} bits a picture; {arguments.output.stat().st_size:,} bytes in all, with names and sizes."
    said = f"{arguments.output}: {len(writer):,} pictures ({made_by}), {size}"
    errors().print(said + (f" {len(walk.unreadable):,} could not be read." if walk.unreadable else ""), markup=False)
    return 0
