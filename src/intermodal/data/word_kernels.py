"""Compiled counting and numbering of words in UTF-8 bytes: a hash table of words that both share. Needs numba.

There are two rules. Of bytes that come from :func:`intermodal.data.words.separated` a word is a run of a-z and of bytes
above 127; of text that is to be taken as it is (``whole``) a word is what white space and control characters separate. Words
are kept one behind the other in one array of bytes; the table holds their numbers by open addressing with linear probing,
hashed by FNV-1a (64 bits). Two words with the same hash are told apart by their bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from intermodal.core.errors import DataError, MissingExtraError

try:
    from numba import njit
except ImportError as error:
    raise MissingExtraError("numba", "text") from error

BREAK = -1
_NEWLINE, _SPACE = 10, 32

Array = np.ndarray[Any, Any]
Number = Any
"""A scalar of compiled code: an integer of fixed size, or a float32."""


class WordTable:
    """Words by number, in the order in which they were first met, with their counts.

    Args:
        whole: words are what white space separates, whatever characters they have; see the module's text.
    """

    def __init__(self, *, whole: bool = False) -> None:
        self.whole = whole
        self._slots = np.full(1 << 16, -1, np.int32)
        self._hashes = np.zeros(1 << 15, np.uint64)
        self._starts = np.zeros((1 << 15) + 1, np.int64)
        self._counts = np.zeros(1 << 15, np.int64)
        self._bytes = np.zeros(1 << 18, np.uint8)
        self._size = 0

    @classmethod
    def of(cls, words: Sequence[str], *, whole: bool = False) -> WordTable:
        """Return the table of words that are known: each has its place in ``words`` as number."""
        table = cls(whole=whole)
        for start in range(0, len(words), 4096):
            table.count(" ".join(words[start : start + 4096]).encode())
        if len(table) != len(words):
            raise DataError(
                "The vocabulary holds words that no text can hold: it was made by another rule than split_words."
            )
        return table

    def __len__(self) -> int:
        return self._size

    def count(self, text: bytes) -> None:
        """Count the words of some bytes; new words get the next numbers."""
        data, place = np.frombuffer(text, np.uint8), 0
        while place < len(data):
            self._make_room(len(data) - place)
            place, self._size = _count(
                data, place, self.whole, self._slots, self._hashes, self._starts, self._counts, self._bytes, self._size
            )

    def encode(self, text: bytes, newlines: int, unknown: int = -1) -> Array:
        """Return the numbers of the words of some bytes, int32, and -1 at breaks and at the end.

        Args:
            text: the bytes.
            newlines: so many line ends with nothing but white space between make a break; 0 for none.
            unknown: the number of words that are not in the table; -1 leaves them out.
        """
        data = np.frombuffer(text, np.uint8)
        out = np.empty(len(data) + 2, np.int32)  # a letter and a line end may make a word and a break
        used = _encode(data, self.whole, self._slots, self._hashes, self._starts, self._bytes, newlines, unknown, out)
        return out[:used]

    def look_up(self, data: Array, begins: Array, ends: Array) -> Array:
        """Return the numbers of words that stand in some bytes (uint8), int32, -1 for those that are not in the table.

        Args:
            data: the bytes.
            begins: int64, where each word begins.
            ends: int64, of the same shape, where it ends.
        """
        out = np.empty(begins.size, np.int32)
        _look_up(
            data, begins.ravel(), ends.ravel(), self.whole, self._slots, self._hashes, self._starts, self._bytes, out
        )
        return out.reshape(begins.shape)

    def items(self) -> Iterator[tuple[str, int]]:
        """Yield each word and its count, in the order of the numbers."""
        starts, text = self._starts[: self._size + 1].tolist(), self._bytes.tobytes()
        for i, count in enumerate(self._counts[: self._size].tolist()):
            yield text[starts[i] : starts[i + 1]].decode(), count

    def _make_room(self, incoming: int) -> None:
        """Grow where fewer than a quarter is left; the counting returns when one of the arrays is full."""
        if self._size * 4 > len(self._hashes) * 3:
            for name in ("_hashes", "_counts"):
                setattr(self, name, np.concatenate([getattr(self, name), np.zeros_like(getattr(self, name))]))
            self._starts = np.concatenate([self._starts, np.zeros(len(self._starts) - 1, np.int64)])
            self._slots = np.full(2 * len(self._hashes), -1, np.int32)
            _refill(self._slots, self._hashes, self._size)
        used = int(self._starts[self._size])
        if used + incoming > len(self._bytes):
            room = np.zeros(max(2 * len(self._bytes), used + incoming), np.uint8)
            room[:used] = self._bytes[:used]
            self._bytes = room


@njit(nogil=True, cache=True, inline="always")
def _in_word(byte: Number, whole: bool) -> bool:
    if whole:
        return byte > _SPACE
    return (byte >= 97 and byte <= 122) or byte > 127


@njit(nogil=True, cache=True)
def _find(  # noqa: PLR0917 - compiled code takes its arrays one by one
    data: Array, start: Number, end: Number, code: Number, slots: Array, hashes: Array, starts: Array, text: Array
) -> Number:
    """Return the slot in which a word is, or the free one in which it belongs."""
    mask = len(slots) - 1
    slot = np.int64(code & np.uint64(mask))
    while slots[slot] >= 0:
        word = slots[slot]
        if hashes[word] == code and starts[word + 1] - starts[word] == end - start:
            first, same = starts[word], True
            for k in range(end - start):
                if text[first + k] != data[start + k]:
                    same = False
                    break
            if same:
                return slot
        slot = (slot + 1) & mask
    return slot


@njit(nogil=True, cache=True)
def _next_word(data: Array, place: Number, whole: bool) -> tuple[Number, Number]:
    """Return where the word that begins at ``place`` ends, and its hash."""
    code = np.uint64(0xCBF29CE484222325)
    while place < len(data) and _in_word(data[place], whole):
        code = (code ^ np.uint64(data[place])) * np.uint64(0x100000001B3)
        place += 1
    return place, code ^ (code >> np.uint64(29))


@njit(nogil=True, cache=True)
def _count(  # noqa: PLR0917
    data: Array,
    place: Number,
    whole: bool,
    slots: Array,
    hashes: Array,
    starts: Array,
    counts: Array,
    text: Array,
    size: Number,
) -> tuple[Number, Number]:
    while place < len(data):
        if not _in_word(data[place], whole):
            place += 1
            continue
        end, code = _next_word(data, place, whole)
        slot = _find(data, place, end, code, slots, hashes, starts, text)
        word = slots[slot]
        if word < 0:
            if size == len(hashes):
                return place, size
            word = size
            slots[slot], hashes[word] = word, code
            first = starts[word]
            for k in range(end - place):
                text[first + k] = data[place + k]
            starts[word + 1] = first + end - place
            size += 1
        counts[word] += 1
        place = end
    return place, size


@njit(nogil=True, cache=True)
def _encode(  # noqa: PLR0917
    data: Array,
    whole: bool,
    slots: Array,
    hashes: Array,
    starts: Array,
    text: Array,
    newlines: Number,
    unknown: Number,
    out: Array,
) -> Number:
    place = used = met = 0
    while place < len(data):
        byte = data[place]
        if _in_word(byte, whole):
            met = 0
            end, code = _next_word(data, place, whole)
            word = slots[_find(data, place, end, code, slots, hashes, starts, text)]
            if word < 0:
                word = unknown
            if word >= 0:
                out[used] = word
                used += 1
            place = end
            continue
        if byte == _NEWLINE:
            met += 1
            if met == newlines and used and out[used - 1] != BREAK:
                out[used] = BREAK
                used += 1
        elif byte > _SPACE:
            met = 0
        place += 1
    if used and out[used - 1] != BREAK:
        out[used] = BREAK
        used += 1
    return used


@njit(nogil=True, cache=True)
def _refill(slots: Array, hashes: Array, size: Number) -> None:
    mask = len(slots) - 1
    for word in range(size):
        slot = np.int64(hashes[word] & np.uint64(mask))
        while slots[slot] >= 0:
            slot = (slot + 1) & mask
        slots[slot] = word


@njit(nogil=True, cache=True)
def _look_up(  # noqa: PLR0917
    data: Array,
    begins: Array,
    ends: Array,
    whole: bool,
    slots: Array,
    hashes: Array,
    starts: Array,
    text: Array,
    out: Array,
) -> None:
    for i in range(len(begins)):
        _, code = _next_word(data, begins[i], whole)
        out[i] = slots[_find(data, begins[i], ends[i], code, slots, hashes, starts, text)]
