"""A person's own list of pairs of pictures: which two show the same, and which two do not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from intermodal.core.errors import DataError
from intermodal.core.fields import Field
from intermodal.data.images import open_image
from intermodal.data.layouts import read_rows
from intermodal.data.source import Sample, Source, SourceConfig
from intermodal.data.splits import ALIASES, choose_split
from intermodal.data.table import SPLIT_COLUMN

SUFFIXES = (".csv", ".jsonl")
COLUMNS = ("a", "b", "same")
LABELS = ("different", "same")
"""A pair's label; sorted, so that its number is 1 for ``same``."""

_TRUE, _FALSE = ("1", "true", "yes", "same"), ("0", "false", "no", "different")


class Pair(NamedTuple):
    """Two pictures' files, relative to the list's folder, and whether they show the same."""

    a: str
    b: str
    same: bool


@dataclass(frozen=True, kw_only=True)
class ImagePairSource(SourceConfig):
    """Pairs of pictures, listed in a CSV or JSON Lines file.

    Its columns are ``a`` and ``b``, paths relative to the file's own folder, and ``same``: 1 or 0, true or false, yes or
    no, same or different. A column ``split`` may state the splits; else a stable hash of the pair holds some out (a
    picture may then be in pairs on both sides).

    Attributes:
        path: the file.
        validation_share: held out where the list states no split.
    """

    path: Path
    validation_share: float = 0.1

    def open(self, split: str) -> ImagePairs:
        """Open one split.

        Raises:
            DataError: that names the file and the line, if a column is missing, a value of ``same`` is none of the
                above, a picture is not there, or all pairs of the training split are of one kind.
        """
        pairs, splits = read_pairs(self.path)
        names, where = [f"{pair.a}\0{pair.b}" for pair in pairs], str(self.path)
        if any(splits):
            rows = choose_split(names, splits, split, self.validation_share, where)
        else:  # of each kind apart, so that both sides have both
            rows = []
            for same in (True, False):
                kind = [i for i, pair in enumerate(pairs) if pair.same == same]
                if len(kind) < 2:
                    raise DataError(
                        f"{where} lists {len(pairs)} pairs, {len(kind)} of them {LABELS[int(same)]!r}: at least two of each "
                        "kind are needed, one of them to judge by."
                    )
                held = choose_split([names[i] for i in kind], [None] * len(kind), split, self.validation_share, where)
                rows += [kind[i] for i in held]
        chosen = [pairs[i] for i in sorted(rows)]
        if split == "train" and len({pair.same for pair in chosen}) < 2:
            kind_name = LABELS[int(chosen[0].same)]
            raise DataError(f"All {len(chosen)} training pairs of {where} are {kind_name!r}: both kinds are needed.")
        return ImagePairs(f"{self.path} ({split})", self.path.parent, chosen)


def read_pairs(path: Path) -> tuple[list[Pair], list[str | None]]:
    """Return all pairs of a list and the split that it states for each, None where it states none.

    Raises:
        DataError: see :meth:`ImagePairSource.open`.
    """
    if path.suffix not in SUFFIXES:
        raise DataError(f"{path} should be a .csv or .jsonl file with the columns {', '.join(COLUMNS)}.")
    pairs: list[Pair] = []
    splits: list[str | None] = []
    present: set[str] = set()
    for number, row in read_rows(path):
        missing = [column for column in COLUMNS if column not in row]
        if missing:
            raise DataError(
                f"{path}, line {number} lacks the column {missing[0]!r}: a list of pairs has the columns "
                f"{', '.join(COLUMNS)}; found are {', '.join(row)}."
            )
        where = f"{path}, line {number}"
        for column in ("a", "b"):
            file = row[column]
            if not isinstance(file, str) or not file.strip():
                raise DataError(f"{where} names no picture in its column {column!r}.")
            if file not in present and not (path.parent / file).is_file():
                raise DataError(f"{where} names the picture {file!r}, which is not there.")
            present.add(file)
        pairs.append(Pair(row["a"], row["b"], _same(row["same"], where)))
        stated = str(row.get(SPLIT_COLUMN) or "").lower()
        splits.append(ALIASES.get(stated, stated) or None)
    if not pairs:
        raise DataError(f"{path} lists no pairs.")
    return pairs, splits


def _same(value: Any, where: str) -> bool:
    word = str(value).strip().lower()
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise DataError(f"{where}: the column 'same' should be 1 or 0 (or true, false, yes, no), found {value!r}.")


class ImagePairs(Source):
    """Pairs of one split; ``image`` is a list of two pictures, ``label`` is ``same`` or ``different``."""

    fields: Mapping[str, Field] = {
        "image": Field((), "image", "two pictures"),
        "label": Field((), "str", "same or different"),
    }

    def __init__(self, name: str, root: Path, pairs: list[Pair]) -> None:
        self.name, self.root, self.pairs = name, root, pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def sample(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """Return one pair, decoded."""
        pair = self.pairs[index]
        return {"image": [open_image(self.root / file) for file in (pair.a, pair.b)], "label": LABELS[int(pair.same)]}

    def _label_of(self, index: int) -> str:
        return LABELS[int(self.pairs[index].same)]

    def sample_name(self, index: int) -> str:
        """Return the paths of both pictures."""
        return f"{self.root / self.pairs[index].a} and {self.root / self.pairs[index].b}"
