"""Files of visual tokens: the latents of many pictures in as few bytes as they take, and which tokenizer they are of.

A file is a safetensors file (any reader of that format opens it; there is no code in it) with three tensors and a line of
JSON under ``intermodal_tokens`` in its metadata:

- ``latents``: of codes, uint8 ``(N, bytes)``: the codes of each picture one after the other, ``ceil(log2 K)`` bits each, the
  highest bit first, filled up to whole bytes at the picture's end; of real numbers float32 or float16 ``(N, ...)``;
- ``names``: uint8, the pictures' names in UTF-8 with a zero byte after each (more zero bytes may follow the last);
- ``sizes``: int32 ``(N, 2)``, width and height of the pictures before they were fitted to the model.

The JSON holds the method, the SHA-256 of the model's configuration, processors and weights, the latent's shape and K. The
latents stand first and are written as they come, so a file of any length takes no memory.

    N pictures   M codes of a picture   K codes of the codebook
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Self

import numpy as np

from intermodal.core.errors import DataError
from intermodal.core.version import __version__

FORMAT = 1
KEY = "intermodal_tokens"
SUFFIX = ".imtok"
_DTYPES = {"float32": ("F32", 4), "float16": ("F16", 2)}
_LARGEST = 10**15
"""Stands for every number that is not known when the header's room is set aside."""


@dataclass(frozen=True)
class Tokenizer:
    """Which tokenizer some latents are of.

    Attributes:
        method: the method's id.
        sha256: of its configuration, its processors and every weight.
        shape: of one picture's latent.
        codebook: K; None for a latent of real numbers.
    """

    method: str
    sha256: str
    shape: tuple[int, ...]
    codebook: int | None

    @property
    def code_bits(self) -> int:
        """How many bits a code takes in a file: log2 K, rounded up."""
        assert self.codebook is not None
        return (self.codebook - 1).bit_length()

    @property
    def bits(self) -> float:
        """How many bits the codes of one picture take, if all are equally frequent: the least that a file can take."""
        assert self.codebook is not None
        return math.prod(self.shape) * math.log2(self.codebook)

    def __str__(self) -> str:
        shape = " x ".join(map(str, self.shape))
        what = "numbers" if self.codebook is None else f"codes of {self.codebook:,}"
        return f"{self.method}, {shape} {what}, {self.sha256[:8]}"


def pack(code_NM: np.ndarray, bits: int) -> np.ndarray:
    """Return codes below ``2 ** bits`` as uint8 ``(N, bytes)``: see the module's text."""
    place_b = np.arange(bits - 1, -1, -1)
    bit_NMb = (code_NM[..., None] >> place_b & 1).astype(np.uint8)
    return np.packbits(bit_NMb.reshape(len(code_NM), -1), axis=1)


