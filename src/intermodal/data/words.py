"""Words of running text and their vocabulary: the rule by which text is cut into words, counting, encoding.

**The rule.** Text is put into lower case (``str.lower``); a word is a longest run of letters and marks (Unicode categories
L and M); everything else separates words. So "Don't" is two words, "don" and "t", "co-operate" two, digits none. Scripts
that write no spaces (Chinese, Thai) come out as whole phrases: cut them into words with spaces between before training.

Counting and encoding of whole corpora run through compiled code where numba is installed
(:mod:`intermodal.data.word_kernels`); without it the same rule runs in Python, several times slower.

Shapes: N words of the vocabulary, L words of a text.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from intermodal.core.errors import CheckpointError, ConfigError, DataError
from intermodal.core.fields import Field
from intermodal.data.processors import Processor

PAD = -1
"""Stands behind the last word of an encoded text."""
FILE = "vocabulary.txt"

_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]+")
_WORD = re.compile(r"[a-z\u0080-\U0010ffff]+")


def separated(text: str) -> str:
    """Return a text in lower case in which every character beyond ASCII is part of a word or a space.

    What is left to do is the same for text and for its UTF-8 bytes: a word is a run of a-z and of what is beyond ASCII.
    """
    lower = text.lower()
    return lower if lower.isascii() else _BEYOND_ASCII.sub(lambda found: _letters(found.group()), lower)


def _letters(run: str) -> str:
    if run.isalpha():
        return run
    return "".join(c if unicodedata.category(c)[0] in "LM" else " " for c in run)


def split_words(text: str) -> list[str]:
    """Return the words of a text, in order; see the module's text for the rule."""
    return _WORD.findall(separated(text))


def count_words(pieces: Iterable[str]) -> Counter[str]:
    """Return how often each word occurs in pieces of text (a word must not be cut by a piece's end).

    The memory is that of one piece and of the distinct words.
    """
    if compiled():
        from intermodal.data.word_kernels import WordTable

        table = WordTable()
        for piece in pieces:
            table.count(separated(piece).encode())
        return Counter(dict(table.items()))
    found: Counter[str] = Counter()
    for piece in pieces:
        found.update(split_words(piece))
    return found


def compiled() -> bool:
    """Say whether numba is installed, and with it the fast path."""
    return find_spec("numba") is not None


