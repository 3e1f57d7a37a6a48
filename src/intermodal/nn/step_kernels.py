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
from collections.abc import Sequence
from typing import Any

import numpy as np

from intermodal.core.errors import MissingExtraError
from intermodal.nn.linear_kernels import FAST, PIECE, Team, dot, number, pointer, taken, wide

try:
    from llvmlite import ir
    from numba import carray, cfunc, njit, types
    from numba.extending import intrinsic
except ImportError as error:
    raise MissingExtraError("numba", "text") from error

HEAD = 22
"""Numbers that a task begins with: N, D, H, G, K, M; S and the positions that there is room for; gated, activation, norms by
the root mean square, their epsilon's bits (float64), half, blocks; the addresses of cosines and sines (0 for none), of
x (N, D), of shared memory (:func:`shared_size`) and of each thread's own (:func:`own_size`), all float32; of what lets
threads wait, how many threads there are, and how many have come."""
FIELDS = 14
"""Addresses of a block's parts: weights and biases (0 for none) of norm1, qkv, out, norm2, fc1, fc2; keys; values."""
PHASES = 5
"""Of a block: before the attention, the attention, behind it, and two of the MLP; each counts what is taken."""
GELU, GELU_TANH, QUICK_GELU, SILU, RELU = range(5)
_ADD, _PUT = -1, -2
"""What becomes of a product in place of an activation: added to what is there, or put there."""


def shared_size(sizes: Sequence[int]) -> int:
    """Return how many float32 numbers all threads share: queries, keys and values; results; hidden values; scores.

    ``sizes`` are the first seven numbers of a task.
    """
    rows, _, heads, kv_heads, head_width, hidden, kept = sizes
    return rows * ((2 * heads + 2 * kv_heads) * head_width + hidden + heads * (kept + 1))


def own_size(rows: int, width: int, head_width: int) -> int:
    """Return how many float32 numbers each thread has for itself: of a norm, and of one head."""
    return (rows + 2) * width + 4 * head_width


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
        scale_D[i], shift_D[i] = number(scale_at, i, at[12]), number(shift_at, i, at[12])
    eps = np.int64(at[11]).view(np.float64)
    for n in range(rows):
        _normed(x_ND[n], scale_D, shift_D, at[10], eps, y_ND[n])
    return y_ND


@njit(cache=True, inline="always")
def _activated(x: Any, kind: Any) -> Any:
    one = np.float32(1)
    if kind == GELU_TANH:  # half of 1 + tanh(u) is the logistic function of 2 u
        u = np.float32(math.sqrt(8 / math.pi)) * (x + np.float32(0.044715) * x * x * x)
        return x / (one + math.exp(-u))
    if kind == GELU:
        return np.float32(0.5) * x * (one + math.erf(x * np.float32(math.sqrt(0.5))))
    if kind == QUICK_GELU:
        return x / (one + math.exp(np.float32(-1.702) * x))
    if kind == SILU:
        return x / (one + math.exp(-x))
    return max(x, np.float32(0))


