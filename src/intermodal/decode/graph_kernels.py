"""Compiled search for the best words through a network of states: token passing with a beam. Needs numba.

A token stands in a node of the network with a state of the language model; of tokens that share both, the better one stays
(Young, Russell & Thornton 1989). Where a word ends its token arrives at a *root*: a frame, a language model's state, and
whether there was a silence just before. Every arrival is kept as a *link*, so that the links are a lattice of words, from
which :func:`intermodal.decode.graph.paths` reads the best sequences.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from intermodal.core.errors import MissingExtraError
from intermodal.decode.ngram import Tables
from intermodal.decode.ngram_kernels import advance

try:
    from numba import njit
except ImportError as error:
    raise MissingExtraError("numba", "speech") from error

Array = np.ndarray[Any, Any]
Number = Any
EITHER, NO_SILENCE = 0, 1
"""What may follow a root: silence or a word, or (behind a silence) no further silence."""


class Nodes(NamedTuple):
    """A network of N nodes, each a state of a model, W words."""

    pdf: Array
    """int32 (N): which column of the log-likelihoods."""
    stay: Array
    """float64 (N): the log-probability of staying a further frame."""
    leave: Array
    """float64 (N): of going on."""
    child_first: Array
    """int32 (N + 1): the nodes behind node n are ``child[child_first[n] : child_first[n + 1]]``."""
    child: Array
    """int32."""
    word_first: Array
    """int32 (N + 1): the words that end with node n are ``word[word_first[n] : word_first[n + 1]]``."""
    word: Array
    """int32."""
    word_weight: Array
    """float64, beside ``word``: the log-probability of this way to say it, and what is added for the word."""
    entry: Array
    """int32: the nodes with which words begin."""
    look: Array
    """float64 (N): what the best word behind node n will bring at its end; used in pruning alone."""
    look_root: Number
    """float64: the same between two words."""
    silence: Number
    """int64: the first node of silence; -1 for none."""
    silence_last: Number
    """int64: its last node."""
    to_silence: Number
    """float64: the log-probability of silence between two words."""
    to_word: Number
    """float64: of none."""


class Lattice(NamedTuple):
    """What :func:`search` returns: roots and the links between them; each row of a link is one arrival."""

    root_frame: Array
    """int32: how many frames lie before the root."""
    root_score: Array
    """float64: of its best arrival."""
    root_language: Array
    """float64: the language model's share of it, unweighted."""
    link_word: Array
    """int32: -1 for silence, -2 for the end."""
    link_from: Array
    """int32: the root at which the word began."""
    link_to: Array
    """int32: at which it ended; -1 for the end."""
    link_score: Array
    """float64: of the best path that ends with it."""
    link_language: Array
    """float64: likewise."""


@njit(nogil=True, cache=True)
def _find(keys: Array, slots: Array, stamps: Array, stamp: Number, key: Number) -> Number:
    """Return the place in the table that holds a key, or the free one where it belongs."""
    mask = keys.shape[0] - 1
    mixed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    place = np.int64(mixed >> np.uint64(20)) & mask
    while stamps[place] == stamp and keys[place] != key:
        place = (place + 1) & mask
    return place


@njit(nogil=True, cache=True)
def _longer(values: Array) -> Array:
    out = np.empty(2 * values.shape[0], values.dtype)
    out[: values.shape[0]] = values
    return out


