"""The compiled prefix beam search over CTC emissions (Hannun et al. 2014; Graves & Jaitly 2014). Needs numba.

A hypothesis is a prefix: a node of a tree. A prefix in the beam has a slot and two kinds of path, with what was heard so
far: those that end in a blank and those that end in the prefix's last symbol. With either goes the best single path, whose
symbols stand in the trail with their times. Only prefixes that enter the beam get a node; one that left it and comes back
finds its node again, so that its descendants stay its own.

The file is longer than 400 lines because the search has to be compiled as one.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from intermodal.core.errors import MissingExtraError
from intermodal.decode.ctc_records import (
    BLANK,
    FINE,
    FORBIDDEN,
    LAST,
    LONG_WORD,
    NEVER,
    NOTHING,
    STAY,
    UNKNOWN,
    Options,
    Search,
)
from intermodal.decode.ctc_words import Words
from intermodal.decode.ngram import Tables
from intermodal.decode.ngram_kernels import advance

try:
    from numba import njit
except ImportError as error:
    raise MissingExtraError("numba", "speech") from error

Array = np.ndarray[Any, Any]
Number = Any
"""A scalar of compiled code: an integer of fixed size, a boolean or a float."""


@njit(nogil=True, cache=True, inline="always")
def _join(a: Number, b: Number, viterbi: Number) -> Number:
    """Return the log of the sum of two probabilities, or of the larger."""
    high, low = (a, b) if a >= b else (b, a)
    if viterbi or not low > high - NOTHING:
        return high
    return high + math.log1p(math.exp(low - high))


@njit(nogil=True, cache=True)
def begin(search: Search, state: Number) -> None:
    """Set the search to its start: the empty prefix, with probability one."""
    search.table[:] = -1
    root, counts = search.tree[0], search.counts[0]
    root.parent, root.token, root.place, root.length = -1, -1, 0, 0
    root.state, root.ended, root.slot = state, UNKNOWN, 0
    root.language, root.bonus, root.offset = 0.0, 0.0, 0.0
    search.node[0, 0] = 0
    for kind in range(2):
        path = search.path[0, 0, kind]
        path.total = path.best = 0.0 if kind == BLANK else NEVER
        path.trail, path.last, path.peak = -1, -1, 0.0
    for i in range(len(search.order)):
        search.order[i] = i
    counts.nodes, counts.spoken, counts.slots, counts.half, counts.frame = 1, 0, 1, 0, 0


@njit(nogil=True, cache=True)
def _end_word(node: Any, words: Words, lm: Tables, options: Options) -> Number:
    """Find out once what a prefix is worth if its last word ends here; return FINE or FORBIDDEN."""
    if node.ended != UNKNOWN:
        return node.ended
    state, language, bonus = node.state, node.language, node.bonus
    verdict = FINE
    if node.length > 0:
        bonus += options.word_bonus
        word = np.int32(-1)
        if options.has_words and node.place >= 0:
            word = words.nodes[node.place].word
            bonus += words.nodes[node.place].bonus
        if options.closed and (node.place < 0 or not words.nodes[node.place].allowed):
            verdict = FORBIDDEN
        elif options.has_lm:
            if word < 0:
                word = np.int32(options.unk)
                language += options.oov
            state, logp = advance(lm, np.int32(state), word)
            language += np.float64(logp)
    node.ended, node.ended_state = verdict, state
    node.ended_language, node.ended_bonus = language, bonus
    return verdict


@njit(nogil=True, cache=True, inline="always")
def _part(place: Number, length: Number, nodes: Any, options: Options) -> Number:
    """Return what an unfinished word is worth: part of a hot word's bonus, or less than nothing if no word begins so."""
    if length == 0 or not options.has_words:
        return 0.0
    if place >= 0:
        return nodes[place].credit
    return options.oov_part * max(1.0, length / LONG_WORD)


@njit(nogil=True, cache=True)
def _keep_best(rank: Array, order: Array, size: Number, keep: Number) -> None:
    """Bring the ``keep`` best of ``size`` candidates to the front, in no order (Hoare's selection)."""
    low, high = 0, size - 1
    while low < high:
        pivot = rank[(low + high) >> 1]
        i, j = low, high
        while i <= j:
            while rank[i] > pivot:
                i += 1
            while rank[j] < pivot:
                j -= 1
            if i <= j:
                rank[i], rank[j] = rank[j], rank[i]
                order[i], order[j] = order[j], order[i]
                i += 1
                j -= 1
        if keep - 1 <= j:
            high = j
        elif keep - 1 >= i:
            low = i
        else:
            return


