"""The compiled inner loops of word2vec: skip-gram and CBOW with negative sampling, lock-free over threads. Needs numba.

One call trains on one chunk of word numbers and changes the two tables in place. Several threads may call at once on the
same tables (Hogwild, Niu et al. 2011): the interpreter's lock is released, no row is locked, and an update that two threads
make to one row at the same moment may be lost. One thread alone gives the same bits for the same seed.

The algorithm is word2vec.c's (Mikolov et al. 2013), with the differences that :mod:`intermodal.methods.contrastive.word2vec`
lists. A row is padded with zeros to whole vector registers (:func:`padded`), rows of noise words are fetched one pair
ahead, and the noise is drawn by the alias method (Walker 1977; Vose 1991) in one look-up from the exact distribution.
Helpers are inlined by numba itself, so that a function compiled now and one out of its cache are the same machine code.

Shapes: N words, P features padded to a multiple of 16, T word numbers of a chunk.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from intermodal.core.errors import MissingExtraError

try:
    from llvmlite import ir
    from numba import njit, types
    from numba.core import cgutils
    from numba.extending import intrinsic
except ImportError as error:
    raise MissingExtraError("numba", "text") from error

LANES = 16
"""Rows are padded to a multiple of this many float32: one 64-byte cache line."""
REACH, SPACING = 12, 64
"""The sigmoid's table reaches from -REACH to REACH with SPACING points a unit, read by linear interpolation (error 3e-6)."""
LOSS_EVERY = 16
"""The loss is taken at every so many-th pair (its logarithms cost)."""

Array = np.ndarray[Any, Any]
Number = Any
"""A scalar of compiled code: an integer of fixed size, or a float32."""


class Draws(NamedTuple):
    """What the random choices of a chunk depend on.

    Attributes:
        keep: uint64 ``(N,)``: a word stays when 32 random bits are not above it (subsampling).
        share: uint64 ``(N,)``: the alias table's first half: stay with 32 random bits not above it.
        alias: int32 ``(N,)``: its second half: the word to take else.
    """

    keep: Array
    share: Array
    alias: Array


def draws(counts: Array, sample: float, power: float = 0.75) -> Draws:
    """Return the tables of a vocabulary.

    Args:
        counts: of the words, int64 ``(N,)``.
        sample: t of the subsampling; 0 keeps every word. A word of frequency f stays with probability
            ``min(1, (sqrt(f / t) + 1) t / f)`` (word2vec.c; the paper's section 2.3 has another formula).
        power: noise words are drawn with a probability proportional to count ** power (Mikolov 2013, section 2.2).
    """
    keep = keep_probability(counts, sample)
    share, alias = alias_table(np.asarray(counts, np.float64) ** power)
    return Draws(np.floor(keep * (2**32 - 1)).astype(np.uint64), share, alias)


def keep_probability(counts: Array, sample: float) -> Array:
    """Return with which probability each word survives the subsampling, float64 ``(N,)``."""
    frequency = np.asarray(counts, np.float64) / np.sum(counts)
    if sample <= 0:
        return np.ones_like(frequency)
    return np.minimum(1.0, (np.sqrt(frequency / sample) + 1) * sample / frequency)


def alias_table(weights: Array) -> tuple[Array, Array]:
    """Return Vose's alias table of a distribution: uint64 thresholds for 32 random bits, int32 aliases, both ``(N,)``."""
    scaled = weights / weights.sum() * len(weights)
    alias = np.arange(len(weights), dtype=np.int32)
    poor, rich = np.flatnonzero(scaled < 1).tolist(), np.flatnonzero(scaled >= 1).tolist()
    values = scaled.tolist()
    while poor and rich:
        low, high = poor.pop(), rich[-1]
        alias[low] = high
        values[high] -= 1.0 - values[low]
        if values[high] < 1:
            poor.append(rich.pop())
    for left in (*poor, *rich):  # what rounding has left over is one
        values[left] = 1.0
    return np.floor(np.array(values) * (2**32 - 1)).astype(np.uint64), alias


