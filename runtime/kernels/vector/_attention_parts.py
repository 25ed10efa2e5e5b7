"""What EncoderAttention on vector units does between its products, and how much at once."""

import numpy as np
import numpy.typing as npt

from edgellm.ops.encoder_attention import MEAN_BITS
from edgellm.runtime.kernels._scalar import (
    INT32_MAX,
    Int,
    bit_length,
    clamp,
    round_shift,
    stack_int64,
)
from edgellm.runtime.kernels.encoder_attention import MAX_HEAD_DIM, RECIPROCAL_127
from edgellm.runtime.kernels.simd._unit import BLOCK
from edgellm.runtime.kernels.vector._views import store_word

QUERIES = 256
"""Rows that are worked on at once; fewer where a sequence is long or a head is wide."""
KEYS = 1024
"""Keys that are copied at once."""
SCORES = 1 << 18
"""Scratch memory for scores: of 256 rows and 1024 keys, or of 4 rows of the longest sequence."""
SUMS = 1 << 16
"""Scratch memory for sums: of both parts of 256 rows of 128 columns, or of 64 rows of 512."""
CODES, COPIED, PARTS = QUERIES * MAX_HEAD_DIM, KEYS * MAX_HEAD_DIM, 2 * SCORES
STEPS = 2 * QUERIES
PANEL_ROWS, TILE_ROWS, TOKENS = 32, 4, 8
"""Products are fastest for a multiple of so many rows of weights, and of so many tokens."""
WORD = 8
"""Bytes."""
MIN_PADDED = 24
"""So few rows are not padded."""

Bytes = npt.NDArray[np.int8]
Ints = npt.NDArray[np.int32]
Totals = npt.NDArray[np.int64]
Place = tuple[Int, Int, Int, Int]
"""Begin and end of rows, and of columns. A row is taken before its columns, and matrices of scratch
memory have the rows that are used, so that the compiler knows rows to be contiguous."""


def round_up(size: Int, step: Int) -> Int:
    """Return the next multiple of a step."""
    return (size + step - 1) // step * step


def padded(size: Int) -> Int:
    """Return with how many rows of weights a product is fast."""
    return round_up(size, PANEL_ROWS if size >= PANEL_ROWS else TILE_ROWS)


def rows_at_once(length: Int, dim: Int) -> Int:
    """Return how many rows of a head are worked on at once: whole tiles, or 3 of the longest.

    There is room for a whole tile then too, whose rows have no block more than the sequence.
    """
    room = min(SCORES // (round_up(length, BLOCK) + BLOCK), SUMS // (2 * (padded(dim) + BLOCK)))
    step = TOKENS if room >= TOKENS else min(room, TILE_ROWS)
    return min(QUERIES, room // step * step)


def copy_rows(source: Bytes, place: Place, out: Bytes) -> None:
    """Copy a part of a matrix into a larger one, zeros behind."""
    begin, end, first, last = place
    for j in range(end - begin):
        row, copied = source[begin + j, first:last], out[j]
        for d in range(last - first):
            copied[d] = row[d]
        for d in range(last - first, out.shape[1]):
            copied[d] = 0
    for j in range(end - begin, out.shape[0]):
        for d in range(out.shape[1]):
            out[j, d] = 0


def copy_turned(source: Bytes, place: Place, out: Bytes, sums: Ints) -> None:
    """Copy a part of a matrix turned into a larger one; write 128 times the columns' sums.

    Eight bytes of a column are stored at once. The rows of ``out`` are whole words.
    """
    begin, end, first, last = place
    count, dim = end - begin, last - first
    words = stack_int64(MAX_HEAD_DIM)
    for d in range(dim):
        sums[d] = 0
    for j in range(0, count, WORD):
        for d in range(dim):
            words[d] = 0
        for i in range(min(WORD, count - j)):
            row = source[begin + j + i, first:last]
            for d in range(dim):
                words[d] |= np.int64(np.uint8(row[d])) << np.int64(8 * i)
            for d in range(dim):
                sums[d] += np.int32(row[d]) << np.int32(7)
        for d in range(dim):
            store_word(out, d, j, words[d])
    for d in range(out.shape[0]):
        for j in range(round_up(count, WORD) if d < dim else 0, out.shape[1]):
            out[d, j] = 0


def split_weights(weights: Ints, high: Bytes, low: Bytes) -> None:
    """Write weights as ``256 * high + low + 128``. What is behind them is multiplied by zeros."""
    count = weights.shape[0]
    for j in range(count):
        high[j] = weights[j] >> 8
    for j in range(count):
        low[j] = (weights[j] & 255) - 128


def add_parts(high: Ints, low: Ints, value_sums: Ints, totals: Totals) -> None:
    """Add ``256 * high + low`` and the rest to the totals."""
    for d in range(totals.shape[0]):
        totals[d] += (np.int64(high[d]) << 8) + np.int64(low[d]) + np.int64(value_sums[d])


def write_scales(peak: Ints, scales: Totals) -> None:
    """Write ``peak / 127 * 2^6`` of each column."""
    for d in range(peak.shape[0]):
        scales[d] = round_shift(np.int64(peak[d]) * RECIPROCAL_127, 31)


def write_mean(totals: Totals, divisor: Int, scales: Totals, mean: Ints, y: Totals) -> None:
    """Write ``total / divisor * scale + mean``."""
    bits = bit_length(divisor)
    less = np.int32((1 << (bits + 30)) // divisor - 1)  # the reciprocal itself may be 2^31
    drop = max(bits - 24, 0)
    shift = bits + 30 - drop - MEAN_BITS
    for d in range(y.shape[0]):
        # Factors as int32: totals are at most 128 * divisor, codes 128 * 2^MEAN_BITS.
        short = np.int64(np.int32(round_shift(totals[d], drop)))
        codes = np.int64(np.int32(round_shift(short * np.int64(less) + short, shift)))
        scaled = codes * np.int64(np.int32(scales[d]))
        wide = round_shift(scaled, MEAN_BITS + 6) + np.int64(mean[d])
        y[d] = clamp(wide, -INT32_MAX, INT32_MAX)
