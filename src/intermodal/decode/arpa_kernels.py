"""Compiled reading of the rows of an ARPA file. Needs numba."""

from __future__ import annotations

from typing import Any

import numpy as np

from intermodal.core.errors import MissingExtraError

try:
    from numba import njit
except ImportError as error:
    raise MissingExtraError("numba", "speech") from error

Array = np.ndarray[Any, Any]
Number = Any
"""A scalar of compiled code."""

GOOD, NO_NUMBER, TOO_FEW, TOO_MANY, ENDED = 0, 1, 2, 3, 4
_TAB, _NEWLINE, _SPACE = 9, 10, 32
_DIGITS_HELD = 18


@njit(nogil=True, cache=True)
def _number(data: Array, start: Number, end: Number) -> tuple[bool, float]:
    """Return whether some bytes are a decimal number, and which."""
    place, digits, scale, met = start, 0, 0, False
    sign: Number = 1.0
    value: Number = np.int64(0)
    if place < end and (data[place] == ord("-") or data[place] == ord("+")):
        sign = -1.0 if data[place] == ord("-") else 1.0
        place += 1
    after = False
    while place < end:
        byte = data[place]
        if byte == ord(".") and not after:
            after = True
        elif ord("0") <= byte <= ord("9"):
            met = True
            if digits < _DIGITS_HELD:
                value = value * 10 + (byte - ord("0"))
                digits += 1 if value > 0 else 0
                scale -= 1 if after else 0
            elif not after:
                scale += 1
        else:
            break
        place += 1
    if place < end and (data[place] == ord("e") or data[place] == ord("E")):
        place += 1
        down, any_digit = False, False
        power: Number = 0
        if place < end and (data[place] == ord("-") or data[place] == ord("+")):
            down = data[place] == ord("-")
            place += 1
        while place < end and ord("0") <= data[place] <= ord("9"):
            any_digit = True
            power = min(power * 10 + (data[place] - ord("0")), 9999)
            place += 1
        if not any_digit:
            return False, 0.0
        scale += -power if down else power
    if not met or place < end:
        return False, 0.0
    if scale < 0:
        return True, sign * value / 10.0**-scale
    return True, sign * value * 10.0**scale


@njit(nogil=True, cache=True)
def rows(  # noqa: PLR0917 - compiled code takes its arrays one by one
    data: Array, place: Number, length: Number, begins: Array, ends: Array, logp: Array, backoff: Array
) -> tuple[Number, Number, Number]:
    """Read rows: a number, ``length`` words, perhaps another number; what is not there is 0.

    Args:
        data: uint8, the file.
        place: where the first row begins.
        length: words a row.
        begins: int64 (M, length), where each word begins.
        ends: int64 (M, length), where each word ends.
        logp: float64 (M,).
        backoff: float64 (M,).

    Returns:
        Where the reading ended, how many rows were read, and what stopped it; lines without a word end the rows.
    """
    for row in range(len(logp)):
        met, line = 0, place
        while place < len(data) and data[place] != _NEWLINE:
            if data[place] <= _SPACE:
                place += 1
                continue
            start = place
            while place < len(data) and data[place] > _SPACE:
                place += 1
            if met == 0:
                if data[start] == ord("\\"):
                    return line, row, ENDED
                good, logp[row] = _number(data, start, place)
                if not good:
                    return line, row, NO_NUMBER
                backoff[row] = 0.0
            elif met <= length:
                begins[row, met - 1], ends[row, met - 1] = start, place
            elif met == length + 1:
                good, backoff[row] = _number(data, start, place)
                if not good:
                    return line, row, NO_NUMBER
            else:
                return line, row, TOO_MANY
            met += 1
        if met == 0:
            return line, row, ENDED
        if met <= length:
            return line, row, TOO_FEW
        if place == len(data):  # the last line of a whole file is not a row
            return line, row, ENDED
        place += 1
    return place, len(logp), GOOD
