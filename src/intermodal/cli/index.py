"""``intermodal index``: builds or refreshes the index of a folder of pictures, or of a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from intermodal.cli.common import (
    Model,
    OnDevice,
    OptionalPath,
    open_session,
    output,
    parse,
    progress,
    show_unreadable,
)


@dataclass(frozen=True, kw_only=True)
class Arguments(OnDevice):
    """Index a folder: only what is new or has changed is read. Stopped at any moment, it goes on later.

    Attributes:
        model: a run, a checkpoint, a published folder or a hub id.
        folder: of pictures, in any depth; or a text file, or a folder of text, which is indexed sentence by sentence.
        index: where the index lives; .intermodal-index in the folder, or beside the file, by default.
        rebuild: replace an index that another model made.
    """

    model: Model
    folder: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="FOLDER|FILE")]]
    index: OptionalPath = None
    rebuild: bool = False


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    arguments = parse(Arguments, argv, "index")
    with progress() as report:
        session = open_session(arguments.model, arguments.device, report)
        index, update = session.folder(arguments.folder, report, index=arguments.index, rebuild=arguments.rebuild)
    show_unreadable(update.unreadable)
    output().print(f"{index.path}: {update}", markup=False)
    return 0
