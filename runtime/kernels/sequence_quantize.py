"""SequenceQuantize: keys or values of whole sequences to int8, their mean taken off."""

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._jit import kernel
from edgellm.runtime.kernels._scalar import (
    INT32_MAX,
    Int,
    absmax_reciprocal,
    absmax_shift,
    clamp,
    stack_int32,
    stack_int64,
)

OFFSET = 2**31
STRIP = 64
"""Columns that are worked on together: a cache line or more of each row."""

Ints = npt.NDArray[np.int32]
Place = tuple[Int, Int, Int, Int]
"""Of a strip: begin and end of its rows, and of its columns, which are at most STRIP.

Rows are taken before columns, so that the compiler knows them to be contiguous.
"""


def write_facts(x: Ints, place: Place, mean: Ints, peak: Ints) -> None:
    """Write the mean of each column, and the largest ``|x - mean|``, at most 2^31 - 1."""
    begin, end, first, last = place
    total, low, high = stack_int64(STRIP), stack_int32(STRIP), stack_int32(STRIP)
    count, columns = np.int64(end - begin), last - first
    for m in range(columns):
        total[m], low[m], high[m] = np.int64(0), x[begin, first + m], x[begin, first + m]
    for t in range(begin, end):
        row = x[t][first:last]
        for m in range(columns):
            total[m] += np.int64(row[m])
        for m in range(columns):
            low[m], high[m] = min(low[m], row[m]), max(high[m], row[m])
    for m in range(columns):
        middle = (total[m] + count * OFFSET + count // 2) // count - OFFSET
        mean[m] = middle
        peak[m] = min(max(np.int64(high[m]) - middle, middle - np.int64(low[m])), INT32_MAX)


def write_codes(x: Ints, place: Place, mean: Ints, peak: Ints, codes: npt.NDArray[np.int8]) -> None:
    """Write ``round(127 * (x - mean) / peak)`` of each column."""
    begin, end, first, last = place
    reciprocal, middle = stack_int32(STRIP), stack_int64(STRIP)
    shift, half = stack_int64(STRIP), stack_int64(STRIP)
    columns = last - first
    for m in range(columns):
        reciprocal[m] = absmax_reciprocal(np.int64(peak[m]))  # at most 127 * 2^18
        shift[m] = absmax_shift(np.int64(peak[m]))
        half[m] = np.int64(1) << (shift[m] - 1)
        middle[m] = mean[m]
    for t in range(begin, end):
        row, out = x[t][first:last], codes[t][first:last]
        for m in range(columns):
            centred = clamp(np.int64(row[m]) - middle[m], -INT32_MAX, INT32_MAX)
            # As int32 each: a product of 32 bits is one instruction, of 64 it is several.
            wide = np.int64(np.int32(centred)) * np.int64(reciprocal[m])
            out[m] = (wide + half[m]) >> shift[m]


def share_peaks(peak: Ints) -> None:
    """Give all columns the largest peak."""
    most = np.int32(0)
    for m in range(peak.shape[0]):
        most = max(most, peak[m])
    for m in range(peak.shape[0]):
        peak[m] = most


@kernel("SequenceQuantize")
def sequence_quantize(
    thread: int,
    threads: int,
    x: Ints,  # (T, M)
    ends: npt.NDArray[np.int64],  # (B,)
    codes: npt.NDArray[np.int8],  # (T, M)
    peak: Ints,  # (B, M)
    mean: Ints,  # (B, M)
    group: int,
) -> None:
    """Split by sequences and groups of columns, or whole strips of groups of one column.

    Keys have groups, values do not: a thread that has a piece more of one has less of the other.
    """
    width = group if group > 1 else min(STRIP, x.shape[1])
    pieces = (x.shape[1] + width - 1) // width
    first_item = (thread + 1) % threads if group > 1 else thread
    for item in range(first_item, ends.shape[0] * pieces, threads):
        number, first = item // pieces, item % pieces * width
        begin, end = (ends[number - 1] if number > 0 else 0), ends[number]
        last = min(first + width, x.shape[1])
        for m in range(first, last, STRIP):
            strip = begin, end, m, min(m + STRIP, last)
            columns = slice(m, strip[3])
            write_facts(x, strip, mean[number][columns], peak[number][columns])
        if group > 1:
            share_peaks(peak[number][first:last])
        for m in range(first, last, STRIP):
            strip = begin, end, m, min(m + STRIP, last)
            columns = slice(m, strip[3])
            write_codes(x, strip, mean[number][columns], peak[number][columns], codes)
