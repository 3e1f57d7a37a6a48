"""A position that is read behind others, through all blocks of a transformer, compiled. Needs numba.

It is :class:`~intermodal.nn.transformer.Block` with a cache, for a few sequences and one new position of each, where
nothing is learnt. The products wait for memory (:mod:`intermodal.nn.linear_kernels`), and all that stands around them is
small; so threads stay together from the first block to the last, take a share of every product, and wait for each
other between. Numbers in between are float32, whatever the weights are.

    N sequences   D width   H heads   G heads of keys and values   K width of one head   S positions that are kept
    M hidden width of the MLP   C values in   O values out
"""

from __future__ import annotations

import ctypes
import math
from typing import Any

import numpy as np

from intermodal.core.errors import MissingExtraError
from intermodal.nn.linear_kernels import ADD, FAST, PUT, Team, dot, number, pointer, product, taken, wide

try:
    from llvmlite import ir
    from numba import carray, cfunc, njit, types
    from numba.extending import intrinsic
except ImportError as error:
    raise MissingExtraError("numba", "text") from error

(ROWS, WIDTH, HEADS, KV_HEADS, HEAD_WIDTH, HIDDEN, KEPT, ROOM, GATED, ACTIVATION, RMS, EPS) = range(12)
"""The numbers that a task begins with: N, D, H, G, K, M; S and the positions that there is room for; of the MLPs; of the
norms, their epsilon by its bits (float64)."""
(HALF, BLOCKS, COS, SIN, X, SHARED, OWN, WAIT, CAME) = range(12, 21)
"""And further: whether weights are bfloat16, how many blocks there are, and addresses: of cosines and sines (0 for none), of
x (N, D), of shared memory (:func:`shared_ends`) and of each thread's own (:func:`own_size`), all float32, and of what lets
threads wait (0 for one thread). The last counts those that have come."""
HEAD = 21
FIELDS = 14
"""Addresses of a block's parts: weights and biases (0 for none) of norm1, qkv, out, norm2, fc1, fc2; keys; values."""
PHASES = 5
"""Of a block: before the attention, the attention, behind it, and two of the MLP; each counts what is taken."""


@njit(cache=True)
def shared_ends(sizes: Any) -> Any:
    """Return where the parts of the memory that all threads share end, in float32 numbers.

    They are queries, keys and values; results; hidden values; scores. ``sizes`` are the first seven numbers of a task.
    """
    rows, _, heads, kv_heads, head_width, hidden, kept = sizes
    first = rows * (heads + 2 * kv_heads) * head_width
    second = first + rows * heads * head_width
    third = second + rows * hidden
    return first, second, third, third + rows * heads * (kept + 1)


@njit(cache=True)
def own_size(rows: Any, width: Any, head_width: Any) -> Any:
    """Return how many float32 numbers each thread has for itself: of a norm, and a key and a query."""
    return (rows + 2) * width + 2 * head_width


def _make_call(context: Any, address: Any) -> Any:
    """Call the function at an address, which takes and returns nothing."""
    del context

    def generate(inner: Any, builder: Any, __: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), [])
        return inner.get_dummy_value()

    return types.void(address), generate


_call: Any = intrinsic(_make_call)


@njit(cache=True, inline="always")
def _meet(wait: Any) -> None:
    """Wait until all threads are here."""
    if wait:
        _call(wait)


@njit(cache=True, inline="always")
def _narrow(value: Any) -> Any:
    """Return the upper half of a float32's bits, rounded to the nearest, ties to even."""
    bits = np.float32(value).view(np.uint32)
    if value != value:  # noqa: PLR0124 - not a number
        return np.uint16(0x7FC0)
    return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


@njit(cache=True, fastmath=FAST)
def _normed(x_D: Any, scale_D: Any, shift_D: Any, rms: Any, eps: Any, y_D: Any) -> None:  # noqa: PLR0917 - compiled code takes its arguments one by one
    count, mean, total = np.float32(len(x_D)), np.float32(0), np.float32(0)
    if not rms:
        for i in range(len(x_D)):
            mean += x_D[i]
        mean /= count
    for i in range(len(x_D)):
        total += (x_D[i] - mean) * (x_D[i] - mean)
    inverse = np.float32(1 / math.sqrt(total / count + eps))
    for i in range(len(x_D)):
        y_D[i] = (x_D[i] - mean) * inverse * scale_D[i] + shift_D[i]


@njit(cache=True)
def _norm(at: Any, scale_at: Any, shift_at: Any, x_ND: Any, own: Any) -> Any:
    """Return the norm of x, in a thread's own memory."""
    rows, width = x_ND.shape
    scale_D, shift_D = own[:width], own[width : 2 * width]
    y_ND = own[2 * width : (rows + 2) * width].reshape(rows, width)
    for i in range(width):
        scale_D[i], shift_D[i] = number(scale_at, i, at[HALF]), number(shift_at, i, at[HALF])
    eps = np.int64(at[EPS]).view(np.float64)
    for n in range(rows):
        _normed(x_ND[n], scale_D, shift_D, at[RMS], eps, y_ND[n])
    return y_ND


