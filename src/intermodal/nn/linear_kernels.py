"""The product of a few rows with a matrix, compiled. Needs numba.

A step of decoding multiplies one row with every weight of a network, each of which is used once: what counts is how
fast memory is read. Sums along the rows of the matrix as it lies read it in order, at the speed of memory. Threads of
torch's own team take piece after piece of the matrix, which MKL leaves to one of them; weights in half precision are
widened as they are read, so that half as much is.

    N rows   C values in   O values out
"""

from __future__ import annotations

import ctypes
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from intermodal.core.errors import MissingExtraError

try:
    from llvmlite import ir
    from numba import carray, cfunc, njit, types
    from numba.extending import intrinsic
except ImportError as error:
    raise MissingExtraError("numba", "text") from error

PIECE = 1 << 16
"""Weights that a thread takes at a time: ten microseconds of reading."""
_FIELDS = 9
"""Addresses of x (float32), weight, bias (0 for none) and y (float32); N, C, O; half; and the first row of the weight that
is not yet taken."""
GELU, GELU_TANH, QUICK_GELU, SILU, RELU = range(5)
"""In the order of :data:`intermodal.nn.transformer.ACTIVATIONS`."""
ADD, PUT = -1, -2
FAST = {"reassoc", "contract", "nsz"}
"""What compiled sums may do: change their order."""
_Task = ctypes.c_int64 * _FIELDS


def _make_pointer(context: Any, address: Any) -> Any:
    """Return the pointer to an address."""
    del context

    def generate(_: Any, builder: Any, __: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], ir.IntType(8).as_pointer())

    return types.voidptr(address), generate


pointer: Any = intrinsic(_make_pointer)


def _make_taken(context: Any, numbers: Any, index: Any, count: Any) -> Any:
    """Add ``count`` to one of the numbers in memory, and return what it was: one thread at a time."""
    del context

    def generate(_: Any, builder: Any, __: Any, args: Any) -> Any:
        place = builder.gep(args[0], [args[1]])
        return builder.atomic_rmw("add", place, args[2], "monotonic")

    return types.int64(numbers, index, count), generate


taken: Any = intrinsic(_make_taken)


@njit(cache=True, inline="always")
def wide(bits: Any) -> Any:
    """Return the float32 whose upper half these 16 bits are."""
    return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)


@njit(cache=True, fastmath=FAST)
def _single(weight_C: Any, x_C: Any) -> Any:
    total = np.float32(0)
    for i in range(len(x_C)):
        total += weight_C[i] * x_C[i]
    return total


@njit(cache=True, fastmath=FAST)
def _half(weight_C: Any, x_C: Any) -> Any:
    total = np.float32(0)
    for i in range(len(x_C)):
        total += wide(weight_C[i]) * x_C[i]
    return total


@njit(cache=True)
def dot(rows_at: Any, row: Any, half: Any, x_C: Any) -> Any:
    """Return the product of float32 values with one of the rows, as long, that stand at an address."""
    count = len(x_C)
    if half:
        return _half(carray(pointer(rows_at + 2 * row * count), count, np.uint16), x_C)
    return _single(carray(pointer(rows_at + 4 * row * count), count, np.float32), x_C)


@njit(cache=True)
def number(numbers_at: Any, index: Any, half: Any) -> Any:
    """Return one of the numbers that stand at an address; 0 where there is none."""
    if numbers_at == 0:
        return np.float32(0)
    if half:
        return wide(carray(pointer(numbers_at + 2 * index), 1, np.uint16)[0])
    return carray(pointer(numbers_at + 4 * index), 1, np.float32)[0]


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
def product(  # noqa: PLR0917 - compiled code takes its arguments one by one
    task: Any, counter: Any, half: Any, x_NC: Any, weight_at: Any, bias_at: Any, y_NO: Any, then: Any, gated: Any
) -> None:
    """Take pieces of a matrix until none is left, and multiply x with them.

    ``counter`` is the place in ``task`` of the first row that is not yet taken. ``then`` says what becomes of a product:
    ``PUT``, ``ADD`` to what is there, or an activation. Where there are gates, they are the second half of the matrix, and
    each goes with its value.
    """
    (rows, inputs), outputs = x_NC.shape, y_NO.shape[1]
    step = max(PIECE // max(inputs, 1), 1)
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
                elif then == ADD:
                    y_NO[n, o] += y
                elif then == PUT:
                    y_NO[n, o] = y
                else:
                    y_NO[n, o] = _activated(y, then)


@cfunc(types.void(types.CPointer(types.int64)), cache=True)
def _work(task: Any) -> None:
    at = carray(task, _FIELDS)
    rows, inputs, outputs = at[4], at[5], at[6]
    x_NC = carray(pointer(at[0]), (rows, inputs), np.float32)
    y_NO = carray(pointer(at[3]), (rows, outputs), np.float32)
    product(task, _FIELDS - 1, at[7], x_NC, at[1], at[2], y_NO, PUT, False)


class Team:
    """Compiled work, done by threads of torch's own team where that is GNU OpenMP's, and else by one.

    Args:
        work: a function of an address, compiled, of which each thread does a share.
    """

    def __init__(self, work: Any) -> None:
        self._address, self._alone, self._together = work.address, work.ctypes, None
        self.barrier = 0
        """The address of what lets all threads wait for each other; 0 where there is one."""
        try:
            library = ctypes.CDLL(None)
            self.barrier = ctypes.cast(library.GOMP_barrier, ctypes.c_void_p).value or 0
            self._together = library.GOMP_parallel
        except (AttributeError, OSError, TypeError):
            return
        uint = ctypes.c_uint
        self._together.argtypes, self._together.restype = (ctypes.c_void_p, ctypes.c_void_p, uint, uint), None

    def threads(self, most: int) -> int:
        """Return how many threads there are, ``most`` of them at most."""
        return 1 if self._together is None else max(min(torch.get_num_threads(), most), 1)

    def __call__(self, task: Any, threads: int) -> None:
        """Do the work on a task, an array of ctypes."""
        if threads > 1 and self._together is not None:
            self._together(self._address, task, threads, 0)
        else:
            self._alone(task)


_TEAM = Team(_work)


def multiply(x: Tensor, weight_OC: Tensor, bias_O: Tensor | None) -> Tensor:
    """Return ``x weight^T + bias``, (..., C) to (..., O), of contiguous tensors, all float32 or all bfloat16.

    Sums are in float32. What is around the product should cost nothing beside it: nothing is checked.
    """
    outputs, inputs = weight_OC.shape
    half = weight_OC.dtype == torch.bfloat16
    x = x.float()
    y = x.new_empty((*x.shape[:-1], outputs))
    bias_at = 0 if bias_O is None else bias_O.data_ptr()
    rows, step = y.numel() // outputs, max(PIECE // max(inputs, 1), 1)
    task = _Task(x.data_ptr(), weight_OC.data_ptr(), bias_at, y.data_ptr(), rows, inputs, outputs, half, 0)
    _TEAM(task, _TEAM.threads(-(-outputs // step)))
    return y.bfloat16() if half else y