@njit(nogil=True, cache=True)
def search(  # noqa: PLR0917 - one loop over frames; compiled code takes its arrays one by one
    loglik_TP: Array,
    nodes: Nodes,
    tables: Tables,
    has_model: bool,
    model_start: Number,
    model_end: Number,
    model_word: Array,
    weight: float,
    beam: float,
    most: int,
    single: bool,
) -> Lattice:
    """Return the lattice of one utterance.

    Args:
        loglik_TP: float ``(T, P)``.
        nodes: the network.
        tables: of the language model, looked at where ``has_model``.
        has_model: whether there is one; without, all words are as likely.
        model_start: its state at the beginning.
        model_end: its word for the end.
        model_word: int32 (W): its number for each word of the network.
        weight: of its log-probabilities.
        beam: tokens so far below the best are dropped.
        most: so many tokens are kept at most.
        single: exactly one word is said.
    """
    frames, size = loglik_TP.shape[0], np.int64(nodes.pdf.shape[0])
    # tokens of this frame and of the next
    room = 1024
    node, state, root = np.empty(room, np.int32), np.empty(room, np.int32), np.empty(room, np.int32)
    score, language = np.empty(room), np.empty(room)
    node2, state2, root2 = np.empty(room, np.int32), np.empty(room, np.int32), np.empty(room, np.int32)
    score2, language2 = np.empty(room), np.empty(room)
    count = 0
    # the table that finds a token (or a root) by node and state
    keys, slots = np.empty(4096, np.int64), np.empty(4096, np.int32)
    stamps, stamp = np.zeros(4096, np.int64), 0
    # the lattice
    root_frame, root_state, root_kind = np.empty(1024, np.int32), np.empty(1024, np.int32), np.empty(1024, np.int8)
    root_score, root_language = np.empty(1024), np.empty(1024)
    link_word, link_from, link_to = np.empty(1024, np.int32), np.empty(1024, np.int32), np.empty(1024, np.int32)
    link_score, link_language = np.empty(1024), np.empty(1024)
    links = 0
    root_frame[0], root_state[0], root_kind[0] = 0, model_start if has_model else 0, EITHER
    root_score[0] = root_language[0] = 0.0
    roots, fresh = 1, 0  # roots fresh .. roots - 1 are of this frame
    top = 0.0  # the best rank of the frame before
    for t in range(frames + 1):
        # words and silences that end here
        if t > 0:
            fresh = roots
            stamp += 1
            for i in range(count):
                n = node[i]
                ends = nodes.word_first[n + 1] - nodes.word_first[n]
                quiet = n == nodes.silence_last
                for j in range(ends + (1 if quiet else 0)):
                    gone = score[i] + nodes.leave[n]
                    lang, after, word, kind = language[i], np.int64(state[i]), -1, NO_SILENCE
                    if j < ends:
                        k = nodes.word_first[n] + j
                        word, kind = nodes.word[k], EITHER
                        gone += nodes.word_weight[k]
                        if has_model:
                            after2, logp = advance(tables, np.int32(state[i]), model_word[word])
                            after = np.int64(after2)
                            gone += weight * logp
                            lang += logp
                        else:
                            after = np.int64(word + 1) if single else np.int64(0)
                    if t < frames and gone + nodes.look_root < top - beam:
                        continue
                    if links == link_word.shape[0]:
                        link_word, link_from, link_to = _longer(link_word), _longer(link_from), _longer(link_to)
                        link_score, link_language = _longer(link_score), _longer(link_language)
                    place = _find(keys, slots, stamps, stamp, after * 2 + kind)
                    if stamps[place] != stamp:
                        if roots == root_frame.shape[0]:
                            root_frame, root_state, root_kind = (
                                _longer(root_frame),
                                _longer(root_state),
                                _longer(root_kind),
                            )
                            root_score, root_language = _longer(root_score), _longer(root_language)
                        stamps[place], keys[place], slots[place] = stamp, after * 2 + kind, roots
                        root_frame[roots], root_state[roots], root_kind[roots] = t, after, kind
                        root_score[roots] = -np.inf
                        roots += 1
                        if 2 * (roots - fresh) > keys.shape[0]:
                            keys, slots = np.empty(2 * keys.shape[0], np.int64), np.empty(2 * keys.shape[0], np.int32)
                            stamps = np.zeros(keys.shape[0], np.int64)
                            for r in range(fresh, roots):
                                key = np.int64(root_state[r]) * 2 + root_kind[r]
                                again = _find(keys, slots, stamps, stamp, key)
                                stamps[again], keys[again], slots[again] = stamp, key, r
                            place = _find(keys, slots, stamps, stamp, after * 2 + kind)
                    r = slots[place]
                    link_word[links], link_from[links], link_to[links] = word, root[i], r
                    link_score[links], link_language[links] = gone, lang
                    links += 1
                    if gone > root_score[r]:
                        root_score[r], root_language[r] = gone, lang
        if t == frames:
            break
        # one frame on: tokens stay, go on inside a word, or begin one
        stamp += 1
        count2 = 0
        for source in range(count + roots - fresh):
            in_word = source < count
            r = fresh + source - count
            if in_word:
                n = node[source]
                steps = 1 + nodes.child_first[n + 1] - nodes.child_first[n]
                now, lang, at, origin = score[source], language[source], np.int64(state[source]), root[source]
            else:
                silent = 1 if nodes.silence >= 0 and root_kind[r] == EITHER else 0
                full = single and root_state[r] > 0
                steps = silent + (0 if full else nodes.entry.shape[0])
                now, lang, at, origin = root_score[r], root_language[r], np.int64(root_state[r]), r
                n = 0
            for j in range(steps):
                if in_word:
                    target = n if j == 0 else nodes.child[nodes.child_first[n] + j - 1]
                    moved = now + (nodes.stay[n] if j == 0 else nodes.leave[n])
                elif j < silent:
                    target, moved = nodes.silence, now + nodes.to_silence
                else:
                    target, moved = nodes.entry[j - silent], now + (nodes.to_word if silent else 0.0)
                moved += loglik_TP[t, nodes.pdf[target]]
                key = at * size + target
                place = _find(keys, slots, stamps, stamp, key)
                if stamps[place] != stamp:
                    if count2 == node2.shape[0]:
                        node2, state2, root2 = _longer(node2), _longer(state2), _longer(root2)
                        score2, language2 = _longer(score2), _longer(language2)
                    if 2 * (count2 + 1) > keys.shape[0]:
                        keys, slots = np.empty(2 * keys.shape[0], np.int64), np.empty(2 * keys.shape[0], np.int32)
                        stamps = np.zeros(keys.shape[0], np.int64)
                        for c in range(count2):
                            again = _find(keys, slots, stamps, stamp, np.int64(state2[c]) * size + node2[c])
                            stamps[again], keys[again] = stamp, np.int64(state2[c]) * size + node2[c]
                            slots[again] = c
                        place = _find(keys, slots, stamps, stamp, key)
                    stamps[place], keys[place], slots[place] = stamp, key, count2
                    node2[count2], state2[count2], score2[count2] = target, at, -np.inf
                    count2 += 1
                c = slots[place]
                if moved > score2[c]:
                    score2[c], language2[c], root2[c] = moved, lang, origin
        # the beam
        top = -np.inf
        ranks = np.empty(count2)
        for c in range(count2):
            ranks[c] = score2[c] + nodes.look[node2[c]]
            top = max(top, ranks[c])
        limit = top - beam
        if count2 > most:
            limit = max(limit, np.partition(ranks, count2 - most)[count2 - most])
        if node.shape[0] < node2.shape[0]:
            room = node2.shape[0]
            node, state, root = np.empty(room, np.int32), np.empty(room, np.int32), np.empty(room, np.int32)
            score, language = np.empty(room), np.empty(room)
        count = 0
        for c in range(count2):
            if ranks[c] >= limit and score2[c] > -np.inf:
                node[count], state[count], root[count] = node2[c], state2[c], root2[c]
                score[count], language[count] = score2[c], language2[c]
                count += 1
    # the end
    for r in range(fresh, roots):
        if single and root_state[r] == 0:
            continue
        whole, lang = root_score[r], root_language[r]
        if root_kind[r] == EITHER and nodes.silence >= 0:
            whole += nodes.to_word
        if has_model:
            _, logp = advance(tables, root_state[r], model_end)
            whole, lang = whole + weight * logp, lang + logp
        if links == link_word.shape[0]:
            link_word, link_from, link_to = _longer(link_word), _longer(link_from), _longer(link_to)
            link_score, link_language = _longer(link_score), _longer(link_language)
        link_word[links], link_from[links], link_to[links] = -2, r, -1
        link_score[links], link_language[links] = whole, lang
        links += 1
    return Lattice(
        root_frame[:roots],
        root_score[:roots],
        root_language[:roots],
        link_word[:links],
        link_from[:links],
        link_to[:links],
        link_score[:links],
        link_language[:links],
    )
