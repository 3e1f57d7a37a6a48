"""Interpolated modified Kneser-Ney estimation of n-gram models: Chen & Goodman (1999), sections 3 and 4.1.6.

The probability of a word is a discounted count plus a share of the probability after a shorter context::

    p(w | c) = (a(c w) - D(a(c w))) / a(c .) + gamma(c) p(w | c')

with c' the context c without its first word. At the highest order, and for sequences that begin with ``<s>``, a is how
often the sequence occurs; below, it is how many different words precede it. D takes three values at each order, for a = 1,
a = 2 and a >= 3, from how many sequences have a = 1, 2, 3 and 4 (equation 26). Order 0 is uniform over all words that can
come, ``</s>`` and ``<unk>`` among them and ``<s>`` not.

Everything is sorting and counting of whole arrays: about 40 bytes a word of text at the peak, besides the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from intermodal.core.errors import ConfigError, DataError
from intermodal.core.progress import Progress, silent
from intermodal.decode.ngram import END, START, UNKNOWN, NGram, blocks
from intermodal.decode.ngram_tree import Tree

Array = np.ndarray[Any, Any]

MOST_ORDER = 12
FALL_BACK = (0.5, 1.0, 1.5)
"""The discounts where a text is too small to estimate them (kenlm's lmplz has the same, behind --discount_fallback)."""
NEVER = -99.0 * float(np.log(10.0))
"""ln p of ``<s>``, which never comes after anything: the field writes it as -99 in ARPA files."""


@dataclass(frozen=True)
class Discounts:
    """What is taken off the counts of one order.

    Attributes:
        order: 1 for single words.
        values: for counts of 1, of 2, and of 3 and more.
        counts_of_counts: how many sequences have the count 1, 2, 3 and 4.
        fallen_back: whether they could not be estimated from those, so that ``values`` is :data:`FALL_BACK`.
    """

    order: int
    values: tuple[float, float, float]
    counts_of_counts: tuple[int, int, int, int]
    fallen_back: bool


@dataclass(frozen=True)
class Estimate:
    """A model and what it was made of.

    Attributes:
        model: the language model.
        sentences: lines of the text that hold a word.
        words: of the text, the ends of sentences not counted.
        discounts: of each order.
        notes: what a person should know, in sentences.
    """

    model: NGram
    sentences: int
    words: int
    discounts: tuple[Discounts, ...]
    notes: tuple[str, ...] = field(default=())


class _Level(NamedTuple):
    """The sequences of one length, sorted by the numbers of their beginnings and then by their last words."""

    parent: Array  # the number of its beginning, among those one word shorter
    word: Array  # its last word
    ending: Array  # the number of the sequence without its first word
    occurs: Array  # how often it occurs
    begins: Array  # whether its first word is <s>


def estimate(
    texts: Iterable[str],
    order: int = 3,
    *,
    prune: Sequence[int] = (),
    min_count: int = 1,
    watch: Progress = silent,
) -> Estimate:
    """Return the language model of a text.

    Args:
        texts: lines, or longer pieces that cut no line; each line is a sentence, cut into words at white space; lines
            without a word are passed over. ``<unk>`` in it stands for an unknown word.
        order: the longest sequences have so many words, at least 1.
        prune: for order 2, 3 and so on, sequences that occur at most so often are left out and their probability is given
            to backing off; the last number holds for the orders that follow. They must not fall.
        min_count: words that occur less often count as ``<unk>``.
        watch: told how far it is.

    Raises:
        ConfigError: if a number is out of range.
        DataError: if the text holds no word, or ``<s>`` or ``</s>`` as a word.
    """
    if not 1 <= order <= MOST_ORDER:
        raise ConfigError(f"The order of an n-gram model is 1 to {MOST_ORDER}, found {order}.")
    if min_count < 1:
        raise ConfigError(f"min_count must be at least 1, found {min_count}.")
    if any(low < 0 for low in prune) or list(prune) != sorted(prune) or len(prune) > max(order - 1, 0):
        raise ConfigError(
            f"prune takes at most {max(order - 1, 0)} counts for order {order} (of order 2 and up), which must not be "
            f"negative and not fall; found {' '.join(str(n) for n in prune)}."
        )
    watch("reading the text", 0.0)
    words, ids, notes = _read(texts, min_count)
    sentences = int(np.count_nonzero(ids < 0))
    sequence = _with_marks(ids, words.index(START), words.index(END))
    total = len(ids) - sentences
    del ids
    levels = _count(sequence, words, order, watch)
    watch("estimating", 0.8)
    limits = [0, *prune, *([prune[-1]] * (order - 1 - len(prune)) if prune else [0] * (order - 1))]
    model, discounts = _estimated(levels, words, limits)
    for found in discounts:
        if found.fallen_back:
            notes.append(
                f"The discounts of order {found.order} cannot be estimated from so little text (sequences by count, 1 to 4: "
                f"{', '.join(str(n) for n in found.counts_of_counts)}): {', '.join(str(d) for d in FALL_BACK)} are used."
            )
    return Estimate(model, sentences, total, tuple(discounts), tuple(notes))


def _read(texts: Iterable[str], min_count: int) -> tuple[list[str], Array, list[str]]:
    """Return the vocabulary, the text's words as numbers with -1 behind each sentence, and notes."""
    from intermodal.data.word_kernels import WordTable

    table = WordTable.of([UNKNOWN, START, END], whole=True)
    parts = []
    for block in blocks(texts):
        text = block.encode("utf-8", "surrogatepass")
        table.count(text)
        parts.append(table.encode(text, 1))
    ids = np.concatenate(parts) if parts else np.empty(0, np.int32)
    del parts
    words, counts = [], []
    for word, count in table.items():
        words.append(word)
        counts.append(count)
    for mark, count in zip((START, END), counts[1:3], strict=True):
        if count > 1:
            raise DataError(f"The text has {mark} as a word: sentences are marked by their lines. Take it out.")
    if not (ids >= 0).any():
        raise DataError("The text holds no words: there is nothing to learn from.")
    if min_count == 1:
        return words, ids, []
    kept = np.array(counts) >= min_count
    kept[:3] = True
    number = np.where(kept, np.cumsum(kept) - 1, 0).astype(np.int32)
    rare = len(words) - int(kept.sum())
    if not kept[3:].any():
        raise DataError(f"No word of the text occurs at least {min_count} times: lower min_count, or give more text.")
    note = f"{rare:,} of {len(words) - 3:,} different words occur less than {min_count} times and count as {UNKNOWN}."
    ids = np.where(ids < 0, np.int32(-1), number[ids])
    return [word for word, keep in zip(words, kept, strict=True) if keep], ids, [note]


def _with_marks(ids: Array, start: int, end: int) -> Array:
    """Return the sentences one behind the other, each between its marks, int32."""
    ends = np.flatnonzero(ids < 0)
    out = np.empty(len(ids) + len(ends), np.int32)
    sentence = np.cumsum(ids < 0, dtype=np.int32)
    sentence[ends] -= 1
    out[np.arange(len(ids)) + sentence + 1] = np.where(ids < 0, end, ids)
    out[np.concatenate([[0], ends[:-1] + 1]) + np.arange(len(ends))] = start
    return out


def _count(sequence: Array, words: Sequence[str], order: int, watch: Progress) -> list[_Level]:
    """Return the sequences of each length that lie within a sentence."""
    size, start, end = len(words), words.index(START), words.index(END)
    every = np.arange(size)
    occurs = np.bincount(sequence, minlength=size)
    levels = [_Level(np.zeros(size, np.int64), every, np.zeros(size, np.int64), occurs, every == start)]
    at = sequence  # at each place of the text, the number of the sequence that begins there
    place = np.arange(len(sequence))
    for n in range(2, order + 1):
        watch(f"counting sequences of {n} words", 0.2 + 0.6 * (n - 2) / (order - 1))
        place = place[sequence[place + n - 2] != end]
        keys = at[place].astype(np.int64) * size + sequence[place + n - 1]
        by_key = np.argsort(keys)
        keys = keys[by_key]
        new = np.concatenate([np.ones(min(len(keys), 1), bool), keys[1:] != keys[:-1]])
        longer = np.full(len(sequence), -1, np.int32)
        longer[place[by_key]] = np.cumsum(new, dtype=np.int32) - 1
        begin = np.flatnonzero(new)
        parent = keys[begin] // size
        levels.append(
            _Level(
                parent,
                (keys[begin] % size).astype(np.int32),
                at[place[by_key[begin]] + 1],
                np.diff(begin, append=len(keys)),
                levels[-1].begins[parent],
            )
        )
        at = longer
    return levels


def _adjusted(levels: Sequence[_Level], n: int) -> Array:
    """Return a of the sequences of a level, which is ``levels[n]``."""
    level = levels[n]
    if n + 1 == len(levels):
        count = level.occurs.copy()
    else:
        before = np.bincount(levels[n + 1].ending, minlength=len(level.word))
        count = np.where(level.begins, level.occurs, before)
    if n == 0:
        count[level.begins] = 0  # <s> never comes
    return count


def discounts_of(counts: Array, order: int) -> Discounts:
    """Return the discounts of the sequences of one order: Chen & Goodman (1999), equation 26.

    They are the fall-back's where there is no sequence of count 1, 2 or 3, or where one would lie outside of (0, count].

    Args:
        counts: of each sequence, integers.
        order: how long they are.
    """
    t = tuple(int(np.count_nonzero(counts == k)) for k in (1, 2, 3, 4))
    if min(t[:3]) > 0:
        y = t[0] / (t[0] + 2 * t[1])
        values = tuple(k - (k + 1) * y * t[k] / t[k - 1] for k in (1, 2, 3))
        if all(0 < value <= k for k, value in enumerate(values, 1)):
            return Discounts(order, (values[0], values[1], values[2]), (t[0], t[1], t[2], t[3]), fallen_back=False)
    return Discounts(order, FALL_BACK, (t[0], t[1], t[2], t[3]), fallen_back=True)


def _estimated(levels: Sequence[_Level], words: Sequence[str], limits: Sequence[int]) -> tuple[NGram, list[Discounts]]:
    size, found = len(words), []
    tree = Tree(size)
    shorter = np.full(1, 1 / (size - 1))  # order 0
    number = np.zeros(1, np.int64)  # of the sequences one word shorter, among the tree's nodes
    for n, level in enumerate(levels):
        count = _adjusted(levels, n)
        found.append(discounts_of(count, n + 1))
        taken = np.array([0.0, *found[-1].values])[np.minimum(count, 3)]
        keep = level.occurs > limits[n] if n else np.ones(size, bool)
        above = len(number)
        whole = np.bincount(level.parent, count, above)
        left = np.bincount(level.parent, np.where(keep, taken, count), above)
        gamma = np.divide(left, whole, out=np.ones(above), where=whole > 0)
        shorter = (count - taken) / np.maximum(whole, 1)[level.parent] + gamma[level.parent] * shorter[level.ending]
        with np.errstate(divide="ignore"):
            if n:
                tree.backoff[number[number >= 0]] = np.log(gamma[number >= 0])
            logp = np.log(shorter)
        if n == 0:
            logp[level.begins] = NEVER
        here = len(tree.keys) + np.cumsum(keep) - 1
        key = number[level.parent[keep]] * size + level.word[keep]
        link = number[level.ending[keep]] if n else np.zeros(size, np.int64)
        tree.append(key, logp[keep], np.zeros(len(key)), link)
        number = np.where(keep, here, -1)
    return tree.model(words), found
