"""Word vectors in word2vec's formats, text and binary: read and written as word2vec.c and gensim do.

Both begin with a line ``N D``. In the text format a line follows for each word: the word and D numbers, separated by
spaces. In the binary format each word is followed by a space, D little-endian float32 and a line end (as word2vec.c writes
it; gensim writes none, and both are read).

The formats hold the centre vectors alone. A model that is read has a context table of zeros, so it answers questions and
embeds as before, but its loss is that of chance; and counts are unknown, so the words' places stand for them (N for the
first, 1 for the last).
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from intermodal.core.capabilities import HasWords
from intermodal.core.errors import CheckpointError
from intermodal.core.files import atomic_file
from intermodal.data.words import Vocabulary
from intermodal.methods.contrastive.word2vec import Word2Vec, Word2VecConfig

Format = Literal["text", "binary"]
LONGEST = 4096
"""A word of more bytes than this is taken for a damaged file."""
_FLOAT = np.dtype("<f4")


def read_word2vec(path: str | Path, form: Format | None = None) -> Word2Vec:
    """Read a file of word vectors as a :class:`Word2Vec` in evaluation mode; see the module's text for what it lacks.

    Args:
        path: the file.
        form: ``text`` or ``binary``; None looks at the file.

    Raises:
        CheckpointError: if the first line is not two numbers, the file is cut short or goes on behind the last word, a word
            is not UTF-8, empty or there twice, or a number is missing or not finite.
    """
    words, vectors = read_vectors(path, form)
    vocabulary = Vocabulary(words, np.arange(len(words), 0, -1), total=len(words) * (len(words) + 1) // 2)
    config = Word2VecConfig(vocab_size=len(words), dim=vectors.shape[1])
    with torch.device("meta"):
        model = Word2Vec(config, {"text": vocabulary})
    tensors = {"centre.weight": torch.from_numpy(vectors), "context.weight": torch.zeros(*vectors.shape)}
    model.load_state_dict(tensors, strict=True, assign=True)
    return model.requires_grad_(True).eval()


def read_vectors(path: str | Path, form: Format | None = None) -> tuple[list[str], np.ndarray]:
    """Read words and their vectors, float32 ``(N, D)``; see :func:`read_word2vec`."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"There is no file {path}.")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty: a file of word vectors begins with a line of two numbers.")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        count, dim, start = _header(path, data)
        if form is None:
            form = "text" if _looks_like_text(data, start, dim) else "binary"
        least = count * (2 * dim + 2 if form == "text" else 4 * dim + 2) - 1
        if len(data) - start < least:
            raise CheckpointError(
                f"{path} is cut short: {count:,} words of {dim} numbers take at least {least:,} bytes, found "
                f"{len(data) - start:,}."
            )
        read = _read_text if form == "text" else _read_binary
        words, vectors = read(path, data, start, count, dim)
    if not np.isfinite(vectors).all():
        bad = int(np.flatnonzero(~np.isfinite(vectors).all(1))[0])
        raise CheckpointError(
            f"{path}: the vector of the word {words[bad]!r} (number {bad + 1}) holds a number that is not finite."
        )
    seen: dict[str, int] = {}
    for i, word in enumerate(words):
        if seen.setdefault(word, i) != i:
            raise CheckpointError(f"{path}: the word {word!r} is there twice, as numbers {seen[word] + 1} and {i + 1}.")
    return words, vectors


def write_word2vec(model: HasWords, path: str | Path, form: Format = "binary") -> None:
    """Write a model's words and vectors in word2vec's format, in one step.

    The binary format keeps every bit; so does the text format, with the shortest decimals that do.

    Raises:
        CheckpointError: if a word is empty or holds white space, which the formats cannot say.
        IntermodalError: if the disk is full or writing is not permitted.
    """
    vectors = np.ascontiguousarray(model.word_vectors(), _FLOAT)
    bad = next((word for word in model.words if not word or word.split() != [word]), None)
    if bad is not None:
        raise CheckpointError(f"The word {bad!r} is empty or holds white space, which word2vec's format cannot say.")
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        file.write(f"{vectors.shape[0]} {vectors.shape[1]}\n".encode())
        for word, row in zip(model.words, vectors, strict=True):
            numbers = row.tobytes() if form == "binary" else " ".join(row.astype(str)).encode()
            file.write(word.encode() + b" " + numbers + b"\n")