@njit(nogil=True, cache=True, inline="always")
def _find(table: Array, tree: Array, parent: Number, token: Number) -> Number:
    """Return the place of the table in which a prefix's child stands, or the free one in which it belongs."""
    mask = len(table) - 1
    code = (np.uint64(parent) * np.uint64(0x9E3779B97F4A7C15)) ^ (np.uint64(token) * np.uint64(0xC2B2AE3D27D4EB4F))
    place = np.int64((code ^ (code >> np.uint64(29))) & np.uint64(mask))
    while table[place] >= 0 and (tree[table[place]].parent != parent or tree[table[place]].token != token):
        place = (place + 1) & mask
    return place


@njit(nogil=True, cache=True)
def _choose_symbols(row: Array, least: Number, symbols: Array, blank: Number) -> Number:
    """Note the symbols of a frame that are tried: those above ``least``, and the best; return how many, blank aside."""
    best, size = 0, 0
    for v in range(1, len(row)):
        if row[v] > row[best]:
            best = v
    for v in range(len(row)):
        tried = (v == best or row[v] >= least) and row[v] > NEVER
        symbols[v].allowed = row[v] if tried else NEVER
        symbols[v].child = symbols[v].edge = -1
        if tried and v != blank:
            symbols[size].listed = v
            size += 1
    return size


@njit(nogil=True, cache=True)
def _stay(search: Search, options: Options) -> None:
    """Work out what the beam's prefixes are worth after this frame: by staying, and by way of prefixes a symbol shorter."""
    tree, steps, symbols, viterbi = search.tree, search.step, search.symbol, options.viterbi
    half, slots = search.counts[0].half, search.counts[0].slots
    nodes, paths = search.node[half], search.path[half]
    for i in range(slots):
        steps[i].both = _join(paths[i, BLANK].total, paths[i, LAST].total, viterbi)
        steps[i].better = LAST if paths[i, LAST].best > paths[i, BLANK].best else BLANK
        steps[i].child, steps[i].kept = -1, 0
    blank = symbols[options.blank].allowed
    for i in range(slots):
        node, step = tree[nodes[i]], steps[i]
        token = node.token
        heard = symbols[token].allowed if token >= 0 else NEVER
        step.blank, step.best_blank = step.both + blank, paths[i, step.better].best + blank
        step.origin, step.origin_kind = i, LAST
        if options.delimiter >= 0 and node.length == 0:  # more of the delimiter is the same text
            heard = symbols[options.delimiter].allowed
            step.last, step.best_last, step.origin_kind = (
                step.both + heard,
                paths[i, step.better].best + heard,
                step.better,
            )
        else:
            step.last, step.best_last = paths[i, LAST].total + heard, paths[i, LAST].best + heard
        if token < 0:
            continue
        parent = tree[node.parent]
        j = parent.slot
        if j < 0:
            continue
        step.sibling, steps[j].child = steps[j].child, i
        # --8<-- [start:repeat]
        if parent.token == token:  # said twice in a row: only over a blank
            before, kind = paths[j, BLANK].total, BLANK
        else:
            before, kind = steps[j].both, steps[j].better
        heard = symbols[token].allowed
        step.last = _join(step.last, before + heard, viterbi)
        if paths[j, kind].best + heard > step.best_last:
            step.best_last, step.origin, step.origin_kind = paths[j, kind].best + heard, j, kind
        # --8<-- [end:repeat]


