"""Compiled walking of an n-gram model: one word further, backing off where a context was never met. Needs numba.

Other compiled code calls :func:`advance` with the model's :class:`~intermodal.decode.ngram.Tables` and a state, which is
a number: two histories with the same state get the same probabilities from there on.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from intermodal.core.errors import MissingExtraError
from intermodal.decode.ngram import Tables

try:
    from numba import njit
except ImportError as error:
    raise MissingExtraError("numba", "speech") from error

Array = np.ndarray[Any, Any]
Number = Any
"""A scalar of compiled code: an integer of fixed size, or a float."""


@njit(nogil=True, cache=True)
def advance(tables: Tables, state: Number, word: Number) -> tuple[Number, Number]:
    """Return the state after a word and the word's log probability.

    Args:
        tables: of an :class:`~intermodal.decode.ngram.NGram`.
        state: int32, what stands before the word; 0 for nothing at all, ``NGram.start_state`` for a sentence's start.
        word: int32, from 0 to the number of words less 1.

    Returns:
        The new state (int32) and ln p(word | state) (float32); Katz (1987), equation 6: the weights of the contexts that
        had to be shortened are added on the way.
    """
    total: Number = np.float32(0.0)
    while state > 0:
        low, high = tables.first[state], tables.first[state + 1]
        end = high
        while low < high:
            middle = (low + high) >> 1
            if tables.word[middle] < word:
                low = middle + 1
            else:
                high = middle
        if low < end and tables.word[low] == word:
            return tables.next[low], total + tables.logp[low]
        total += tables.backoff[state]
        state = tables.link[state]
    return tables.next[word + 1], total + tables.logp[word + 1]


@njit(nogil=True, cache=True)
def score_each(tables: Tables, ids: Array, state: Number, out: Array) -> Number:
    """Write each word's log probability to ``out`` (float32) and return the last state."""
    for i in range(len(ids)):
        state, out[i] = advance(tables, state, ids[i])
    return state


@njit(nogil=True, cache=True)
def score_sentences(  # noqa: PLR0917 - compiled code takes its arrays one by one
    tables: Tables, ids: Array, state: Number, end: Number, unknown: Number, out: Array, lost: Array, misses: Array
) -> None:
    """Write the log probability of each sentence to ``out``, and what unknown words have of it.

    Args:
        tables: of the model.
        ids: int32, the words of all sentences, with -1 behind each sentence.
        state: in which each begins.
        end: the word that closes each, or -1 for none.
        unknown: the number of unknown words.
        out: float64, one place a sentence.
        lost: float64, the unknown words' part.
        misses: int64, how many unknown words there are.
    """
    here, total, part, sentence, missed = state, 0.0, 0.0, 0, 0
    for i in range(len(ids)):
        word = ids[i]
        if word < 0:
            if end >= 0:
                here, logp = advance(tables, here, end)
                total += logp
            out[sentence], lost[sentence], misses[sentence] = total, part, missed
            here, total, part, missed = state, 0.0, 0.0, 0
            sentence += 1
            continue
        here, logp = advance(tables, here, word)
        total += logp
        if word == unknown:
            part += logp
            missed += 1
