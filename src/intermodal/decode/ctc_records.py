"""The state of a CTC beam search: a few arrays of records, because compiled code pays for each array that it is handed."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]

NEVER = -math.inf
NOTHING = 40.0
"""A probability so many times e smaller than another is nothing beside it in float64."""
BLANK, LAST = 0, 1
"""The two kinds of path of a prefix: ending in a blank, or in the last symbol."""
STAY = -1
"""The symbol of a candidate that adds none and keeps both kinds of path; ``STAY - 1 - kind`` keeps one."""
UNKNOWN, FINE, FORBIDDEN = 0, 1, 2
"""What is known of a prefix's last word: not looked up yet, may end here, may not."""
LONG_WORD = 6
"""Letters from which on an unfinished word that none begins with loses more: pyctcdecode's rule."""


class Options(NamedTuple):
    """Numbers that stay the same through a search."""

    beam: int
    blank: int
    delimiter: int
    joint: bool
    viterbi: bool
    has_words: bool
    has_starts: bool
    closed: bool
    has_lm: bool
    unk: int
    end: int
    token_prune: float
    beam_prune: float
    lm_weight: float
    word_bonus: float
    oov: float
    oov_part: float


NODE = np.dtype(
    [
        ("parent", np.int32),
        ("token", np.int32),  # its last symbol; -1 at node 0, the empty prefix
        ("place", np.int32),  # where its unfinished word stands in the automaton; -1 where no word begins so
        ("length", np.int32),  # letters of its unfinished word
        ("state", np.int32),  # of the language model, after its finished words
        ("slot", np.int32),  # where it is in the beam; -1 for nowhere
        ("ended", np.int32),  # whether its last word may end here: UNKNOWN, FINE or FORBIDDEN
        ("ended_state", np.int32),  # this and the next two with ended_: as if it did
        ("language", np.float64),  # log-probability of its finished words
        ("bonus", np.float64),  # what they gained
        ("offset", np.float64),  # what its rank has beside the acoustic score
        ("ended_language", np.float64),
        ("ended_bonus", np.float64),
    ],
    align=True,
)
"""A prefix."""
SPOKEN = np.dtype(
    [
        ("before", np.int32),  # the symbol before; -1 for none
        ("first", np.int32),  # the frame in which this symbol begins
        ("last", np.int32),  # the last frame of the symbol before
        ("peak", np.float64),  # the highest log-probability that the symbol before has in its frames
    ],
    align=True,
)
"""A symbol of a best path."""
PATH = np.dtype(
    [
        ("total", np.float64),  # log-probability of all paths of this kind
        ("best", np.float64),  # of the best
        ("peak", np.float64),  # the highest log-probability of its last symbol in its frames
        ("trail", np.int32),  # its last symbol's place in the trail
        ("last", np.int32),  # the last frame of its last symbol
    ],
    align=True,
)
"""One kind of path of a prefix in the beam."""
STEP = np.dtype(
    [
        ("both", np.float64),  # the sum of the two kinds before this frame
        ("blank", np.float64),  # after it, the totals of the two kinds and the best paths
        ("last", np.float64),
        ("best_blank", np.float64),
        ("best_last", np.float64),
        ("better", np.int32),  # the kind of the best path before this frame
        ("child", np.int32),  # the first slot whose prefix is this one's with a symbol more; -1 for none
        ("sibling", np.int32),  # the next such
        ("origin", np.int32),  # the slot and the kind that the best path ending in the last symbol comes from
        ("origin_kind", np.int32),
        ("kept", np.int32),  # bits 1 << kind
    ],
    align=True,
)
"""What happens to a slot in one frame."""
SYMBOL = np.dtype(
    [
        ("allowed", np.float64),  # the log-probability; -inf if it is not tried
        ("listed", np.int32),  # the symbols that are tried, blank aside, one behind the other
        ("child", np.int32),  # the slot for which this symbol was marked as one that leads to a prefix of the beam
        ("edge", np.int32),  # the slot for which it was marked as an edge of the automaton
        ("goes", np.int32),  # where that edge leads
    ],
    align=True,
)
"""What a symbol is in one frame."""
CANDIDATE = np.dtype([("slot", np.int32), ("symbol", np.int32), ("goes", np.int32)], align=True)
"""What may be in the next beam: a slot's prefix with a symbol more."""
COUNTS = np.dtype([(name, np.int64) for name in ("nodes", "spoken", "slots", "half", "frame")])
"""How much of the arrays is in use, which half of the beam, and how many frames were read."""


class Search(NamedTuple):
    """A search's state."""

    tree: Array
    """NODE (N)."""
    table: Array
    """int32, a power of two, at least 2 N: the nodes hashed by parent and symbol; -1 for free places."""
    trail: Array
    """SPOKEN (M): has a symbol for each of its prefix's, delimiters included."""
    node: Array
    """int32 (2, B): the prefixes of the beam; the two halves take turns."""
    path: Array
    """PATH (2, B, 2): their two kinds of path."""
    step: Array
    """STEP (B)."""
    symbol: Array
    """SYMBOL (V)."""
    candidate: Array
    """CANDIDATE (C), C at least 2 B and one more."""
    order: Array
    """int32 (C): the candidates, a permutation."""
    rank: Array
    """float64 (C): the scores of the candidates in that order."""
    counts: Array
    """COUNTS (1)."""
