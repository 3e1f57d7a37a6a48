r"""N-gram models in the ARPA format: text with logarithms to base 10, which every toolkit of the field reads and writes.

    \data\
    ngram 1=4
    ngram 2=2

    \1-grams:
    -1.2	<unk>
    -99	<s>	-0.30103
    ...
    \2-grams:
    -0.1	<s> yes
    ...
    \end\

A row holds the probability of its last word after the others, the words, and (below the highest order) the weight of
backing off after them, which is 0 where it is left out. Reading is strict: what does not fit is named with its line.
"""

from __future__ import annotations

import codecs
import gzip
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from intermodal.core.errors import DataError
from intermodal.core.files import atomic_file
from intermodal.decode.ngram import END, START, UNKNOWN, Grams, NGram

Array = np.ndarray[Any, Any]

LN10 = float(np.log(10.0))
_ROWS = 1 << 17
_COUNT = re.compile(rb"ngram\s+(\d+)\s*=\s*(\d+)")
_HEAD = 1 << 16
_PIECE = 1 << 24


def read(path: str | Path) -> NGram:
    """Read a model from an ARPA file, compressed by gzip or not.

    Raises:
        DataError: if there is no such file, it is not an ARPA file, it was cut short, it holds more or fewer rows than it
            says, sections out of order, something that is no number or a positive log-probability, a word twice, no
            ``<s>`` or ``</s>``, or is not UTF-8.
        MissingExtraError: without numba.
    """
    path = Path(path)
    return _Reader(path, _bytes(path)).model()


def _bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except FileNotFoundError as error:
        raise DataError(f"There is no language model at {path}.") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"The language model {path} cannot be uncompressed ({error}): was it cut short?") from error
    except OSError as error:
        raise DataError(f"The language model {path} cannot be read ({error.strerror}).") from error
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(data), _PIECE):  # in pieces, so that not all of the text stands there twice
        try:
            decoder.decode(data[start : start + _PIECE], final=start + _PIECE >= len(data))
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, start + error.start) + 1
            raise DataError(f"The language model {path} is not UTF-8 text (near line {line}).") from error
    return data