@njit(nogil=True, cache=True)
def _candidates(listed: Number, search: Search, words: Words, lm: Tables, options: Options) -> Number:
    """List what may be in the next beam and return how many; the best are in front, at most a beam."""
    tree, steps, symbols = search.tree, search.step, search.symbol
    candidates, order, rank = search.candidate, search.order, search.rank
    places, edges, marks = words.nodes, words.edges, words.symbols
    half, slots = search.counts[0].half, search.counts[0].slots
    nodes, paths = search.node[half], search.path[half]
    has_words, closed, delimiter, lm_weight = options.has_words, options.closed, options.delimiter, options.lm_weight
    beam, prune = options.beam, options.beam_prune
    best, size = NEVER, 0
    # Prefixes that stay come first, so that the threshold is high when the many longer ones come.
    for i in range(slots):
        step, offset = steps[i], tree[nodes[i]].offset
        for kind in range(1 if options.joint else 2):
            if options.joint:
                score = _join(step.blank, step.last, options.viterbi) + offset
            else:
                score = (step.blank if kind == BLANK else step.last) + offset
            if score > NEVER:
                candidate = candidates[order[size]]
                candidate.slot, candidate.symbol = i, STAY if options.joint else STAY - 1 - kind
                rank[size] = score
                size += 1
                best = max(best, score)
    least = best + prune
    for i in range(slots):
        node = tree[nodes[i]]
        place, length, token, both = node.place, node.length, node.token, steps[i].both
        k = steps[i].child
        while k >= 0:
            symbols[tree[nodes[k]].token].child = i
            k = steps[k].sibling
        going_on = lm_weight * node.language + node.bonus
        ending = NEVER
        if length > 0 and (delimiter >= 0 or options.has_starts) and _end_word(node, words, lm, options) == FINE:
            ending = lm_weight * node.ended_language + node.ended_bonus
        if has_words and place >= 0:
            for e in range(places[place].first, places[place].stop):
                symbol = symbols[edges[e].symbol]
                symbol.edge, symbol.goes = i, edges[e].next
        for k in range(listed):
            s = symbols[k].listed
            symbol = symbols[s]
            if symbol.child == i:
                continue
            goes = np.int32(0)
            score = (paths[i, BLANK].total if s == token else both) + symbol.allowed
            if s == delimiter:
                if length == 0:
                    continue
                score += ending
            else:
                starts = length > 0 and marks[s].starts
                if has_words:
                    goes = symbol.goes if symbol.edge == i else np.int32(-1)
                    if starts:
                        goes = marks[s].from_root
                    if closed and goes < 0:
                        continue
                    score += _part(goes, marks[s].letters + (0 if starts else length), places, options)
                score += ending if starts else going_on
            if score < least or score == NEVER:
                continue
            if size == len(rank):
                _keep_best(rank, order, size, beam)
                size = beam
                least = max(rank[:beam].min(), best + prune)
                if score < least:
                    continue
            candidate = candidates[order[size]]
            candidate.slot, candidate.symbol, candidate.goes = i, s, goes
            rank[size] = score
            size += 1
            if score > best:
                best = score
                least = max(least, best + prune)
    kept = 0
    for c in range(size):
        if rank[c] >= best + prune:
            rank[kept], rank[c] = rank[c], rank[kept]
            order[kept], order[c] = order[c], order[kept]
            kept += 1
    if kept > beam:
        _keep_best(rank, order, kept, beam)
        kept = beam
    return kept


@njit(nogil=True, cache=True, inline="always")
def _speak(trail: Array, counts: Any, before: Any, path: Any, heard: Number) -> None:
    """Let a path begin its last symbol in this frame, after another path."""
    spoken = trail[counts.spoken]
    spoken.before, spoken.first, spoken.last, spoken.peak = before.trail, counts.frame, before.last, before.peak
    path.trail, path.last, path.peak = counts.spoken, counts.frame, heard
    counts.spoken += 1


