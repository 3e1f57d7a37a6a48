"""A person's own pictures and nothing else: what learning without labels and without texts needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from intermodal.core.errors import DataError
from intermodal.core.fields import Field
from intermodal.data import layouts
from intermodal.data.images import open_image
from intermodal.data.source import Sample, Source, SourceConfig
from intermodal.data.splits import choose_split


@dataclass(frozen=True, kw_only=True)
class PictureSource(SourceConfig):
    """Every picture in a folder, whatever lies beside it.

    Attributes:
        path: the folder; top folders that are named ``train``, ``validation``, ``test`` are the splits.
        validation_share: held out by a stable hash of the file's name where the folders state no split.
    """

    path: Path
    validation_share: float = 0.1

    def open(self, split: str) -> Pictures:
        """Open one split.

        Raises:
            DataError: if the folder is not there, or holds too few pictures.
        """
        if not self.path.is_dir():
            raise DataError(f"There is no folder {self.path}.")
        files = [f for f in layouts.scan(self.path) if layouts.is_picture(f)]
        if not files:
            raise DataError(f"The folder {self.path} holds no pictures.")
        tops = layouts.split_folders(files)
        splits = [layouts.split_of(f, tops) for f in files]
        rows = choose_split(files, splits, split, self.validation_share, str(self.path))
        return Pictures(f"{self.path} ({split})", self.path, [files[i] for i in rows])


class Pictures(Source):
    """Pictures in files; a sample holds ``image`` alone."""

    fields: Mapping[str, Field] = {"image": Field((), "image", "a picture")}

    def __init__(self, name: str, root: Path, files: Sequence[str]) -> None:
        self.name, self.root, self.files = name, root, list(files)

    def __len__(self) -> int:
        return len(self.files)

    def sample(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """Return one picture, decoded."""
        return {"image": open_image(self.root / self.files[index])}

    def sample_name(self, index: int) -> str:
        """Return the picture's path."""
        return str(self.root / self.files[index])


def without_classes(path: Path) -> bool:
    """Say whether a folder holds pictures without classes: no class folders, no table. Texts beside them do not count."""
    if not path.is_dir():
        return False
    files = layouts.scan(path)
    try:
        return layouts.detect(path, files) == "captions"
    except DataError:  # what no layout fits; with pictures in it, it is enough for learning without labels
        return any(layouts.is_picture(file) for file in files)
