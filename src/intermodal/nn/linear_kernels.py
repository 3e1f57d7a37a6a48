"""The product of a few rows with a matrix, compiled. Needs numba.

A step of decoding multiplies one row with every weight of a network, each of which is used once: what counts is how
fast memory is read. Sums along the rows of the matrix as it lies read it in order, at the speed of memory. Threads of
torch's own team take piece after piece of the matrix, which MKL leaves to one of them; weights in half precision are
widened as they are read, so that half as much is.

    N rows   C values in   O values out
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
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
_FIELDS = 10
"""Addresses of x (float32), weight, bias (0 for none) and y (float32); N, C, O; half; rows of weight taken at a time, and
the first that is not yet taken."""
_FAST = {"reassoc", "contract", "nsz"}
_Task = ctypes.c_int64 * _FIELDS


@intrinsic
def _pointer(context: Any, address: Any) -> Any:
    """Return the pointer to an address."""
    del context

    def generate(_: Any, builder: Any, __: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], ir.IntType(8).as_pointer())

    return types.voidptr(address), generate


@intrinsic
def _taken(context: Any, numbers: Any, index: Any, count: Any) -> Any:
    """Add ``count`` to one of the numbers in memory, and return what it was: one thread at a time."""
    del context

    def generate(_: Any, builder: Any, __: Any, args: Any) -> Any:
        place = builder.gep(args[0], [args[1]])
        return builder.atomic_rmw("add", place, args[2], "monotonic")

    return types.int64(numbers, index, count), generate


@njit(cache=True, inline="always")
def _wide(bits: Any) -> Any:
    """Return the float32 whose upper half these 16 bits are."""
    return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)


@njit(cache=True, fastmath=_FAST)
def _single(weight_C: Any, x_C: Any) -> Any:
    total = np.float32(0)
    for i in range(len(x_C)):
        total += weight_C[i] * x_C[i]
    return total


@njit(cache=True, fastmath=_FAST)
def _half(weight_C: Any, x_C: Any) -> Any:
    total = np.float32(0)
    for i in range(len(x_C)):
        total += _wide(weight_C[i]) * x_C[i]
    return total


@cfunc(types.void(types.CPointer(types.int64)), cache=True)
def _work(task: Any) -> None:
    """Take pieces of the matrix until none is left."""
    at = carray(task, _FIELDS)
    rows, inputs, outputs, step = at[4], at[5], at[6], at[8]
    x_NC = carray(_pointer(at[0]), (rows, inputs), np.float32)  # type: ignore[call-arg] # the context is numba's
    y_NO = carray(_pointer(at[3]), (rows, outputs), np.float32)
    while True:
        first = _taken(task, 9, step)
        if first >= outputs:
            return
        for o in range(first, min(first + step, outputs)):
            for n in range(rows):
                if at[7]:
                    weight_C = carray(_pointer(at[1] + 2 * o * inputs), inputs, np.uint16)
                    y_NO[n, o] = _half(weight_C, x_NC[n])
                    if at[2]:
                        y_NO[n, o] += _wide(carray(_pointer(at[2]), outputs, np.uint16)[o])
                else:
                    weight_C = carray(_pointer(at[1] + 4 * o * inputs), inputs, np.float32)
                    y_NO[n, o] = _single(weight_C, x_NC[n])
                    if at[2]:
                        y_NO[n, o] += carray(_pointer(at[2]), outputs, np.float32)[o]


def _team() -> Callable[..., None] | None:
    """Return what lets the threads of torch's team do the same, GNU OpenMP's ``GOMP_parallel``; None without it."""
    try:
        found = ctypes.CDLL(None).GOMP_parallel
    except (AttributeError, OSError, TypeError):
        return None
    found.argtypes, found.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    return found


_ALONE, _TOGETHER = _work.ctypes, _team()


def multiply(x: Tensor, weight_OC: Tensor, bias_O: Tensor | None) -> Tensor:
    """Return ``x weight^T + bias``, (..., C) to (..., O), of contiguous tensors, all float32 or all bfloat16.

    Sums are in float32. What is around the product should cost nothing beside it: nothing is checked.
    """
    outputs, inputs = weight_OC.shape
    half = weight_OC.dtype == torch.bfloat16
    x = x.float()
    y = x.new_empty((*x.shape[:-1], outputs))
    bias_at = 0 if bias_O is None else bias_O.data_ptr()
    step = max(PIECE // max(inputs, 1), 1)
    task = _Task(
        x.data_ptr(), weight_OC.data_ptr(), bias_at, y.data_ptr(), y.numel() // outputs, inputs, outputs, half, step, 0
    )
    threads = min(torch.get_num_threads(), -(-outputs // step))
    if threads > 1 and _TOGETHER is not None:
        _TOGETHER(_work.address, task, threads, 0)
    else:
        _ALONE(task)
    return y.bfloat16() if half else y
