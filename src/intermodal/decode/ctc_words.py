"""The words that a decoder knows, as an automaton over its symbols: one tree for vocabulary, lexicon and hot words.

The nodes are the beginnings of words, letter by letter; an edge is a symbol, of one letter or (BPE) of several. Each node
says which word ends there, whether it may, and what a hypothesis in it is worth before the word is whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from intermodal.core.errors import DataError

Array = np.ndarray[Any, Any]

WORD_START = "▁"
"""How SentencePiece writes the space before a word."""


class Alphabet(NamedTuple):
    """A network's symbols, as a decoder reads them.

    Attributes:
        symbols: as the network has them.
        blank: which of them says nothing.
        delimiter: which of them ends a word; -1 where words are told by their first symbol instead.
        starts: bool (V): symbols that begin a word.
        letters: what each symbol writes, without marks of word starts.
    """

    symbols: tuple[str, ...]
    blank: int
    delimiter: int
    starts: Array
    letters: tuple[str, ...]

    @classmethod
    def of(cls, symbols: Sequence[str], blank: int, word_delimiter: str | None) -> Alphabet:
        """Read the symbols: words end at ``word_delimiter`` if it is one, begin at "▁" if any symbol has it, or are symbols.

        Raises:
            DataError: if the blank is no symbol, or a symbol stands twice or is empty.
        """
        symbols = tuple(symbols)
        if not 0 <= blank < len(symbols):
            raise DataError(f"The blank is symbol {blank}, but there are {len(symbols)} symbols.")
        spoken = [s for i, s in enumerate(symbols) if i != blank]
        if len(set(spoken)) != len(spoken) or "" in spoken:
            twice = sorted({s for s in spoken if s == "" or spoken.count(s) > 1})
            raise DataError(f"Each symbol must be named once and not be empty, found {twice[0]!r} otherwise.")
        delimiter = symbols.index(word_delimiter) if word_delimiter in spoken else -1
        pieces = delimiter < 0 and any(s.startswith(WORD_START) for s in spoken)
        begins = [
            i != blank and delimiter < 0 and (not pieces or s.startswith(WORD_START)) for i, s in enumerate(symbols)
        ]
        letters = [
            "" if i in (blank, delimiter) else s.removeprefix(WORD_START) if pieces else s
            for i, s in enumerate(symbols)
        ]
        return cls(symbols, blank, delimiter, np.array(begins), tuple(letters))

    def words(self, tokens: Iterable[int]) -> list[list[int]]:
        """Return the places of the tokens that make up each word."""
        groups: list[list[int]] = []
        fresh = True
        for place, token in enumerate(tokens):
            if token == self.delimiter:
                fresh = True
                continue
            if fresh or self.starts[token]:
                groups.append([])
            groups[-1].append(place)
            fresh = False
        return groups


NODE = np.dtype(
    [
        ("first", np.int32),  # its edges are those from here
        ("stop", np.int32),  # to before here
        ("word", np.int32),  # the language model's number of the word that ends here; -1 for none that it knows
        ("allowed", np.int32),  # whether a word of the lexicon ends here
        ("bonus", np.float64),  # what a word that ends here gains by being hot
        ("credit", np.float64),  # what a hypothesis is worth that stands here: part of a hot word's bonus
    ],
    align=True,
)
"""A beginning of words."""
EDGE = np.dtype([("symbol", np.int32), ("next", np.int32)], align=True)
"""A symbol that leads from one beginning to another."""
SYMBOL = np.dtype([("from_root", np.int32), ("letters", np.int32), ("starts", np.int32)], align=True)
"""Where a symbol leads from the empty beginning (-1 for nowhere), how many letters it writes, whether it begins a word."""


class Words(NamedTuple):
    """The automaton, as compiled code reads it."""

    nodes: Array
    """NODE (N); node 0 is the empty beginning."""
    edges: Array
    """EDGE."""
    symbols: Array
    """SYMBOL (V)."""


def build_words(
    alphabet: Alphabet,
    numbers: dict[str, int],
    lexicon: frozenset[str] | None,
    hot_words: frozenset[str],
    hot_weight: float,
) -> Words:
    """Return the automaton.

    Args:
        alphabet: the symbols.
        numbers: the words of the language model, with their numbers; those that the alphabet cannot spell are left out.
        lexicon: the only words that may occur, hot words aside; None for any.
        hot_words: those with a bonus.
        hot_weight: the bonus. Part of a hot word is worth as large a part of it, measured on the shortest hot word that
            begins so.
    """
    letters = set("".join(alphabet.letters))
    known = set(numbers) if lexicon is None else lexicon
    words = sorted(w for w in known | hot_words if w and letters.issuperset(w))
    pieces: dict[str, list[int]] = {}
    for symbol, text in enumerate(alphabet.letters):
        if text:
            pieces.setdefault(text, []).append(symbol)
    longest = max(map(len, pieces), default=1)
    edges: list[tuple[int, int, int]] = []
    ends, depths = [""], [0]
    shortest_hot = [0]
    root_loops = [i for i, s in enumerate(alphabet.letters) if not s and i not in (alphabet.blank, alphabet.delimiter)]
    edges += [(0, symbol, 0) for symbol in root_loops]
    path, before = [0], ""
    for word in words:
        shared = 0
        while shared < min(len(word), len(before)) and word[shared] == before[shared]:
            shared += 1
        del path[shared + 1 :]
        for depth in range(shared + 1, len(word) + 1):
            node = len(ends)
            ends.append("")
            depths.append(depth)
            shortest_hot.append(0)
            path.append(node)
            for size in range(1, min(longest, depth) + 1):
                for symbol in pieces.get(word[depth - size : depth], ()):
                    if size == depth or not alphabet.starts[symbol]:
                        edges.append((path[depth - size], symbol, node))
        ends[path[-1]] = word
        if word in hot_words:
            for node in path[1:]:
                shortest_hot[node] = min(shortest_hot[node] or len(word), len(word))
        before = word
    table = np.array(sorted(edges), np.int32).reshape(-1, 3)
    bounds = np.searchsorted(table[:, 0], np.arange(len(ends) + 1))
    nodes, out, symbols = np.zeros(len(ends), NODE), np.zeros(len(table), EDGE), np.zeros(len(alphabet.symbols), SYMBOL)
    nodes["first"], nodes["stop"] = bounds[:-1], bounds[1:]
    nodes["word"] = [numbers.get(word, -1) if word else -1 for word in ends]
    nodes["allowed"] = [bool(w) and (lexicon is None or w in lexicon or w in hot_words) for w in ends]
    nodes["bonus"] = [hot_weight * (word in hot_words) for word in ends]
    shortest = np.array(shortest_hot)
    nodes["credit"] = np.where(shortest > 0, hot_weight * np.array(depths) / np.maximum(shortest, 1), 0.0)
    out["symbol"], out["next"] = table[:, 1], table[:, 2]
    symbols["from_root"] = -1
    symbols["from_root"][table[: bounds[1], 1]] = table[: bounds[1], 2]
    symbols["letters"] = [len(s) for s in alphabet.letters]
    symbols["starts"] = alphabet.starts
    return Words(nodes, out, symbols)
