"""``intermodal embed``: turns pictures and texts into vectors."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from intermodal.cli.common import (
    Model,
    OnDevice,
    Report,
    UsageError,
    errors,
    open_session,
    parse,
    progress,
)

if TYPE_CHECKING:
    import numpy as np

    from intermodal.index.session import Session


@dataclass(frozen=True, kw_only=True)
class Arguments(OnDevice):
    """Embed pictures (files, or folders of them) and texts (anything else), in the order given.

    Attributes:
        model: a run, a checkpoint, a published folder or a hub id.
        inputs: files, folders and texts.
        output: write here: .npy for a matrix, .jsonl for a line an input. JSON lines are printed by default.
    """

    model: Model
    inputs: tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="FILE|TEXT...")]]
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="PATH")] = None


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    arguments = parse(Arguments, argv, "embed")
    if not arguments.inputs:
        raise UsageError("Say what to embed: files, folders or texts.")
    if arguments.output is not None and arguments.output.suffix not in (".npy", ".jsonl"):
        raise UsageError(f"{arguments.output} should end in .npy or .jsonl.")
    with progress() as report:
        session = open_session(arguments.model, arguments.device, report)
        items = spread(arguments.inputs)
        vectors = embed(session, items, report)
    if arguments.output is None:
        sys.stdout.writelines(_lines(items, vectors))
        return 0
    from intermodal.core.files import atomic_file

    with atomic_file(arguments.output) as temporary:
        if arguments.output.suffix == ".npy":
            import numpy as np

            with temporary.open("wb") as file:
                np.save(file, vectors)
        else:
            temporary.write_text("".join(_lines(items, vectors)), encoding="utf-8")
    count, dim = vectors.shape
    errors().print(f"{arguments.output}: {count} vectors of {dim} dimensions.", markup=False)
    return 0


def spread(inputs: Sequence[str]) -> list[str | Path]:
    """Return each input as a picture's path or a text; a folder becomes its pictures.

    Raises:
        DataError: for a folder without pictures, and for the name of a picture that is not there.
    """
    from intermodal.core.errors import DataError
    from intermodal.data.images import SUFFIXES
    from intermodal.index.embedding import find_pictures

    items: list[str | Path] = []
    for word in inputs:
        path = Path(word)
        try:
            is_folder, is_file = path.is_dir(), path.is_file()
        except OSError:  # a text too long for a file name
            is_folder = is_file = False
        if is_folder:
            items += find_pictures(path)
        elif is_file:
            items.append(path)
        elif path.suffix.lower() in SUFFIXES:
            raise DataError(f"There is no picture {word}.")
        else:
            items.append(word)
    return items


def embed(session: Session, items: Sequence[str | Path], report: Report) -> np.ndarray:
    """Return float32 ``(len(items), D)``: all inputs in their order, each modality in batches.

    Raises:
        DataError: for the first picture that cannot be read.
    """
    import numpy as np

    from intermodal.core.errors import DataError
    from intermodal.data.images import open_image
    from intermodal.index.embedding import BATCH, embed_pictures, embeds

    out = np.zeros((len(items), session.stamp.dim), np.float32)
    pictures = [i for i, item in enumerate(items) if isinstance(item, Path)]
    texts = [i for i, item in enumerate(items) if isinstance(item, str)]
    what, done = f"embedding {len(items)} inputs", 0
    report(what, 0.0)
    if pictures:
        model = embeds(session.model, "image", "To embed a picture")
        for rows, vectors, bad in embed_pictures(
            model, pictures, lambda i: open_image(items[i]), lambda i: str(items[i])
        ):
            if bad:
                raise DataError(bad[0][1].reason)
            out[rows] = vectors
            done += len(rows)
            report(what, done / len(items))
    if texts:
        model = embeds(session.model, "text", "To embed a text")
        for start in range(0, len(texts), BATCH):
            rows = texts[start : start + BATCH]
            out[rows] = model.embed("text", [items[i] for i in rows])
            done += len(rows)
            report(what, done / len(items))
    return out


def _lines(items: Sequence[str | Path], vectors: np.ndarray) -> list[str]:
    return [
        json.dumps(
            {("path" if isinstance(item, Path) else "text"): str(item), "vector": vector.tolist()},
            ensure_ascii=False,
        )
        + "\n"
        for item, vector in zip(items, vectors, strict=True)
    ]