def unpack(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    """Return the codes, int64 ``(N, count)``, that :func:`pack` packed."""
    bit_NMb = np.unpackbits(packed, axis=1, count=count * bits).reshape(len(packed), count, bits)
    return bit_NMb.astype(np.int64) @ (1 << np.arange(bits - 1, -1, -1))


class TokenWriter:
    """Writes a file of tokens, batch by batch.

    Args:
        file: a new file, open for writing bytes, that can seek.
        made_by: the tokenizer.
        half: store real numbers in 16 bits, with a relative error of up to 0.0005; codes are stored exactly either way.
    """

    def __init__(self, file: BinaryIO, made_by: Tokenizer, *, half: bool = False) -> None:
        self.file, self.made_by = file, made_by
        self.dtype = "float16" if half else "float32"
        self._names: list[bytes] = []
        self._sizes: list[tuple[int, int]] = []
        self._room = len(self._json(_LARGEST, _LARGEST, _LARGEST)) // 8 * 8 + 8
        file.write(b"\0" * (8 + self._room))
        self._written = 0

    def __len__(self) -> int:
        return len(self._names)

    def add(self, latents: np.ndarray, names: Sequence[str], sizes: Sequence[tuple[int, int]]) -> None:
        """Add latents ``(n, ...)`` of pictures with their names and their sizes, width and height.

        Raises:
            DataError: if a latent is not of the tokenizer's shape, or a number does not fit into the 16 bits that were asked
                for.
        """
        made_by = self.made_by
        if latents.shape[1:] != made_by.shape or not len(latents) == len(names) == len(sizes):
            raise DataError(f"Latents of {made_by} were expected for {len(names)} pictures, found {latents.shape}.")
        if made_by.codebook is None:
            stored = np.ascontiguousarray(latents, np.float32)
            if self.dtype == "float16":
                if np.abs(stored).max(initial=0.0) > np.finfo(np.float16).max:
                    raise DataError("A number of the latents is too large for 16 bits: store them in 32.")
                stored = stored.astype(np.float16)
        else:
            stored = pack(latents.reshape(len(latents), -1), made_by.code_bits)
        data = stored.tobytes()
        self.file.write(data)
        self._written += len(data)
        self._names += [name.encode("utf-8", "surrogateescape") for name in names]
        self._sizes += sizes

    def close(self) -> None:
        """Write what comes after the latents, and the header."""
        names = b"".join(name + b"\0" for name in self._names)
        names += b"\0" * (-(self._written + len(names)) % 8)  # the sizes begin at an address that every reader takes
        self.file.write(names)
        self.file.write(np.array(self._sizes, "<i4").reshape(-1, 2).tobytes())
        header = self._json(len(self), self._written, len(names))
        self.file.seek(0)
        self.file.write(self._room.to_bytes(8, "little") + header.ljust(self._room))
        self.file.flush()

    def _json(self, count: int, latents: int, names: int) -> bytes:
        """Return the header of so many pictures and so many bytes."""
        made_by, ends = self.made_by, (latents, latents + names, latents + names + 8 * count)
        if made_by.codebook is None:
            dtype, shape = _DTYPES[self.dtype][0], [count, *made_by.shape]
        else:
            dtype, shape = "U8", [count, bytes_of_codes(made_by)]
        about = {
            "format": FORMAT,
            "method": made_by.method,
            "sha256": made_by.sha256,
            "shape": list(made_by.shape),
            "codebook": made_by.codebook,
            "library": __version__,
        }
        header = {
            "__metadata__": {KEY: json.dumps(about)},
            "latents": {"dtype": dtype, "shape": shape, "data_offsets": [0, ends[0]]},
            "names": {"dtype": "U8", "shape": [names], "data_offsets": [ends[0], ends[1]]},
            "sizes": {"dtype": "I32", "shape": [count, 2], "data_offsets": [ends[1], ends[2]]},
        }
        return json.dumps(header).encode()


def bytes_of_codes(made_by: Tokenizer) -> int:
    """Return how many bytes the codes of one picture take in a file."""
    return math.ceil(math.prod(made_by.shape) * made_by.code_bits / 8)


class TokenFile:
    """A file of tokens, open for reading; the latents are read when they are asked for.

    Attributes:
        made_by: the tokenizer.
        names: of the pictures.
        sizes: their width and height before they were fitted, ``(N, 2)``.

    Args:
        path: the file.
        name: how errors call it; the path by default.

    Raises:
        DataError: if it is not there, no file of tokens, cut short, altered, or of a newer format.
    """

    def __init__(self, path: str | Path, name: str = "") -> None:
        from safetensors import SafetensorError, safe_open

        self.path, self.name = Path(path), name or str(path)
        if not self.path.is_file():
            raise DataError(f"There is no file of tokens at {self.name}.")
        try:
            with safe_open(str(path), framework="np") as file:
                text = (file.metadata() or {}).get(KEY)
                if text is None:
                    raise DataError(f"{self.name} is no file of tokens: `intermodal encode` makes them.")
                self.made_by = self._tokenizer(json.loads(text))
                found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
                names, self.sizes = file.get_tensor("names"), file.get_tensor("sizes")
            self._check(found, names)
        except (SafetensorError, OSError) as error:
            raise DataError(
                f"{self.name} cannot be read as a file of tokens ({error}): was it cut short, or is it something else?"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError, UnicodeError) as error:
            raise DataError(
                f"The file of tokens {self.name} is damaged ({type(error).__name__}: {error}): encode again."
            ) from error

    def _tokenizer(self, about: dict[str, Any]) -> Tokenizer:
        if about["format"] > FORMAT:
            raise DataError(
                f"{self.name} is of token format {about['format']}; this version of the library reads up to {FORMAT}: "
                "upgrade intermodal."
            )
        shape = tuple(int(side) for side in about["shape"])
        codebook = None if about["codebook"] is None else int(about["codebook"])
        if not shape or min(shape) < 1 or (codebook is not None and not 1 <= codebook <= 2**62):
            raise ValueError(f"a latent of shape {shape} with {codebook} codes")
        return Tokenizer(str(about["method"]), str(about["sha256"]), shape, codebook)

    def _check(self, found: dict[str, tuple[int, ...]], names: np.ndarray) -> None:
        """Check that the parts fit together, and read the names."""
        count = len(self.sizes)
        each = self.made_by.shape if self.made_by.codebook is None else (bytes_of_codes(self.made_by),)
        if found["latents"] != (count, *each) or found["sizes"] != (count, 2):
            raise ValueError(f"latents {found['latents']} of {count} pictures")
        if names.dtype != np.uint8 or names.ndim != 1:
            raise ValueError("names that are no bytes")
        self.names = [part.decode("utf-8", "surrogateescape") for part in names.tobytes().split(b"\0")[:count]]
        if len(self.names) != count:
            raise ValueError(f"{len(self.names)} names of {count} pictures")

    def __len__(self) -> int:
        return len(self.names)

    def read(self, first: int, last: int) -> np.ndarray:
        """Return the latents of the pictures from ``first`` up to ``last``: int64 codes, or float32 numbers.

        Raises:
            DataError: if the file has changed since it was opened.
        """
        from safetensors import SafetensorError, safe_open

        made_by, last = self.made_by, min(last, len(self))
        if first >= last:
            return np.zeros((0, *made_by.shape), np.float32 if made_by.codebook is None else np.int64)
        try:
            with safe_open(str(self.path), framework="np") as file:
                stored = file.get_slice("latents")[first:last]
        except (SafetensorError, OSError) as error:
            raise DataError(f"{self.name} can no longer be read ({error}).") from error
        if made_by.codebook is None:
            return stored.astype(np.float32)
        codes = unpack(stored, made_by.code_bits, math.prod(made_by.shape))
        return codes.reshape(len(stored), *made_by.shape)

    def check(self, made_by: Tokenizer) -> Self:
        """Return the file, having checked that a tokenizer made it.

        Raises:
            DataError: if another one did; both are named.
        """
        if self.made_by == made_by:
            return self
        same = self.made_by.method == made_by.method and self.made_by.shape == made_by.shape
        why = "Its weights or settings are others" if same else "That is another tokenizer"
        raise DataError(
            f"{self.name} was made by ({self.made_by}), this model is ({made_by}). {why}: its tokens mean nothing here."
        )


def picture_names(names: Sequence[str]) -> list[str]:
    """Return under which relative paths decoded pictures are to be written, one a name, each once, ending in ``.png``.

    A name is a stranger's: nothing of it leads out of the folder.
    """
    safe = []
    for name in names:
        parts = [p for p in PurePosixPath(name.replace("\\", "/")).parts if p not in ("/", "..", ".", "")]
        safe.append(PurePosixPath(*(p.replace(":", "_") for p in parts)) if parts else PurePosixPath("picture"))
    taken: set[str] = set()
    found = []
    for path in safe:
        wanted, number = str(path.with_suffix(".png")), 2
        if wanted.lower() in taken:  # a.jpg beside a.png, and file systems to which A.png is a.png
            wanted = f"{path}.png"
        while wanted.lower() in taken:
            wanted = f"{path}.{number}.png"
            number += 1
        taken.add(wanted.lower())
        found.append(wanted)
    return found
