"""``intermodal convert``: a published model becomes ours, or ours a published one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from intermodal.cli.common import Model, open_session, output, parse, progress, refuse_existing


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Convert a model; the new folder is there in full or not at all.

    Attributes:
        model: a run, a checkpoint, a published folder, a hub id, or a file in word2vec's format.
        output: the folder to write; a file for word2vec's format (binary, or text).
        to: ours, or the layout of another library.
        overwrite: replace a folder that is there.
    """

    model: Model
    output: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="OUT")]]
    to: Literal["intermodal", "transformers", "diffusers", "word2vec", "word2vec-text"] = "intermodal"
    overwrite: bool = False


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    arguments = parse(Arguments, argv, "convert")
    refuse_existing(arguments.output, arguments.overwrite)
    with progress() as report:
        session = open_session(arguments.model, "cpu", report)
        report(f"writing {arguments.output}", 0.0)
        if arguments.to == "intermodal":
            session.model.save(arguments.output)
        else:
            from intermodal.hub.save import export

            export(session.model, arguments.output, layout=arguments.to)
    output().print(f"{arguments.output}: {session.model.id}, {session.parameters:,} parameters, layout {arguments.to}.")
    return 0