@njit(nogil=True, cache=True)
def _next_beam(kept: Number, search: Search, words: Words, options: Options) -> None:
    """Make the next beam of the candidates."""
    tree, table, trail, steps, symbols = search.tree, search.table, search.trail, search.step, search.symbol
    candidates, order, counts, marks = search.candidate, search.order, search.counts[0], words.symbols
    half, slots = counts.half, counts.slots
    nodes, paths, new_nodes, new_paths = (
        search.node[half],
        search.path[half],
        search.node[1 - half],
        search.path[1 - half],
    )
    for i in range(slots):
        tree[nodes[i]].slot = -1
    for c in range(kept):
        candidate = candidates[order[c]]
        if candidate.symbol < 0:
            steps[candidate.slot].kept |= 3 if candidate.symbol == STAY else 1 << (STAY - 1 - candidate.symbol)
    new = 0
    for i in range(slots):
        step = steps[i]
        if not step.kept:
            continue
        node = tree[nodes[i]]
        new_nodes[new], node.slot = nodes[i], new
        path, before = new_paths[new, BLANK], paths[i, step.better]
        path.total = step.blank if step.kept & 1 else NEVER
        path.best = step.best_blank if step.kept & 1 else NEVER
        path.trail, path.last, path.peak = before.trail, before.last, before.peak
        path, before = new_paths[new, LAST], paths[step.origin, step.origin_kind]
        path.total = step.last if step.kept & 2 else NEVER
        path.best = step.best_last if step.kept & 2 else NEVER
        if path.best > NEVER:
            heard = symbols[node.token].allowed if node.token >= 0 else 0.0
            if step.origin != i:
                _speak(trail, counts, before, path, heard)
            else:
                path.trail, path.last, path.peak = before.trail, counts.frame, max(before.peak, heard)
        new += 1
    for c in range(kept):
        candidate = candidates[order[c]]
        symbol, i = candidate.symbol, candidate.slot
        if symbol < 0:
            continue
        parent = tree[nodes[i]]
        place = _find(table, tree, nodes[i], symbol)
        if table[place] < 0:
            table[place] = counts.nodes
            node = tree[counts.nodes]
            counts.nodes += 1
            ends = parent.length > 0 and (symbol == options.delimiter or marks[symbol].starts)
            node.parent, node.token, node.place, node.ended = nodes[i], symbol, candidate.goes, UNKNOWN
            node.length = marks[symbol].letters + (0 if ends else parent.length)
            node.state = parent.ended_state if ends else parent.state
            node.language = parent.ended_language if ends else parent.language
            node.bonus = parent.ended_bonus if ends else parent.bonus
            part = _part(node.place, node.length, words.nodes, options)
            node.offset = options.lm_weight * node.language + node.bonus + part
        new_nodes[new] = table[place]
        tree[table[place]].slot = new
        path = new_paths[new, BLANK]
        path.total = path.best = NEVER
        path.trail, path.last, path.peak = -1, -1, 0.0
        heard = symbols[symbol].allowed
        repeated = symbol == parent.token
        before, path = paths[i, BLANK if repeated else steps[i].better], new_paths[new, LAST]
        path.total = (before.total if repeated else steps[i].both) + heard
        path.best = before.best + heard
        _speak(trail, counts, before, path, heard)
        new += 1
    counts.slots, counts.half = new, 1 - half


@njit(nogil=True, cache=True)
def read(  # noqa: PLR0917 - compiled code takes its arrays one by one
    logp_TV: Array, start: Number, search: Search, words: Words, lm: Tables, options: Options
) -> Number:
    """Read frames from ``start`` on; return how many are read, fewer than there are if the tree or the trail is full."""
    counts = search.counts[0]
    for t in range(start, len(logp_TV)):
        if counts.nodes + options.beam > len(search.tree) or counts.spoken + options.beam > len(search.trail):
            return t
        kept = 0
        for least in (options.token_prune, NEVER):
            listed = _choose_symbols(logp_TV[t], least, search.symbol, options.blank)
            _stay(search, options)
            kept = _candidates(listed, search, words, lm, options)
            if kept > 0:
                break
            # The likely symbols lead to no word of the lexicon, and the blank is not among them: try all symbols.
        if kept > 0:
            _next_beam(kept, search, words, options)
        # Otherwise the frame gives a probability of zero to all that the beam could say; it is passed over.
        counts.frame += 1
    return len(logp_TV)


@njit(nogil=True, cache=True)
def compact(search: Search) -> None:
    """Drop the prefixes and symbols that nothing in the beam descends from, and fill the table of children anew."""
    tree, trail, table, counts = search.tree, search.trail, search.table, search.counts[0]
    nodes, paths = search.node[counts.half], search.path[counts.half]
    number = np.full(counts.nodes, -1, np.int32)
    for i in range(counts.slots):
        n = nodes[i]
        while n >= 0 and number[n] < 0:
            number[n] = 0
            n = tree[n].parent
    used = 0
    for n in range(counts.nodes):  # what comes before has the smaller number
        if number[n] == 0:
            number[n] = used
            tree[used] = tree[n]
            if used > 0:
                tree[used].parent = number[tree[used].parent]
            used += 1
    for i in range(counts.slots):
        nodes[i] = number[nodes[i]]
    counts.nodes = used
    number = np.full(counts.spoken, -1, np.int32)
    for i in range(counts.slots):
        for kind in range(2):
            n = paths[i, kind].trail
            while n >= 0 and number[n] < 0:
                number[n] = 0
                n = trail[n].before
    used = 0
    for n in range(counts.spoken):
        if number[n] == 0:
            number[n] = used
            trail[used] = trail[n]
            if trail[used].before >= 0:
                trail[used].before = number[trail[used].before]
            used += 1
    for i in range(counts.slots):
        for kind in range(2):
            if paths[i, kind].trail >= 0:
                paths[i, kind].trail = number[paths[i, kind].trail]
    counts.spoken = used
    table[:] = -1
    for n in range(1, counts.nodes):
        table[_find(table, tree, tree[n].parent, tree[n].token)] = n


