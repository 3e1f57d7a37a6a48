"""``intermodal embed``: turns pictures, recordings and texts into vectors."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
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
    parse,
    progress,
)

if TYPE_CHECKING:
    import numpy as np

    from intermodal.index.session import Session


@dataclass(frozen=True, kw_only=True)
class Arguments(OnDevice):
    """Embed pictures and recordings (files, or folders of them) and texts (anything else), in the order given.

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
        items = spread(arguments.inputs, session.modalities)
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


def spread(inputs: Sequence[str], modalities: Sequence[str]) -> list[str | Path]:
    """Return each input as a file's path or a text.

    A folder becomes its pictures, or its recordings where it has none and the model embeds ``audio``.

    Raises:
        DataError: for a folder without them, and for the name of a picture or recording that is not there.
    """
    from intermodal.core.errors import DataError
    from intermodal.index.embedding import FILES, find_files, modality_of

    items: list[str | Path] = []
    for word in inputs:
        path = Path(word)
        try:
            is_folder, is_file = path.is_dir(), path.is_file()
        except OSError:  # a text too long for a file name
            is_folder = is_file = False
        if is_folder:
            items += find_files(path, modality_of(path, modalities))
        elif is_file:
            items.append(path)
        elif missing := [what for what, suffixes in FILES.values() if path.suffix.lower() in suffixes]:
            raise DataError(f"There is no {missing[0]} {word}.")
        else:
            items.append(word)
    return items


def embed(session: Session, items: Sequence[str | Path], report: Report) -> np.ndarray:
    """Return float32 ``(len(items), D)``: all inputs in their order, each modality in batches.

    Raises:
        DataError: for the first file that cannot be read.
    """
    import numpy as np

    from intermodal.core.errors import DataError
    from intermodal.index.embedding import BATCH, FILES, embed_files, embeds, open_file

    out = np.zeros((len(items), session.stamp.dim), np.float32)
    files: dict[str, list[int]] = {modality: [] for modality in FILES}
    for i, item in enumerate(items):
        if isinstance(item, Path):
            files["audio" if item.suffix.lower() in FILES["audio"][1] else "image"].append(i)
    texts = [i for i, item in enumerate(items) if isinstance(item, str)]
    what, done = f"embedding {len(items)} inputs", 0
    report(what, 0.0)
    for modality, numbers in files.items():
        if not numbers:
            continue
        model = embeds(session.model, modality, f"To embed a {FILES[modality][0]}")

        def read(i: int, modality: str = modality) -> Any:
            return open_file(Path(items[i]), modality)

        for rows, vectors, bad in embed_files(model, numbers, read, lambda i: str(items[i]), modality):
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
