"""Which sample belongs to which split: as the data says, else by a stable hash of its name."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

from intermodal.core.errors import DataError

SPLITS = ("train", "validation", "test")
ALIASES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
"""How folders, files and columns spell the splits."""


def check_split(split: str) -> None:
    """Raise a DataError if ``split`` is not one of :data:`SPLITS`."""
    if split not in SPLITS:
        raise DataError(f"There is no split {split!r}: it is one of {', '.join(SPLITS)}.")


def spoken_split(word: str) -> str | None:
    """Return the split that a folder's or file's name begins with (``train-00000-of-00004``), or None."""
    head = word.lower().replace("_", "-").replace(".", "-").partition("-")[0]
    return ALIASES.get(head)


def hash_share(name: str) -> float:
    """Return a number in 0..1 that depends on the name alone, evenly spread over names."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def choose_split(names: Sequence[str], given: Sequence[str | None], split: str, share: float, where: str) -> list[int]:
    """Return the indices of the samples of one split.

    Where the data names no validation split, ``share`` of its training samples are held out by the hash of
    their names, so that a file stays on its side when others come or go; of two samples or more, each side
    has at least one. ``test`` is what the data calls so, else the validation part.

    Args:
        names: of the samples; equal names are the same picture and stay together.
        given: the split that the data states for each sample; None counts as ``train``.
        split: the split to return.
        share: how many to hold out, 0..1 (exclusive).
        where: the data's name, for errors.

    Raises:
        DataError: if the split is unknown or empty.
    """
    check_split(split)
    if not 0 < share < 1:
        raise DataError(f"validation_share must lie between 0 and 1, found {share}.")
    stated = [g or "train" for g in given]
    for word in dict.fromkeys(stated):
        if word not in SPLITS:
            raise DataError(f"{where} names the split {word!r}: it must be one of {', '.join(SPLITS)}.")
    if split == "test" and "test" not in stated:
        split = "validation"
    if split == "test" or "validation" in stated:
        chosen = [i for i, s in enumerate(stated) if s == split]
    else:
        chosen = _hold_out([i for i, s in enumerate(stated) if s == "train"], names, split, share)
    if not chosen:
        found = ", ".join(f"{n} in {s}" for s, n in Counter(stated).items())
        raise DataError(
            f"{where} leaves no picture for {split} (found: {found or 'none'}): it needs at least two "
            "training pictures."
        )
    return chosen


def _hold_out(indices: list[int], names: Sequence[str], split: str, share: float) -> list[int]:
    rank = {name: hash_share(name) for name in {names[i] for i in indices}}
    held = {name for name, value in rank.items() if value < share}
    if not held and len(rank) > 1:
        held = {min(rank, key=rank.__getitem__)}
    if len(held) == len(rank) and len(rank) > 1:
        held -= {max(rank, key=rank.__getitem__)}
    return [i for i in indices if (names[i] in held) == (split == "validation")]
