"""The sigmoid of gates on single values: ``ops/_sigmoid.py`` says what it means.

Its steps after the first depend on whole halvings and eight bits of their fraction alone, and after
22 halvings nothing is left of them: so all that it can be is in one table, of 21 KiB, and most
values are near its begin. One by one they take a quarter of the time of vectors of AVX-512 that
divide by Newton's steps.
"""

import numpy as np

from edgellm.ops._sigmoid import EXP2_TABLE, LOG2_E, LOGIT_BITS, SIGMOID_BITS
from edgellm.runtime.kernels._scalar import Int

ONE = 1 << SIGMOID_BITS
ENTRY_BITS = 8
"""Bits of the fraction of halvings that choose an entry of ``EXP2_TABLE``."""
LAST = ((SIGMOID_BITS + 1) << ENTRY_BITS) + 1
"""Of these 2^-ENTRY_BITS of a halving, the first that leave 0: 2^20 >> 21 still rounds to 1."""


def _uppers() -> tuple[int, ...]:
    """Return the sigmoids of positive values, by halvings of which ENTRY_BITS are the fraction."""
    found = []
    for place in range(LAST + 1):
        whole, entry = place >> ENTRY_BITS, int(EXP2_TABLE[place % len(EXP2_TABLE)])
        divisor = ONE + ((entry + ((1 << whole) >> 1)) >> whole)
        found.append((ONE * ONE + (divisor >> 1)) // divisor)
    return tuple(found)


UPPERS = np.array(_uppers(), np.int32)


def sigmoid(x: Int, shift: Int) -> Int:
    """Return the sigmoid of ``x``, SIGMOID_BITS fraction bits; ``shift`` leaves LOGIT_BITS of x."""
    # Said like this, LLVM multiplies 32 bits, not 64.
    scaled = np.uint64(np.uint32(max(x, -x))) * np.uint64(LOG2_E)
    # The same as to round to LOGIT_BITS and then to drop all but ENTRY_BITS of them.
    scaled += np.uint64(1) << np.uint64(shift - 1)
    place = min(scaled >> np.uint64(shift + LOGIT_BITS - ENTRY_BITS), np.uint64(LAST))
    upper: Int = UPPERS[place]
    return upper if x >= 0 else ONE - upper