@njit(cache=True)
def _product(  # noqa: PLR0917 - compiled code takes its arguments one by one
    task: Any, counter: Any, half: Any, x_NC: Any, weight_at: Any, bias_at: Any, y_NO: Any, then: Any, gated: Any
) -> None:
    """Take pieces of a matrix; where there are gates, they are its second half, and each goes with its value."""
    (rows, inputs), outputs = x_NC.shape, y_NO.shape[1]
    step = max(PIECE // inputs, 1)
    while True:
        first = taken(task, counter, step)
        if first >= outputs:
            return
        for o in range(first, min(first + step, outputs)):
            for n in range(rows):
                y = dot(weight_at, o, half, x_NC[n]) + number(bias_at, o, half)
                if gated:
                    gate = dot(weight_at, o + outputs, half, x_NC[n]) + number(bias_at, o + outputs, half)
                    y_NO[n, o] = y * _activated(gate, then)
                elif then == _ADD:
                    y_NO[n, o] += y
                elif then == _PUT:
                    y_NO[n, o] = y
                else:
                    y_NO[n, o] = _activated(y, then)


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
    rows, heads, groups, size, kept, room, half = at[0], at[2], at[3], at[4], at[6], at[7], at[12]
    share, scale = heads // groups, np.float32(1 / math.sqrt(size))
    k_K, q_K = own[:size], own[size : 2 * size]
    while True:
        unit = taken(task, counter, 1)
        if unit >= rows * groups:
            return
        n, g = unit // groups, unit % groups
        first = (heads + g) * size
        _turned(qkv_N[n, first : first + size], at[14], at[15], half, np.float32(1), k_K)
        _keep(k_at, unit * room + kept, half, k_K)
        first += groups * size
        _keep(v_at, unit * room + kept, half, qkv_N[n, first : first + size])
        offset = (2 if half else 4) * unit * room * size
        for h in range(g * share, (g + 1) * share):
            _turned(qkv_N[n, h * size : (h + 1) * size], at[14], at[15], half, scale, q_K)
            score_S = score_NHS[n, h]
            for s in range(kept + 1):
                score_S[s] = dot(k_at + offset, s, half, q_K)
            _softmax(score_S)
            _weighted(v_at + offset, score_S, half, y_N[n, h * size : (h + 1) * size])


@cfunc(types.void(types.CPointer(types.int64)), cache=True)
def _work(task: Any) -> None:
    """Go through all blocks, with the other threads."""
    at = carray(task, HEAD)
    rows, width, heads, groups, size, hidden, kept = at[0], at[1], at[2], at[3], at[4], at[5], at[6]
    half, blocks, wait, threads = at[12], at[13], at[19], at[20]
    x_ND = carray(pointer(at[16]), (rows, width), np.float32)
    count = (rows + 2) * width + 4 * size
    me = taken(task, 21, 1)
    own = carray(pointer(at[18] + 4 * count * me), count, np.float32)
    all_size, inner = (heads + 2 * groups) * size, heads * size
    first = rows * all_size
    then = first + rows * inner
    last = then + rows * hidden
    shared = carray(pointer(at[17]), last + rows * heads * (kept + 1), np.float32)
    qkv_N, y_N = shared[:first].reshape(rows, all_size), shared[first:then].reshape(rows, inner)
    hidden_NM, score_NHS = shared[then:last].reshape(rows, hidden), shared[last:].reshape(rows, heads, kept + 1)
    for block in range(blocks):
        part = carray(task, HEAD + (block + 1) * FIELDS)[HEAD + block * FIELDS :]
        counter = HEAD + blocks * FIELDS + block * PHASES
        normed_ND = _norm(at, part[0], part[1], x_ND, own)
        _product(task, counter, half, normed_ND, part[2], part[3], qkv_N, _PUT, False)
        if threads > 1:
            _call(wait)
        _attend(task, counter + 1, at, part[12], part[13], qkv_N, score_NHS, y_N, own[count - 4 * size :])
        if threads > 1:
            _call(wait)
        _product(task, counter + 2, half, y_N, part[4], part[5], x_ND, _ADD, False)
        if threads > 1:
            _call(wait)
        normed_ND = _norm(at, part[6], part[7], x_ND, own)
        _product(task, counter + 3, half, normed_ND, part[8], part[9], hidden_NM, at[9], at[8])
        if threads > 1:
            _call(wait)
        _product(task, counter + 4, half, hidden_NM, part[10], part[11], x_ND, _ADD, False)
        if threads > 1:
            _call(wait)


TEAM = Team(_work)


def task(numbers: list[int], blocks: int) -> Any:
    """Return a task of the numbers of head and blocks, with nothing taken yet."""
    return (ctypes.c_int64 * (len(numbers) + blocks * PHASES))(*numbers)
