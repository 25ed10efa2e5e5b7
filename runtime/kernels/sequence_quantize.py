"""SequenceQuantize: keys or values of whole sequences to int8, their mean taken off."""

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._jit import kernel
from edgellm.runtime.kernels._scalar import (
    INT32_MAX,
    absmax_reciprocal,
    absmax_shift,
    clamp,
    round_shift,
    stack_int32,
    stack_int64,
)

OFFSET = 2**31
STRIP = 64
"""Columns that are worked on together: a cache line or more of each row."""

Ints = npt.NDArray[np.int32]


def write_means(rows: Ints, mean: Ints) -> None:
    """Write the mean of each of at most STRIP columns."""
    total = stack_int64(STRIP)
    count = np.int64(rows.shape[0])
    for m in range(rows.shape[1]):
        total[m] = 0
    for t in range(rows.shape[0]):
        for m in range(rows.shape[1]):
            total[m] += np.int64(rows[t, m])
    for m in range(rows.shape[1]):
        mean[m] = (total[m] + count * OFFSET + count // 2) // count - OFFSET


def write_peaks(rows: Ints, mean: Ints, peak: Ints) -> None:
    """Write the largest ``|x - mean|`` of each of at most STRIP columns, at most 2^31 - 1."""
    low, high = stack_int32(STRIP), stack_int32(STRIP)
    for m in range(rows.shape[1]):
        low[m] = high[m] = rows[0, m]
    for t in range(rows.shape[0]):
        for m in range(rows.shape[1]):
            low[m], high[m] = min(low[m], rows[t, m]), max(high[m], rows[t, m])
    for m in range(rows.shape[1]):
        middle = np.int64(mean[m])
        peak[m] = min(max(np.int64(high[m]) - middle, middle - np.int64(low[m])), INT32_MAX)


def write_codes(rows: Ints, mean: Ints, peak: Ints, codes: npt.NDArray[np.int8]) -> None:
    """Write ``round(127 * (x - mean) / peak)`` of at most STRIP columns."""
    reciprocal, shift = stack_int64(STRIP), stack_int64(STRIP)
    for m in range(rows.shape[1]):
        reciprocal[m] = absmax_reciprocal(np.int64(peak[m]))
        shift[m] = absmax_shift(np.int64(peak[m]))
    for t in range(rows.shape[0]):
        for m in range(rows.shape[1]):
            centred = clamp(np.int64(rows[t, m]) - np.int64(mean[m]), -INT32_MAX, INT32_MAX)
            codes[t, m] = round_shift(centred * reciprocal[m], shift[m])


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
    """Split by sequences and groups of columns, or whole strips of groups of one column."""
    width = group if group > 1 else min(STRIP, x.shape[1])
    pieces = (x.shape[1] + width - 1) // width
    for item in range(thread, ends.shape[0] * pieces, threads):
        number, first = item // pieces, item % pieces * width
        begin, end = (ends[number - 1] if number > 0 else 0), ends[number]
        last = min(first + width, x.shape[1])
        for m in range(first, last, STRIP):
            columns = slice(m, min(m + STRIP, last))
            write_means(x[begin:end, columns], mean[number, columns])
            write_peaks(x[begin:end, columns], mean[number, columns], peak[number, columns])
        if group > 1:
            share_peaks(peak[number, first:last])
        for m in range(first, last, STRIP):
            columns = slice(m, min(m + STRIP, last))
            averages, peaks = mean[number, columns], peak[number, columns]
            write_codes(x[begin:end, columns], averages, peaks, codes[begin:end, columns])
