"""The two inner sums of attention over a cache of 4 bits: rows are unpacked to int8 by blocks."""

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._attention_sums import Codes, Dots, Totals
from edgellm.runtime.kernels._attention_sums import add_rows as add_int8_rows
from edgellm.runtime.kernels._attention_sums import dot_rows as dot_int8_rows
from edgellm.runtime.kernels._int4 import unpack_row
from edgellm.runtime.kernels._scalar import Int, as_heads, stack_int8

ROWS = 64
"""That are unpacked at once."""
SCRATCH = ROWS * 512
"""Of heads of up to 512 columns."""

Packed = npt.NDArray[np.uint8]


def dot_rows(codes: Codes, key: Packed, group: Int, begin: Int, end: Int, dots: Dots) -> None:
    """Write ``codes . key[j, group]`` of both queries to ``dots[j]``, begin <= j < end."""
    dim = 2 * key.shape[2]
    rows = as_heads(stack_int8(SCRATCH)[: ROWS * dim], dim)
    for first in range(begin, end, ROWS):
        count = min(ROWS, end - first)
        for j in range(count):
            unpack_row(key[first + j, group], rows[j, 0])
        own = dots[0][first : first + count], dots[1][first : first + count]
        dot_int8_rows(codes, rows, 0, 0, count, own)


def add_rows(
    weights: Codes, value: Packed, group: Int, begin: Int, end: Int, totals: Totals
) -> None:
    """Add ``weights[j - begin] * value[j, group]`` to both totals, begin <= j < end."""
    dim = 2 * value.shape[2]
    rows = as_heads(stack_int8(SCRATCH)[: ROWS * dim], dim)
    for first in range(begin, end, ROWS):
        count, at = min(ROWS, end - first), first - begin
        for j in range(count):
            unpack_row(value[first + j, group], rows[j, 0])
        own = weights[0][at : at + count], weights[1][at : at + count]
        add_int8_rows(own, rows, 0, 0, count, totals)
