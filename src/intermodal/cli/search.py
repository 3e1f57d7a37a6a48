"""``intermodal search``: finds pictures, recordings or sentences by a text, a picture or a sound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from intermodal.cli.common import (
    Model,
    OnDevice,
    OptionalPath,
    open_session,
    output,
    parse,
    print_json,
    progress,
    show_unreadable,
)


@dataclass(frozen=True, kw_only=True)
class Arguments(OnDevice):
    """Find pictures or recordings in a folder, sentences in a text, or either among the held-out ones of the model's data.

    Attributes:
        model: a run, a checkpoint, a published folder or a hub id.
        query: what to look for, in words.
        image: look for what is like this picture instead.
        sound: look for what is like this recording instead.
        folder: the folder of pictures (or of recordings, where it has no picture), or the file or folder of text, to
            search; its index is made or refreshed first.
        k: how many hits to bring.
        index: where the index lives; .intermodal-index in the folder, or beside the file, by default.
        rebuild: replace an index that another model made.
        json: print JSON.
    """

    model: Model
    query: tyro.conf.Positional[Annotated[str | None, tyro.conf.arg(metavar="[QUERY]")]] = None
    image: OptionalPath = None
    sound: OptionalPath = None
    folder: Annotated[Path | None, tyro.conf.arg(name="in", metavar="FOLDER|FILE")] = None
    k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = 10
    index: OptionalPath = None
    rebuild: bool = False
    json: bool = False


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    arguments = parse(Arguments, argv, "search")
    with progress() as report:
        session = open_session(arguments.model, arguments.device, report)
        from intermodal.data.audio import read_audio
        from intermodal.data.images import open_image

        image = None if arguments.image is None else open_image(arguments.image)
        sound = None if arguments.sound is None else read_audio(arguments.sound)
        vector = session.query(arguments.query, image, sound)
        found: Any
        if arguments.folder is None:
            found, unreadable = session.held_out(report), []
        else:
            found, update = session.folder(arguments.folder, report, index=arguments.index, rebuild=arguments.rebuild)
            unreadable = update.unreadable
        hits = found.search(vector, arguments.k)
    show_unreadable(unreadable)
    if arguments.json:
        print_json([{"path": hit.path, "score": hit.score, "caption": hit.caption} for hit in hits])
        return 0
    for hit in hits:
        said = f"{hit.caption}  ({hit.path})" if hit.caption and hit.picture is None else hit.path
        output().print(f"{hit.score:6.3f}  {said}", markup=False)
    return 0
