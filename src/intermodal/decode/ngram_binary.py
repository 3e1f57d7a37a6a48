"""The library's own file of an n-gram model: its arrays as they stand in memory, mapped rather than read.

8 bytes             "IMNGRAM" and the version, one digit
8 bytes             length of the head, little endian
4 bytes             CRC-32 of the head, little endian
head                JSON: order, levels, and of each array its type, length, place and CRC-32
arrays              each at a multiple of 64 bytes; the words are UTF-8 text, a line each
"""

from __future__ import annotations

import json
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from intermodal.core.errors import DataError
from intermodal.core.files import atomic_file
from intermodal.decode.ngram import NGram, Tables

Array = np.ndarray[Any, Any]

_NAME, VERSION = b"IMNGRAM", 1
_ALIGNED = 64
CHECKED = 1 << 26
"""Arrays are checked against their sums in files up to this size (64 MiB); larger ones only if asked for."""
_TYPES = {"first": "int32", "word": "int32", "logp": "float32", "next": "int32", "backoff": "float32", "link": "int32"}


def is_binary(path: str | Path) -> bool:
    """Say whether a file begins as ours do."""
    try:
        with Path(path).open("rb") as file:
            return file.read(len(_NAME)) == _NAME
    except OSError:
        return False


def write(model: NGram, path: str | Path) -> None:
    """Write a model."""
    arrays = {name: np.ascontiguousarray(array) for name, array in model.tables._asdict().items()}
    text = "\n".join(model.words).encode("utf-8", "surrogatepass")
    arrays["words"] = np.frombuffer(text, np.uint8)
    place, parts = 0, []
    for name, array in arrays.items():
        found = {"name": name, "type": str(array.dtype), "length": len(array), "place": place}
        parts.append({**found, "crc32": zlib.crc32(array.data)})
        place += -(-array.nbytes // _ALIGNED) * _ALIGNED
    head = json.dumps({"levels": model.levels, "closed": model.closed, "byteorder": sys.byteorder, "arrays": parts})
    said = head.encode()
    said += b" " * (-(20 + len(said)) % _ALIGNED)
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        file.write(_NAME + b"%d" % VERSION + len(said).to_bytes(8, "little") + zlib.crc32(said).to_bytes(4, "little"))
        file.write(said)
        for array in arrays.values():
            file.write(array.data)
            file.write(b"\0" * (-array.nbytes % _ALIGNED))


def read(path: str | Path, *, check: bool | None = None) -> NGram:
    """Map a model.

    Args:
        path: the file, which must stay as it is while the model is in use.
        check: whether to compare every array with its sum; by default those of files up to :data:`CHECKED` bytes.

    Raises:
        DataError: if the file is missing, not such a file, of another version, cut short or altered.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(20)
            length, crc = int.from_bytes(start[8:16], "little"), int.from_bytes(start[16:20], "little")
            said = file.read(length) if length <= size else b""
    except FileNotFoundError as error:
        raise DataError(f"There is no language model at {path}.") from error
    except OSError as error:
        raise DataError(f"The language model {path} cannot be read ({error.strerror}).") from error
    if start[: len(_NAME)] != _NAME:
        raise DataError(f"{path} is not a language model in the library's binary format.")
    if start[7:8] != b"%d" % VERSION:
        raise DataError(f"The language model {path} has another version than {VERSION}: convert it from ARPA again.")
    if len(said) < length or zlib.crc32(said) != crc:
        raise DataError(f"The language model {path} is damaged: its head was cut short or altered.")
    head = json.loads(said)
    if head["byteorder"] != sys.byteorder:
        raise DataError(
            f"The language model {path} is from a machine of another byte order: convert it from ARPA again."
        )
    bodies, base = {}, 20 + length
    for part in head["arrays"]:
        kind = np.dtype(part["type"])
        if base + part["place"] + part["length"] * kind.itemsize > size:
            raise DataError(f"The language model {path} was cut short: it should be longer than {size:,} bytes.")
        # Copy on write: compiled code then sees the same kind of array as one in memory. Nothing writes.
        mapped: Any = np.memmap(path, kind, "c", base + part["place"], (part["length"],)) if part["length"] else []
        array = np.asarray(mapped, kind)
        if (size <= CHECKED if check is None else check) and zlib.crc32(array.data) != part["crc32"]:
            raise DataError(f"The language model {path} is damaged: its {part['name']} were altered.")
        bodies[part["name"]] = array
    words = bodies.pop("words").tobytes().decode("utf-8", "surrogatepass").split("\n")
    return NGram(words, Tables(**{name: bodies[name] for name in _TYPES}), head["levels"], closed=head["closed"])