@njit(nogil=True, cache=True)
def finish(  # noqa: PLR0917 - compiled code takes its arrays one by one
    search: Search, words: Words, lm: Tables, options: Options, final: Number, scores: Array, chosen: Array
) -> Number:
    """Score the beam's texts as they stand and return how many there are.

    Args:
        search: the state.
        words: of the search, as the two that follow.
        lm: likewise.
        options: likewise.
        final: whether the recording is over: the last word and the sentence end.
        scores: float64 ``(B, 4)``, written: rank, acoustic, language, bonus.
        chosen: int32 ``(B, 2)``, written: the slot and the kind of the text's best path.

    A prefix that ends in the delimiter has the same text as the one without; they are taken together.
    """
    tree, counts = search.tree, search.counts[0]
    nodes, paths, size = search.node[counts.half], search.path[counts.half], 0
    group = np.full(counts.slots, -1, np.int32)
    any_whole = False
    if final:
        for i in range(counts.slots):
            if _end_word(tree[nodes[i]], words, lm, options) == FINE:
                any_whole = True
    for turn in range(2):
        for i in range(counts.slots):
            node = tree[nodes[i]]
            other = -1
            if options.delimiter >= 0 and node.token == options.delimiter:
                other = tree[node.parent].slot
            if (other >= 0) != (turn == 1) or (any_whole and node.ended == FORBIDDEN):
                continue
            kind = LAST if paths[i, LAST].best > paths[i, BLANK].best else BLANK
            heard = _join(paths[i, BLANK].total, paths[i, LAST].total, options.viterbi)
            if other >= 0 and group[other] >= 0:
                g = group[other]
                joined = _join(scores[g, 1], heard, options.viterbi)
                scores[g, 0] += joined - scores[g, 1]
                scores[g, 1] = joined
                if paths[i, kind].best > paths[chosen[g, 0], chosen[g, 1]].best:
                    chosen[g, 0], chosen[g, 1] = i, kind
                continue
            group[i] = size
            rest = 0.0
            if final and node.ended == FINE:
                language, bonus = node.ended_language, node.ended_bonus
                if options.has_lm:
                    _, logp = advance(lm, np.int32(node.ended_state), np.int32(options.end))
                    language += np.float64(logp)
            else:
                language, bonus = node.language, node.bonus
                rest = node.offset - options.lm_weight * language - bonus
            scores[size, 0] = heard + options.lm_weight * language + bonus + rest
            scores[size, 1], scores[size, 2], scores[size, 3] = heard, language, bonus + rest
            chosen[size, 0], chosen[size, 1] = i, kind
            size += 1
    return size


@njit(nogil=True, cache=True)
def unwind(  # noqa: PLR0917
    search: Search, slot: Number, kind: Number, tokens: Array, frames: Array, peaks: Array
) -> Number:
    """Write a prefix's symbols, their first and last frames and highest log-probabilities, last symbol first.

    Returns how many there are; where that is more than there is room, nothing is written.
    """
    tree, trail, counts = search.tree, search.trail, search.counts[0]
    n, size = search.node[counts.half, slot], 0
    while n > 0:
        size += 1
        n = tree[n].parent
    if size > len(tokens):
        return size
    path = search.path[counts.half, slot, kind]
    n, m, last, peak = search.node[counts.half, slot], path.trail, path.last, path.peak
    for i in range(size):
        tokens[i], frames[i, 0], frames[i, 1], peaks[i] = tree[n].token, trail[m].first, last, peak
        last, peak = trail[m].last, trail[m].peak
        n, m = tree[n].parent, trail[m].before
    return size