class Vocabulary(Processor):
    """Words <-> numbers, the most frequent first, with their counts; encodes a text as its known words' numbers.

    Args:
        words: each once; the rule of :func:`split_words` decides what can ever be found.
        counts: how often each occurs in the training text, int64 ``(N,)``, falling.
        total: words of the training text, those that are not in the vocabulary included.
        context_length: L of :meth:`encode`; a longer text is cut.

    Raises:
        DataError: if there is no word, a word twice, or counts that do not fit or do not fall.
    """

    raw = Field((), "str", "a text")

    def __init__(
        self, words: Sequence[str], counts: Sequence[int] | np.ndarray, *, total: int, context_length: int = 256
    ) -> None:
        self.words = tuple(words)
        self.counts = np.asarray(counts, np.int64)
        self.total = int(total)
        self.context_length = context_length
        if not self.words or self.counts.shape != (len(self.words),):
            raise DataError(f"A vocabulary needs words and a count for each, found {len(self.words)} words.")
        if len(self.ids) != len(self.words):
            raise DataError(f"The word {_first_twice(self.words)!r} stands twice in the vocabulary.")
        if self.counts.min() < 1 or (np.diff(self.counts) > 0).any() or self.total < self.counts.sum():
            raise DataError("The counts of a vocabulary must be positive, fall, and not exceed the text's words.")

    @classmethod
    def of(
        cls,
        pieces: Iterable[str],
        *,
        min_count: int = 1,
        max_words: int | None = None,
        context_length: int = 256,
        name: str = "The text",
    ) -> Self:
        """Return the vocabulary of a text.

        Args:
            pieces: the text, in pieces that cut no word.
            min_count: rarer words are left out.
            max_words: only so many of the most frequent words are kept; None keeps all.
            context_length: see the class.
            name: of the text, for errors.

        Raises:
            ConfigError: if ``min_count`` or ``max_words`` is below 1.
            DataError: if the text has no words, or fewer than two that are frequent enough.
        """
        if min_count < 1 or (max_words is not None and max_words < 2):
            raise ConfigError(f"min_count must be at least 1 and max_words 2, found {min_count} and {max_words}.")
        found = count_words(pieces)
        if not found:
            raise DataError(f"{name} holds no words: there is nothing to learn from.")
        kept = sorted((w for w, n in found.items() if n >= min_count), key=lambda w: (-found[w], w))[:max_words]
        if len(kept) < 2:
            raise DataError(
                f"{name} has {len(found):,} different words, of which {len(kept)} "
                f"{'occurs' if len(kept) == 1 else 'occur'} at least {min_count} times: at least two are needed. "
                "Give more text, or lower min_count."
            )
        return cls(kept, [found[w] for w in kept], total=found.total(), context_length=context_length)

    @cached_property
    def ids(self) -> dict[str, int]:
        """Each word's number."""
        return {word: i for i, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def _lower(self) -> dict[str, int]:
        """Each word's number by its lower case; of several cases the most frequent (vectors of others may have capitals)."""
        return {word.lower(): i for i, word in reversed(list(enumerate(self.words)))}

    def numbers(self, text: str) -> list[int]:
        """Return the numbers of a text's words; unknown words are left out."""
        return [self._lower[word] for word in split_words(text) if word in self._lower]

    def encode(self, value: Any) -> Tensor:
        """Return the numbers of a text's known words, int64 ``(context_length,)``, filled up with -1."""
        known = self.numbers(str(value))[: self.context_length]
        out = torch.full((self.context_length,), PAD, dtype=torch.int64)
        out[: len(known)] = torch.tensor(known, dtype=torch.int64)
        return out

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self._settings() == other._settings()

    __hash__ = None  # type: ignore[assignment]

    def _settings(self) -> tuple[Any, ...]:
        return (self.words, self.counts.tolist(), self.total, self.context_length)

    def to_folder(self, folder: Path) -> dict[str, Any]:
        """Write ``vocabulary.txt`` (a word and its count a line) and return the other settings."""
        lines = [f"{word} {count}\n" for word, count in zip(self.words, self.counts.tolist(), strict=True)]
        (folder / FILE).write_text("".join(lines), encoding="utf-8", newline="\n")
        return {"kind": "vocabulary", "file": FILE, "total": self.total, "context_length": self.context_length}

    @classmethod
    def restore(cls, data: dict[str, Any], folder: Path) -> Self:
        """Read ``vocabulary.txt`` and the settings back.

        Raises:
            CheckpointError: if the file is missing or damaged.
        """
        path = folder / Path(data["file"]).name
        try:
            pairs = [line.rpartition(" ") for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
            words, counts = [word for word, _, _ in pairs], [int(count) for _, _, count in pairs]
            return cls(words, counts, total=data["total"], context_length=data["context_length"])
        except FileNotFoundError as error:
            raise CheckpointError(f"The vocabulary {path} is missing from the checkpoint.") from error
        except (ValueError, DataError) as error:
            raise CheckpointError(f"The vocabulary {path} is damaged ({error}).") from error


def write_corpus(
    pieces: Iterable[str], vocabulary: Vocabulary, path: Path, *, break_at: str, said: Callable[[int], None]
) -> int:
    """Write a text as int32 word numbers, unknown words left out, -1 where a window must not cross; return how many.

    Args:
        pieces: the text, in pieces that cut no word; -1 also stands between two pieces.
        vocabulary: numbers the words.
        path: the file to write, four bytes a word, native byte order.
        break_at: ``"line"`` and ``"paragraph"`` (an empty line) put -1 there, ``"document"`` only between pieces.
        said: told how many characters have been read so far.

    Raises:
        MissingExtraError: without numba.
    """
    from intermodal.data.word_kernels import WordTable

    table = WordTable.of(vocabulary.words)
    newlines = {"line": 1, "paragraph": 2, "document": 0}[break_at]
    written = read = 0
    with path.open("wb") as file:
        for piece in pieces:
            ids = table.encode(separated(piece).encode(), newlines)
            ids.tofile(file)
            written += len(ids)
            read += len(piece)
            said(read)
    return written


def _first_twice(words: Sequence[str]) -> str:
    return next(word for word, count in Counter(words).items() if count > 1)
