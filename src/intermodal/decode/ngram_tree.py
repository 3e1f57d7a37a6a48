"""An n-gram model's tree, from its entries: sorting and bisection over whole levels at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from intermodal.core.errors import DataError
from intermodal.decode.ngram import END, NO_UNKNOWN, START, UNKNOWN, Grams, NGram, Tables

Array = np.ndarray[Any, Any]


def build(words: Sequence[str], grams: Sequence[Grams]) -> NGram:
    """Return the model with these entries; see :meth:`intermodal.decode.ngram.NGram.build`."""
    words = list(words)
    for entries in grams:
        if len(entries.words) and not 0 <= int(entries.words.min()) <= int(entries.words.max()) < len(words):
            raise DataError("An entry of the language model names a word outside its vocabulary.")
    known = set(words)
    closed = UNKNOWN not in known
    words += [word for word in (START, END, UNKNOWN) if word not in known]
    levels = _completed(_with_every_word(grams, words), len(words))
    tree = Tree(len(words))
    for entries in levels:
        tree.add(entries)
    return tree.model(words, closed=closed)


def _with_every_word(grams: Sequence[Grams], words: list[str]) -> list[Grams]:
    """Return the entries with those of length 1 in the order of the words, the missing ones added."""
    single, longer = grams[0], list(grams[1:])
    logp, backoff = np.full(len(words), np.nan), np.zeros(len(words))
    place = single.words[:, 0]
    if len(np.unique(place)) != len(place):
        raise DataError("A word stands twice among the language model's entries of length 1.")
    logp[place], backoff[place] = single.logp, single.backoff
    logp[np.isnan(logp)] = NO_UNKNOWN
    return [Grams(np.arange(len(words), dtype=np.int32)[:, None], logp, backoff), *longer]


def _codes(words_MN: Array, size: int) -> Array:
    """Return a number for each row that sorts as the rows do; rows of more than one machine word are numbered in turn."""
    code = words_MN[:, 0].astype(np.int64)
    bound = size
    for column in range(1, words_MN.shape[1]):
        if bound > (1 << 62) // size:
            values, code = np.unique(code, return_inverse=True)
            bound = len(values)
        code = code * size + words_MN[:, column]
        bound *= size
    return code


def _completed(levels: list[Grams], size: int) -> list[Grams]:
    """Return the levels with the beginnings that entries need and that are not there, of probability NaN."""
    done = list(levels)
    for n in range(len(levels) - 1, 1, -1):
        long, short = done[n].words, done[n - 1].words
        codes = _codes(np.concatenate([short, long[:, :-1]]), size)
        missing = ~np.isin(codes[len(short) :], codes[: len(short)])
        if missing.any():
            _, once = np.unique(codes[len(short) :][missing], return_index=True)
            added = long[:, :-1][missing][once]
            none = np.zeros(len(added))
            done[n - 1] = Grams(
                np.concatenate([short, added]),
                np.concatenate([done[n - 1].logp, none * np.nan]),
                np.concatenate([done[n - 1].backoff, none]),
            )
    return done


class Tree:
    """The nodes so far, level after level. A node's key, parent times words plus word, grows with its number.

    Args:
        size: how many words there are.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.levels = [0, 1]
        self.keys = np.full(1, -1, np.int64)
        self.logp, self.backoff = np.zeros(1), np.zeros(1)
        self.link = np.zeros(1, np.int64)

    @classmethod
    def of(cls, model: NGram) -> Tree:
        """Return the tree of a model."""
        tree = cls(len(model))
        for entries in model.grams():
            tree.add(entries)
        return tree

    def parent(self, nodes: slice) -> Array:
        """Return the parent of each of some nodes, none of them the root."""
        return self.keys[nodes] // self.size

    def word(self, nodes: slice) -> Array:
        """Return the last word of each of some nodes, none of them the root."""
        return self.keys[nodes] % self.size

    def add(self, entries: Grams) -> None:
        """Add the entries of the next length, in any order."""
        parent = np.zeros(len(entries.words), np.int64)
        for column in range(entries.words.shape[1] - 1):
            parent = self._child(parent, entries.words[:, column])
        keys = parent * self.size + entries.words[:, -1]
        order = np.argsort(keys, kind="stable")
        keys, parent, word = keys[order], parent[order], entries.words[order, -1]
        if len(keys) and (np.diff(keys) == 0).any():
            raise DataError(f"An entry of length {entries.words.shape[1]} stands twice in the language model.")
        logp = np.asarray(entries.logp, np.float64)[order]
        link = np.zeros(len(keys), np.int64)
        if len(self.levels) > 2:
            link, shorter = self.backed_off(self.link[parent], word)
            logp = np.where(np.isnan(logp), self.backoff[parent] + shorter, logp)
        self.append(keys, logp, np.asarray(entries.backoff, np.float64)[order], link)

    def append(self, keys: Array, logp: Array, backoff: Array, link: Array) -> None:
        """Add the nodes of the next length, sorted by their keys.

        Args:
            keys: int64, growing.
            logp: natural logarithms.
            backoff: natural logarithms.
            link: the node of the longest sequence there is that ends each.
        """
        self.keys = np.concatenate([self.keys, keys])
        self.logp = np.concatenate([self.logp, logp])
        self.backoff = np.concatenate([self.backoff, backoff])
        self.link = np.concatenate([self.link, link])
        self.levels.append(len(self.keys))

    def _child(self, node: Array, word: Array) -> Array:
        """Return the node of a word after a node, or -1."""
        keys = node * self.size + word
        place = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[place] == keys, place, -1)

    def backed_off(self, node: Array, word: Array) -> tuple[Array, Array]:
        """Return the longest sequence there is that ends a node's with a word, and the word's log probability there."""
        found, total = self._child(node, word), np.zeros(len(node))
        node = node.copy()
        while len(rest := np.flatnonzero(found < 0)):
            total[rest] += self.backoff[node[rest]]
            node[rest] = self.link[node[rest]]
            found[rest] = self._child(node[rest], word[rest])
        return found, total + self.logp[found]

    def model(self, words: Sequence[str], *, closed: bool = False) -> NGram:
        """Return the model, its words being those that the keys number."""
        nodes, inner = len(self.keys), self.levels[-2]
        if nodes >= 1 << 31:
            raise DataError(f"The language model has {nodes:,} entries; at most 2,147,483,646 can be held. Prune it.")
        first = np.searchsorted(self.keys, np.arange(inner + 1, dtype=np.int64) * self.size)
        after = np.arange(nodes)
        tells = np.zeros(nodes, bool)
        tells[:inner] = (np.diff(first) > 0) | (self.backoff[:inner] != 0)
        for low, high in zip(self.levels[1:-1], self.levels[2:], strict=True):
            mute = low + np.flatnonzero(~tells[low:high])
            after[mute] = after[self.link[mute]]
        word = (self.keys % self.size).astype(np.int32)
        word[0] = -1
        tables = Tables(
            first=first.astype(np.int32),
            word=word,
            logp=self.logp.astype(np.float32),
            next=after.astype(np.int32),
            backoff=self.backoff[:inner].astype(np.float32),
            link=after[self.link[:inner]].astype(np.int32),
        )
        return NGram(words, tables, self.levels, closed=closed)