class _Reader:
    def __init__(self, path: Path, text: bytes) -> None:
        self.path, self.text, self.place = path, text, 0
        self.data = np.frombuffer(text, np.uint8)

    def fails(self, why: str) -> DataError:
        line = self.text.count(b"\n", 0, self.place) + 1
        cut = (
            "" if self.text.rstrip().endswith(b"\\end\\") else " The file does not end with \\end\\: was it cut short?"
        )
        return DataError(f"The language model {self.path} is not a whole ARPA file, line {line}: {why}.{cut}")

    def lines(self) -> Iterator[bytes]:
        """Yield lines that are not empty; the place moves on only when the next one is asked for."""
        while self.place < len(self.text):
            end = self.text.find(b"\n", self.place)
            end = len(self.text) if end < 0 else end
            if line := self.text[self.place : end].strip():
                yield line
            self.place = end + 1
        self.place = len(self.text)

    def next_line(self) -> bytes:
        return next(self.lines(), b"")

    def skip_line(self) -> None:
        end = self.text.find(b"\n", self.place)
        self.place = len(self.text) if end < 0 else end + 1

    def model(self) -> NGram:
        counts = self.counts()
        words: list[str] = []
        grams = []
        for n, count in enumerate(counts, 1):
            if self.next_line() != b"\\%d-grams:" % n:
                raise self.fails(f"\\{n}-grams: should stand here, {_shown(self.next_line())}")
            self.skip_line()
            logp, backoff = np.empty(count), np.empty(count)
            ids = np.empty((count, n), np.int32)
            for low in range(0, count, _ROWS):
                part = slice(low, min(low + _ROWS, count))
                before = self.place
                begins, ends = self.rows(n, count, low, logp[part], backoff[part])
                if n == 1:
                    ids[part, 0] = np.arange(part.start, part.stop)
                    words += [self.text[a:b].decode() for a, b in zip(begins[:, 0], ends[:, 0], strict=True)]
                else:
                    ids[part] = self.numbers(begins, ends)
                self.check(logp[part], backoff[part], before, top=n == len(counts))
            if n == 1:
                self.set_words(words)
            grams.append(Grams(ids, logp * LN10, backoff * LN10))
        if self.next_line() != b"\\end\\":
            raise self.fails(f"\\end\\ should stand here, {_shown(self.next_line())}")
        words = [UNKNOWN if word == "<UNK>" else word for word in words]
        try:
            return NGram.build(words, grams)
        except DataError as error:
            raise DataError(f"{self.path}: {error}") from error

    def counts(self) -> list[int]:
        """Return how many rows of each order the head promises."""
        found = self.text.find(b"\\data\\", 0, _HEAD)
        if found < 0 or (self.text[:found].strip() and self.text[found - 1 : found] != b"\n"):
            raise DataError(f"{self.path} is not a language model in the ARPA format: it does not begin with \\data\\.")
        self.place = found
        self.skip_line()
        counts: list[int] = []
        while promised := _COUNT.fullmatch(self.next_line()):
            if int(promised[1]) != len(counts) + 1:
                raise self.fails(f"the count of order {len(counts) + 1} should stand here")
            counts.append(int(promised[2]))
            self.skip_line()
        if not counts:
            raise self.fails(f'a count such as "ngram 1=100" should stand here, {_shown(self.next_line())}')
        if sum(counts) > len(self.text) // 4:  # "-1 a" and its line end are five
            raise self.fails(f"the head promises {sum(counts):,} rows, more than the file can hold")
        return counts

    def rows(self, n: int, count: int, low: int, logp: Array, backoff: Array) -> tuple[Array, Array]:
        """Read rows, and return where their words begin and end."""
        from intermodal.decode import arpa_kernels as kernels

        begins, ends = np.empty((len(logp), n), np.int64), np.empty((len(logp), n), np.int64)
        self.place, done, stop = kernels.rows(self.data, self.place, n, begins, ends, logp, backoff)
        if stop == kernels.ENDED:
            raise self.fails(f"the head promises {count:,} rows of order {n}, and there are {low + done:,}")
        if stop == kernels.NO_NUMBER:
            raise self.fails(f"not a number, {_shown(self.next_line())}")
        if stop in (kernels.TOO_FEW, kernels.TOO_MANY):
            raise self.fails(f"a row of order {n} holds a number, {n} words and perhaps one more number")
        return begins, ends

    def set_words(self, words: list[str]) -> None:
        from intermodal.data.word_kernels import WordTable

        if len(set(words)) != len(words):
            twice = next(word for word, count in Counter(words).items() if count > 1)
            raise DataError(f"The language model {self.path} names the word {twice!r} twice.")
        for mark in (START, END):
            if mark not in words:
                raise DataError(f"The language model {self.path} has no {mark}: sentences have no {mark} in it.")
        self.table = WordTable.of(words, whole=True)

    def numbers(self, begins: Array, ends: Array) -> Array:
        ids = self.table.look_up(self.data, begins, ends)
        if len(unknown := np.argwhere(ids < 0)):
            row, column = unknown[0]
            self.place = int(begins[row, column])
            word = self.text[self.place : int(ends[row, column])].decode()
            raise self.fails(f"the word {word!r} is not among the words of \\1-grams:")
        return ids

    def check(self, logp: Array, backoff: Array, before: int, *, top: bool) -> None:
        bad = (logp > 0) | ~np.isfinite(logp) | ~np.isfinite(backoff) | (top & (backoff != 0))
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            self.place = before
            for _ in range(row):
                self.skip_line()
            why = "a weight of backing off at the highest order" if logp[row] <= 0 else "a probability above 1"
            raise self.fails(f"{why}, {_shown(self.next_line())}")


def _shown(line: bytes) -> str:
    return f"found {line[:60].decode(errors='replace')!r}" if line else "and the file ends"


def write(model: NGram, path: str | Path) -> None:
    """Write a model as an ARPA file, compressed by gzip if the name ends in ``.gz``.

    Logarithms have seven digits, as SRILM's. The ``<unk>`` that reading adds to a model without one is not written.
    """
    path = Path(path)
    with atomic_file(path) as temporary:
        zipped = path.name.lower().endswith(".gz")
        with gzip.open(temporary, "wb", 6) if zipped else temporary.open("wb") as file:
            for block in _blocks(model):
                file.write(block.encode("utf-8", "surrogatepass"))


def _blocks(model: NGram) -> Iterator[str]:
    counts = list(model.counts)
    counts[0] -= model.closed
    yield "\\data\\\n" + "".join(f"ngram {n}={count}\n" for n, count in enumerate(counts, 1))
    words = np.array(model.words, dtype=object)
    for n, grams in enumerate(model.grams(), 1):
        yield f"\n\\{n}-grams:\n"
        keep = np.ones(len(grams.logp), bool)
        if n == 1 and model.closed:
            keep[model.unk] = False
        for low in range(0, len(keep), _ROWS):
            part = slice(low, low + _ROWS)
            logp = (grams.logp[part].astype(np.float64) / LN10)[keep[part]].tolist()
            backoff = (grams.backoff[part].astype(np.float64) / LN10)[keep[part]].tolist()
            text = [" ".join(row) for row in words[grams.words[part][keep[part]]].tolist()]
            rows = [
                f"{p:.7g}\t{row}\t{b:.7g}\n" if b else f"{p:.7g}\t{row}\n"
                for p, row, b in zip(logp, text, backoff, strict=True)
            ]
            yield "".join(rows)
    yield "\n\\end\\\n"