def padded(table: Array) -> Array:
    """Return a copy of a float32 table ``(N, D)`` whose rows are padded with zeros to ``(N, P)``, cache lines each."""
    rows, dim = table.shape
    wide = -(-dim // LANES) * LANES
    room = np.zeros(rows * wide + LANES, np.float32)
    start = (-room.ctypes.data // 4) % LANES
    out = room[start : start + rows * wide].reshape(rows, wide)
    out[:, :dim] = table
    return out


def sigmoid_table() -> Array:
    """Return the sigmoid at the table's points, float32."""
    points = np.arange(2 * REACH * SPACING + 2) / SPACING - REACH
    return (1 / (1 + np.exp(-points))).astype(np.float32)


@intrinsic
def _fetch(typing_context: Any, table: Any, row: Any, column: Any) -> Any:
    """Ask the processor to bring a cache line of ``table[row, column:]``, to be written."""
    del typing_context

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        place = cgutils.get_item_pointer(
            context, builder, signature.args[0], array, [arguments[1], arguments[2]], wraparound=False
        )
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        to_write, keep_near, data = (ir.Constant(word, value) for value in (1, 3, 1))
        builder.call(function, [builder.bitcast(place, byte), to_write, keep_near, data])
        return context.get_dummy_value()

    return types.void(table, row, column), generate


@njit(nogil=True, cache=True, inline="always")
def _next(state: Number) -> Number:
    """Return the next state of a 64-bit linear congruential generator (Knuth's MMIX); its upper half is random."""
    return state * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)


@njit(nogil=True, cache=True, inline="always")
def _mixed(seed: Number) -> Number:
    """Return a well-mixed state for a seed (SplitMix64's finaliser), so that neighbouring seeds share nothing."""
    value = np.uint64(seed) + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@njit(nogil=True, cache=True, inline="always")
def _below(state: Number, size: Number) -> Number:
    """Return a number below ``size`` (< 2**32) from the upper half of a state."""
    return np.int64(((state >> np.uint64(32)) * np.uint64(size)) >> np.uint64(32))


@njit(nogil=True, cache=True, inline="always")
def _noise(state: Number, share: Array, alias: Array) -> Number:
    """Return a noise word: the state's upper half chooses a place, what is left over chooses between it and its alias."""
    scaled = (state >> np.uint64(32)) * np.uint64(len(share))
    place = np.int64(scaled >> np.uint64(32))
    if (scaled & np.uint64(0xFFFFFFFF)) > share[place]:
        return np.int64(alias[place])
    return place


@njit(nogil=True, cache=True, inline="always")
def _next_sentence(ids: Array, place: Number, keep: Array, state: Number, kept: Array) -> tuple[Number, Number, Number]:
    """Copy the next sentence's words that survive subsampling; return their number, the place behind it and the state."""
    count = 0
    while place < len(ids) and ids[place] >= 0:
        word = ids[place]
        place += 1
        state = _next(state)
        if (state >> np.uint64(32)) <= keep[word]:
            kept[count] = word
            count += 1
    return count, place + 1, state


Lanes = tuple[int, ...]
"""A tuple whose length is the number of cache lines of a row: numba compiles for it, so loops over a row are unrolled."""


def lanes(table: Array) -> Lanes:
    """Return the tuple that stands for the width of a table that :func:`padded` returned."""
    return (0,) * (table.shape[1] // LANES)


@njit(nogil=True, cache=True, fastmath=True, error_model="numpy", inline="always")
def _update(  # noqa: PLR0917 - compiled code takes its arrays one by one
    source: Array,
    error: Array,
    table: Array,
    targets: Array,
    count: Number,
    scores: Array,
    sigmoid: Array,
    rate: Number,
    take_loss: bool,
    lanes: Lanes,
) -> Number:
    """Descend the loss of one input against ``count`` rows, the first of which is the true one.

    The rows change at once, the input's own change is left in ``error``. Returns the loss before, if asked for.
    """
    wide = LANES * len(lanes)
    for s in range(count):
        row, score = table[targets[s]], np.float32(0)
        for k in range(wide):
            score += source[k] * row[k]
        scores[s] = score
    loss = 0.0
    for s in range(count):
        x = (min(max(scores[s], np.float32(-REACH)), np.float32(REACH)) + np.float32(REACH)) * np.float32(SPACING)
        cell = np.int64(x)
        part = x - np.float32(cell)
        p = sigmoid[cell] + part * (sigmoid[cell + 1] - sigmoid[cell])
        if take_loss:
            sign = scores[s] if s == 0 else -scores[s]
            loss += np.log1p(np.exp(-abs(sign))) + max(-sign, 0.0)
        scores[s] = ((np.float32(1) if s == 0 else np.float32(0)) - p) * np.float32(rate)
    for k in range(wide):
        error[k] = 0
    for s in range(count):
        row, step = table[targets[s]], scores[s]
        for k in range(wide):
            value = row[k]
            error[k] += step * value
            row[k] = value + step * source[k]
    return loss


@njit(nogil=True, cache=True, inline="always")
def _choose(true: Number, negatives: Number, drawn: Array, targets: Array) -> Number:
    """Put the true word and the noise words that differ from it into ``targets``; return how many."""
    targets[0] = true
    count = 1
    for k in range(negatives):
        if drawn[k] != true:
            targets[count] = drawn[k]
            count += 1
    return count


@njit(nogil=True, cache=True, inline="always")
def _draw(  # noqa: PLR0917
    state: Number, negatives: Number, share: Array, alias: Array, drawn: Array, table: Array, lanes: Lanes
) -> Number:
    """Draw the next noise words and have their rows fetched; return the state."""
    for k in range(negatives):
        state = _next(state)
        word = _noise(state, share, alias)
        drawn[k] = word
        for column in range(0, LANES * len(lanes), LANES):
            _fetch(table, word, column)  # type: ignore[call-arg]  # numba gives the first argument itself
    return state


@njit(nogil=True, cache=True, fastmath=True, error_model="numpy")
def skip_gram(  # noqa: PLR0917
    ids: Array,
    centre: Array,
    context: Array,
    keep: Array,
    share: Array,
    alias: Array,
    sigmoid: Array,
    window: Number,
    negatives: Number,
    rate: Number,
    seed: Number,
    lanes: Lanes,
) -> tuple[Number, Number]:
    """Train skip-gram on a chunk.

    Args:
        ids: word numbers, int32 ``(T,)``, -1 between sentences.
        centre: the first table, float32 ``(N, P)``, changed in place.
        context: the second.
        keep: of :func:`draws`.
        share: of :func:`draws`.
        alias: of :func:`draws`.
        sigmoid: :func:`sigmoid_table`.
        window: the largest distance of two words of a pair; each word's own is uniform in 1..window.
        negatives: noise words a pair.
        rate: the learning rate.
        seed: of all random choices.
        lanes: :func:`lanes` of the tables.

    Returns:
        At how many pairs the loss was taken (every :data:`LOSS_EVERY`-th), and its sum there.
    """
    wide = LANES * len(lanes)
    kept, error = np.empty(len(ids), np.int32), np.empty(wide, np.float32)
    drawn, targets = np.empty(negatives + 1, np.int64), np.empty(negatives + 1, np.int64)
    scores = np.empty(negatives + 1, np.float32)
    state = _draw(_mixed(seed), negatives, share, alias, drawn, context, lanes)
    place = pairs = taken = 0
    total = 0.0
    while place < len(ids):
        length, place, state = _next_sentence(ids, place, keep, state, kept)
        for i in range(length):
            word = np.int64(kept[i])
            state = _next(state)
            reach = _below(state, window) + 1
            for j in range(max(0, i - reach), min(length, i + reach + 1)):
                if j == i:
                    continue
                count = _choose(word, negatives, drawn, targets)
                state = _draw(state, negatives, share, alias, drawn, context, lanes)
                source = centre[kept[j]]
                take = pairs % LOSS_EVERY == 0
                total += _update(source, error, context, targets, count, scores, sigmoid, rate, take, lanes)
                taken += take
                pairs += 1
                for k in range(wide):
                    source[k] += error[k]
    return taken, total


@njit(nogil=True, cache=True, fastmath=True, error_model="numpy")
def cbow(  # noqa: PLR0917
    ids: Array,
    centre: Array,
    context: Array,
    keep: Array,
    share: Array,
    alias: Array,
    sigmoid: Array,
    window: Number,
    negatives: Number,
    rate: Number,
    seed: Number,
    lanes: Lanes,
) -> tuple[Number, Number]:
    """Train CBOW on a chunk: the mean of a window's vectors predicts the word in its middle; as :func:`skip_gram`.

    Each word of the window gets the whole error of the mean, not its share of it (as in word2vec.c and gensim).
    """
    wide = LANES * len(lanes)
    kept, error, mean = np.empty(len(ids), np.int32), np.empty(wide, np.float32), np.empty(wide, np.float32)
    drawn, targets = np.empty(negatives + 1, np.int64), np.empty(negatives + 1, np.int64)
    scores = np.empty(negatives + 1, np.float32)
    state = _draw(_mixed(seed), negatives, share, alias, drawn, context, lanes)
    place = pairs = taken = 0
    total = 0.0
    while place < len(ids):
        length, place, state = _next_sentence(ids, place, keep, state, kept)
        for i in range(length):
            word = np.int64(kept[i])
            state = _next(state)
            reach = _below(state, window) + 1
            first, last = max(0, i - reach), min(length, i + reach + 1)
            if last - first < 2:
                continue
            for k in range(wide):
                mean[k] = 0
            for j in range(first, last):
                if j != i:
                    row = centre[kept[j]]
                    for k in range(wide):
                        mean[k] += row[k]
            part = np.float32(1) / np.float32(last - first - 1)
            for k in range(wide):
                mean[k] *= part
            count = _choose(word, negatives, drawn, targets)
            state = _draw(state, negatives, share, alias, drawn, context, lanes)
            take = pairs % LOSS_EVERY == 0
            total += _update(mean, error, context, targets, count, scores, sigmoid, rate, take, lanes)
            taken += take
            pairs += 1
            for j in range(first, last):
                if j != i:
                    row = centre[kept[j]]
                    for k in range(wide):
                        row[k] += error[k]
    return taken, total
