"""What the commands share that go through pictures: which ones, batches of bounded memory, progress, and where lines go."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from intermodal.cli.common import Report

if TYPE_CHECKING:
    from PIL import Image

    from intermodal.data.source import Unreadable

Named = tuple[Path, str]
"""A file, and what a person calls it."""


def listed(inputs: Sequence[Path]) -> list[Named]:
    """Return the pictures with their names: within the folder where there is one folder, else as they were given."""
    from intermodal.index.embedding import find_pictures

    if len(inputs) == 1 and inputs[0].is_dir():
        return [(file, file.relative_to(inputs[0]).as_posix()) for file in find_pictures(inputs[0])]
    if len(inputs) == 1:
        return [(inputs[0], inputs[0].name)]
    files = [file for path in inputs for file in (find_pictures(path) if path.is_dir() else [path])]
    return [(file, Path(os.path.normpath(file)).as_posix()) for file in files]


class Walk:
    """One way through pictures.

    Args:
        files: the pictures.
        what: is done with them, for the progress.
        report: told of it.

    Attributes:
        made: pictures that were worked on in the batches before this one.
        unreadable: those that cannot be read, and why.
    """

    def __init__(self, files: Sequence[Named], what: str, report: Report) -> None:
        self.files, self.what, self.report = files, what, report
        self.made = 0
        self.unreadable: list[Unreadable] = []

    @property
    def alone(self) -> bool:
        """Whether it is a single picture, which nobody needs to be told the name of."""
        return len(self.files) == 1

    def batches(self) -> Iterator[tuple[list[str], list[Image.Image], Callable[[str, float], None]]]:
        """Yield the names and pictures of each batch, and what may be told how far the work on it is.

        Raises:
            DataError: in the end, if no picture could be read.
        """
        from intermodal.core.errors import DataError
        from intermodal.data.images import open_image
        from intermodal.index.embedding import in_batches

        done, count = 0, len(self.files)
        self.report(self.what, 0.0)
        for read, pictures, bad in in_batches(self.files, lambda item: open_image(item[0]), lambda item: str(item[0])):
            self.unreadable += [problem for _, problem in bad]
            if pictures:

                def within(_: str, share: float, done: int = done, size: int = len(pictures)) -> None:
                    self.report(self.what, (done + share * size) / count)

                yield [name for _, name in read], pictures, within
                self.made += len(pictures)
            done += len(read) + len(bad)
            self.report(self.what, done / count)
        if count and not self.made:
            raise DataError(f"None of the pictures can be read; the first: {self.unreadable[0].reason}")


@contextlib.contextmanager
def lines_to(path: Path | None) -> Iterator[TextIO | None]:
    """Open a file that is written whole or not at all; None, for the standard output, where there is no path."""
    from intermodal.core.files import atomic_file

    if path is None:
        yield None
        return
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as sink:
        yield sink