def _header(path: Path, data: mmap.mmap) -> tuple[int, int, int]:
    """Return N, D and where the words begin."""
    end = data.find(b"\n", 0, 100)
    parts = data[: max(end, 0)].split()
    if end < 0 or len(parts) != 2 or not all(part.isdigit() and int(part) > 0 for part in parts):
        found = data[: end if 0 <= end < 40 else 40]
        raise CheckpointError(
            f"{path} is no file of word vectors: its first line should be two numbers, how many words and how many "
            f"dimensions, found {found!r}."
        )
    return int(parts[0]), int(parts[1]), end + 1


def _looks_like_text(data: mmap.mmap, start: int, dim: int) -> bool:
    """Say whether what stands behind the first word, to the end of its line, is written in digits."""
    space = data.find(b" ", start, start + LONGEST)
    end = data.find(b"\n", space, space + 64 * dim)
    line = data[space + 1 : end if end >= 0 else space + 64 * dim]
    return space >= 0 and len(line) >= dim and not line.strip(b"0123456789+-.eEnaifNIF \r")


def _read_text(path: Path, data: mmap.mmap, start: int, count: int, dim: int) -> tuple[list[str], np.ndarray]:
    words: list[str] = []
    vectors = np.empty((count, dim), np.float32)
    data.seek(start)
    for i in range(count):
        parts = data.readline().rstrip(b" \r\n").split(b" ")
        if parts == [b""]:
            raise CheckpointError(f"{path} is cut short: its first line says {count:,} words, found {i:,}.")
        if len(parts) != dim + 1:
            raise CheckpointError(
                f"{path}, word number {i + 1:,}: expected a word and {dim} numbers, found {len(parts)} parts."
            )
        words.append(_word(path, parts[0], i))
        try:
            vectors[i] = [float(part) for part in parts[1:]]
        except ValueError as error:
            raise CheckpointError(f"{path}, word number {i + 1:,} ({words[-1]!r}): {error}.") from error
    _check_end(path, data[data.tell() :][:64], count)
    return words, vectors


def _read_binary(path: Path, data: mmap.mmap, start: int, count: int, dim: int) -> tuple[list[str], np.ndarray]:
    words: list[str] = []
    vectors = np.empty((count, dim), np.float32)
    place, wide = start, _FLOAT.itemsize * dim
    for i in range(count):
        space = data.find(b" ", place, place + LONGEST)
        if space < 0 or space + 1 + wide > len(data):
            what = "cut short" if space >= 0 or len(data) - place < LONGEST else "damaged"
            raise CheckpointError(f"{path} is {what}: it ends or makes no sense at word number {i + 1:,} of {count:,}.")
        words.append(_word(path, data[place:space].lstrip(b"\n"), i))
        vectors[i] = np.frombuffer(data[space + 1 : space + 1 + wide], _FLOAT)
        place = space + 1 + wide
    _check_end(path, data[place : place + 64], count)
    return words, vectors


def _check_end(path: Path, rest: bytes, count: int) -> None:
    if rest.strip():
        raise CheckpointError(
            f"{path} goes on behind the {count:,} words that its first line says: is that line wrong?"
        )


def _word(path: Path, data: bytes, number: int) -> str:
    try:
        word = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(
            f"{path}: word number {number + 1:,} is not UTF-8 ({data[:40]!r}): convert the file to UTF-8 first."
        ) from error
    if not word:
        raise CheckpointError(f"{path}: word number {number + 1:,} is empty.")
    return word
