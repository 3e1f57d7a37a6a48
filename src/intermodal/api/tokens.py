"""Tokens as requests carry them: files in memory, and numbers in JSON."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from intermodal.core.errors import DataError
from intermodal.data.tokens import SUFFIX, TokenFile, Tokenizer, TokenWriter


def token_bytes(
    made_by: Tokenizer, latents: np.ndarray, names: Sequence[str], sizes: Sequence[tuple[int, int]]
) -> bytes:
    """Return a file of tokens."""
    buffer = io.BytesIO()
    writer = TokenWriter(buffer, made_by)
    writer.add(latents, names, sizes)
    writer.close()
    return buffer.getvalue()


def read_tokens(data: bytes, made_by: Tokenizer, most: int) -> tuple[np.ndarray, list[str]]:
    """Return the latents and names in a file of tokens.

    Raises:
        DataError: if it is damaged, of another tokenizer, or holds more than ``most`` pictures.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"sent{SUFFIX}"
        path.write_bytes(data)
        file = TokenFile(path, "The file that was sent").check(made_by)
        _check_count(len(file), most)
        return file.read(0, len(file)), file.names


def numbers_of(text: str, most: int) -> np.ndarray:
    """Return the latents that a JSON text holds, as whole or real numbers.

    Raises:
        DataError: if it is no JSON, or no list of equally long lists of numbers.
    """
    try:
        values = np.array(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise DataError(f"The latents are no JSON list of latents of one shape ({error}).") from error
    if values.ndim < 2 or values.dtype.kind not in "iuf":
        raise DataError("The latents are to be a JSON list with the codes or numbers of each picture in nested lists.")
    _check_count(len(values), most)
    return values


def _check_count(found: int, most: int) -> None:
    if not 1 <= found <= most:
        raise DataError(f"A request decodes 1 to {most} pictures, found {found:,}: send them in parts.")
