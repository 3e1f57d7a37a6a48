"""The product of a few rows with a matrix, compiled. Needs numba.

A step of decoding multiplies one row with every weight of a network, each of which is used once: what counts is how
fast memory is read. Sums along the rows of the matrix as it lies read it in order, at the speed of memory (one core of
an AMD EPYC of 2024: 40 GB/s, where oneDNN reaches 25 and MKL 17).

    N rows   C values in   O values out
"""

from __future__ import annotations

from typing import Any

import numpy as np

from intermodal.core.errors import MissingExtraError

try:
    from numba import carray, cfunc, types
except ImportError as error:
    raise MissingExtraError("numba", "text") from error

_POINTER, _COUNT = types.voidptr, types.int64


@cfunc(
    types.void(_POINTER, _POINTER, _POINTER, _POINTER, _COUNT, _COUNT, _COUNT, types.boolean),
    cache=True,
    fastmath={"reassoc", "contract", "nsz"},
)
def _multiply(  # noqa: PLR0917 - compiled code takes its arguments one by one
    x_at: Any, weight_at: Any, bias_at: Any, y_at: Any, rows: int, inputs: int, outputs: int, biased: bool
) -> None:
    x_NC = carray(x_at, (rows, inputs), np.float32)
    weight_OC = carray(weight_at, (outputs, inputs), np.float32)
    bias_O = carray(bias_at, outputs, np.float32)
    y_NO = carray(y_at, (rows, outputs), np.float32)
    for o in range(outputs):
        for n in range(rows):
            total = np.float32(0)
            for i in range(inputs):
                total += weight_OC[o, i] * x_NC[n, i]
            y_NO[n, o] = total + bias_O[o] if biased else total


multiply = _multiply.ctypes
"""Write ``x weight^T + bias``.

Takes the addresses of x, weight, bias and y, all float32 and contiguous, then N, C and O, and whether there is a bias.
Addresses and no arrays, since what is around the product should cost nothing beside it.
"""