@njit(cache=True, fastmath=FAST)
def _turned(x_K: Any, cos_at: Any, sin_at: Any, half: Any, scale: Any, y_K: Any) -> None:  # noqa: PLR0917 - compiled code takes its arguments one by one
    """Turn a query or key as :func:`intermodal.nn.transformer.turned` does, and scale it."""
    count = len(x_K)
    for i in range(count):
        if cos_at:
            other = x_K[(i + count // 2) % count]
            y_K[i] = scale * (x_K[i] * number(cos_at, i, half) + other * number(sin_at, i, half))
        else:
            y_K[i] = scale * x_K[i]


@njit(cache=True)
def _keep(kept_at: Any, row: Any, half: Any, x_K: Any) -> None:
    count = len(x_K)
    if half:
        kept_K = carray(pointer(kept_at + 2 * row * count), count, np.uint16)
        for i in range(count):
            kept_K[i] = _narrow(x_K[i])
    else:
        carray(pointer(kept_at + 4 * row * count), count, np.float32)[:] = x_K


@njit(cache=True, fastmath=FAST)
def _weighted(rows_at: Any, weight_S: Any, half: Any, y_K: Any) -> None:
    """Put the weighted sum of rows into y."""
    count, kept = len(y_K), len(weight_S)
    y_K[:] = np.float32(0)
    if half:
        bits_SK = carray(pointer(rows_at), (kept, count), np.uint16)
        for s in range(kept):
            for i in range(count):
                y_K[i] += weight_S[s] * wide(bits_SK[s, i])
    else:
        row_SK = carray(pointer(rows_at), (kept, count), np.float32)
        for s in range(kept):
            for i in range(count):
                y_K[i] += weight_S[s] * row_SK[s, i]


@njit(cache=True, fastmath=FAST)
def _softmax(score_S: Any) -> None:
    highest, total = score_S[0], np.float32(0)
    for s in range(len(score_S)):
        highest = max(highest, score_S[s])
    for s in range(len(score_S)):
        score_S[s] = math.exp(score_S[s] - highest)
        total += score_S[s]
    for s in range(len(score_S)):
        score_S[s] /= total


@njit(cache=True)
def _attend(  # noqa: PLR0917 - compiled code takes its arguments one by one
    task: Any, counter: Any, at: Any, k_at: Any, v_at: Any, qkv_N: Any, score_NHS: Any, y_N: Any, own: Any
) -> None:
    """Take heads of keys and values: keep the new key and value, and let their queries look."""
    rows, heads, groups, size = at[ROWS], at[HEADS], at[KV_HEADS], at[HEAD_WIDTH]
    kept, room, half = at[KEPT], at[ROOM], at[HALF]
    share, scale = heads // groups, np.float32(1 / math.sqrt(size))
    k_K, q_K = own[:size], own[size : 2 * size]
    while True:
        unit = taken(task, counter, 1)
        if unit >= rows * groups:
            return
        n, g = unit // groups, unit % groups
        first = (heads + g) * size
        _turned(qkv_N[n, first : first + size], at[COS], at[SIN], half, np.float32(1), k_K)
        _keep(k_at, unit * room + kept, half, k_K)
        first += groups * size
        _keep(v_at, unit * room + kept, half, qkv_N[n, first : first + size])
        offset = (2 if half else 4) * unit * room * size
        for h in range(g * share, (g + 1) * share):
            _turned(qkv_N[n, h * size : (h + 1) * size], at[COS], at[SIN], half, scale, q_K)
            score_S = score_NHS[n, h]
            for s in range(kept + 1):
                score_S[s] = dot(k_at + offset, s, half, q_K)
            _softmax(score_S)
            _weighted(v_at + offset, score_S, half, y_N[n, h * size : (h + 1) * size])


@cfunc(types.void(types.CPointer(types.int64)), cache=True)
def _work(task: Any) -> None:
    """Go through all blocks, with the other threads."""
    at = carray(task, HEAD)
    sizes = at[ROWS], at[WIDTH], at[HEADS], at[KV_HEADS], at[HEAD_WIDTH], at[HIDDEN], at[KEPT]
    rows, width, heads, _, size, hidden, kept = sizes
    half, wait = at[HALF], at[WAIT]
    x_ND = carray(pointer(at[X]), (rows, width), np.float32)
    count = own_size(rows, width, size)
    own = carray(pointer(at[OWN] + 4 * count * taken(task, CAME, 1)), count, np.float32)
    first, second, third, end = shared_ends(sizes)
    shared = carray(pointer(at[SHARED]), end, np.float32)
    qkv_N, y_N = shared[:first].reshape(rows, first // rows), shared[first:second].reshape(rows, heads * size)
    hidden_NM, score_NHS = shared[second:third].reshape(rows, hidden), shared[third:].reshape(rows, heads, kept + 1)
    for block in range(at[BLOCKS]):
        part = carray(task, HEAD + (block + 1) * FIELDS)[HEAD + block * FIELDS :]
        counter = HEAD + at[BLOCKS] * FIELDS + block * PHASES
        normed_ND = _norm(at, part[0], part[1], x_ND, own)
        product(task, counter, half, normed_ND, part[2], part[3], qkv_N, PUT, False)
        _meet(wait)
        _attend(task, counter + 1, at, part[12], part[13], qkv_N, score_NHS, y_N, own[count - 2 * size :])
        _meet(wait)
        product(task, counter + 2, half, y_N, part[4], part[5], x_ND, ADD, False)
        _meet(wait)
        normed_ND = _norm(at, part[6], part[7], x_ND, own)
        product(task, counter + 3, half, normed_ND, part[8], part[9], hidden_NM, at[ACTIVATION], at[GATED])
        _meet(wait)
        product(task, counter + 4, half, hidden_NM, part[10], part[11], x_ND, ADD, False)
        _meet(wait)


TEAM = Team(_work)


def task(numbers: list[int], blocks: int) -> Any:
    """Return a task of the numbers of head and blocks, with nothing taken yet."""
    return (ctypes.c_int64 * (len(numbers) + blocks * PHASES))(*numbers)
