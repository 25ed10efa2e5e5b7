"""The sigmoid of gates on single values: ``ops/_sigmoid.py`` says what it means."""

import numpy as np

from edgellm.ops._sigmoid import EXP2_TABLE, LOG2_E, LOGIT_BITS, SIGMOID_BITS
from edgellm.runtime.kernels._scalar import Int

ONE = 1 << SIGMOID_BITS
FRACTION = (1 << LOGIT_BITS) - 1
NOTHING_LEFT = (32 << LOGIT_BITS) - 1
"""So many halvings and more leave 0, whatever the table holds."""
TABLE = EXP2_TABLE.astype(np.uint32)
Y_BITS = 30
LINE_START, LINE_SLOPE = round(24 / 17 * 2**Y_BITS), round(8 / 17 * 2**Y_BITS)
"""24/17 - 8/17 d is within 1/17 of 1/d for 1 <= d <= 2."""


def wide_product(a: Int, b: Int) -> Int:
    """Return ``a * b`` of numbers below 2^32; said like this, LLVM multiplies 32 bits, not 64."""
    return np.uint64(np.uint32(a)) * np.uint64(np.uint32(b))


def round_quotient(d: Int) -> Int:
    """Return ``(2^40 + (d >> 1)) // d`` for 2^20 <= d <= 2^21.

    Newton's steps for 1/d, because vectors have no division: each squares the error, so that three
    leave 1.5e-10, far below the 2^-20 of one unit; the remainder tells which way to go then.
    """
    y = np.uint64(LINE_START) - (wide_product(d, LINE_SLOPE) >> np.uint64(SIGMOID_BITS))
    for _ in range(3):
        left = np.uint64(2 << Y_BITS) - (wide_product(d, y) >> np.uint64(SIGMOID_BITS))
        y = wide_product(y, left) >> np.uint64(Y_BITS)
    quotient = np.int64(y >> np.uint64(Y_BITS - SIGMOID_BITS))
    rest = (np.int64(1) << 2 * SIGMOID_BITS) + (np.int64(d) >> 1) - quotient * np.int64(d)
    return quotient + np.int64(rest >= np.int64(d)) - np.int64(rest < 0)


def sigmoid(x: Int, shift: Int) -> Int:
    """Return the sigmoid of ``x``, SIGMOID_BITS fraction bits; ``shift`` leaves LOGIT_BITS of x."""
    scaled = wide_product(max(x, -x), LOG2_E) + (np.uint64(1) << np.uint64(shift - 1))
    halvings = np.uint32(min(scaled >> np.uint64(shift), np.uint64(NOTHING_LEFT)))
    whole = halvings >> np.uint32(LOGIT_BITS)
    entry = TABLE[(halvings & np.uint32(FRACTION)) >> np.uint32(4)]
    rounding = np.uint32(np.uint32(1) << whole) >> np.uint32(1)
    e = np.uint32(entry + rounding) >> whole
    upper: Int = round_quotient(np.uint32(e + np.uint32(ONE)))
    return upper if x >= 0 else ONE - upper
