"""EncoderAttention on a vector unit: both its products are those of linears.

Keys and values of a head are copied to where a matrix product takes them as weights, the values
turned. A weight of the softmax has 15 bits and is multiplied as two signed bytes.
"""

# mypy: disable-error-code="untyped-decorator"

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from numba.extending import register_jitable

from edgellm.ops.encoder_attention import MEAN_BITS
from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._scalar import (
    INT32_MAX,
    Int,
    bit_length,
    clamp,
    round_shift,
    stack_int8,
    stack_int16,
    stack_int32,
    stack_int64,
)
from edgellm.runtime.kernels.encoder_attention import (
    MAX_HEAD_DIM,
    RECIPROCAL_127,
    quantize_query,
    weigh,
)
from edgellm.runtime.kernels.simd._unit import BLOCK, VectorUnit
from edgellm.runtime.kernels.vector._products import Product, int8_product
from edgellm.runtime.kernels.vector._tiles import as_matrix, store_word

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
MIN_SHARED = 32
"""Rows of a head that a thread works on at least, unless there are fewer."""

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


def rows_at_once(length: Int, dim: Int, shares: Int) -> Int:
    """Return how many rows of a head are worked on at once, if so many threads share it."""
    room = min(SCORES // round_up(length, BLOCK), SUMS // (2 * padded(dim)))
    most = min(QUERIES, room // TOKENS * TOKENS if room >= TOKENS else room)
    share = -(-length // shares)
    return min(most, max(share, MIN_SHARED))


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


def build(unit: VectorUnit) -> Callable[..., None]:
    """Return the kernel."""
    attend = attend_with(unit)

    def encoder_attention(
        thread: int,
        threads: int,
        query: npt.NDArray[np.int32],  # (T, M)
        key: npt.NDArray[np.int8],  # (T, M)
        key_peak: npt.NDArray[np.int32],  # (B, M)
        value: npt.NDArray[np.int8],  # (T, M)
        value_peak: npt.NDArray[np.int32],  # (B, M)
        value_mean: npt.NDArray[np.int32],  # (B, M)
        ends: npt.NDArray[np.int64],  # (B,)
        y: npt.NDArray[np.int64],  # (T, M)
        heads: int,
        scaling_mantissa: int,
        scaling_exponent: int,
    ) -> None:
        dim = query.shape[1] // heads
        scales = stack_int64(MAX_HEAD_DIM)
        item = 0
        for number in range(ends.shape[0]):
            begin, end = (ends[number - 1] if number > 0 else 0), ends[number]
            step = rows_at_once(end - begin, dim, 1 if heads % threads == 0 else threads)
            for column in range(0, heads * dim, dim):
                place = begin, end, column, column + dim
                facts = np.int64(key_peak[number, column]), scaling_mantissa, scaling_exponent
                means = scales, value_mean[number, column : column + dim]
                write_scales(value_peak[number, column : column + dim], scales)
                for first in range(begin, end, step):
                    item += 1
                    if item % threads == thread:
                        rows = first, min(first + step, end)
                        attend((query, key, value, y), rows, place, facts, means)

    return encoder_attention


def attend_with(unit: VectorUnit) -> Callable[..., None]:
    """Return ``attend(matrices, rows, place, facts, means)``: some rows of a head.

    ``matrices`` are query, key, value and y; ``place`` is where in them the sequence and the head
    are; ``facts`` are the peak of the keys and the scaling; ``means`` what ``write_scales`` wrote
    and the means of the values.
    """
    product = int8_product(unit)
    score, mix = score_with(product), mix_with(product)

    @register_jitable(**PART_POLICY)
    def attend(
        matrices: tuple[Ints, Bytes, Bytes, Totals],
        rows: tuple[Int, Int],
        place: Place,
        facts: tuple[Int, Int, Int],
        means: tuple[Totals, Ints],
    ) -> None:
        (query, key, value, y), (begin, end, column, last) = matrices, place
        first, count, dim, length = rows[0], rows[1] - rows[0], last - column, end - begin
        tall = round_up(count, TOKENS) if count >= MIN_PADDED else count
        inner, across = round_up(dim, BLOCK), round_up(length, BLOCK)
        codes: Bytes = as_matrix(stack_int8(CODES)[: tall * inner], inner)
        dots = as_matrix(stack_int32(SCORES)[: tall * across], across)
        wide_codes, totals = stack_int16(MAX_HEAD_DIM), as_matrix(stack_int64(SUMS), dim)
        steps, divisors = stack_int64(STEPS), stack_int64(QUERIES)
        for t in range(count):
            head, row = query[first + t, column:last], codes[t]
            step = quantize_query(head, wide_codes, facts[0], (facts[1], facts[2]))
            steps[2 * t], steps[2 * t + 1] = step
            for d in range(dim):
                row[d] = wide_codes[d]
        score(codes, key, place, dots)
        for t in range(count):
            divisors[t] = weigh(dots[t, :length], (steps[2 * t], steps[2 * t + 1]))
            for d in range(dim):
                totals[t, d] = 0
        mix(dots, count, value, place, totals)
        for t in range(count):
            write_mean(totals[t], divisors[t], means[0], means[1], y[first + t, column:last])

    return attend


def score_with(product: Product) -> Callable[[Bytes, Bytes, Place, Ints], None]:
    """Return ``score(codes, key, place, dots)``: the dot products of rows of codes and all keys."""

    @register_jitable(**PART_POLICY)
    def score(codes: Bytes, key: Bytes, place: Place, dots: Ints) -> None:
        begin, end, column, last = place
        inner = codes.shape[1]
        copied = stack_int8(COPIED)
        for first in range(begin, end, KEYS):
            after = min(first + KEYS, end)
            weight: Bytes = as_matrix(copied[: padded(after - first) * inner], inner)
            copy_rows(key, (first, after, column, last), weight)
            product(codes, weight, dots[:, first - begin : first - begin + weight.shape[0]])

    return score


def mix_with(product: Product) -> Callable[[Ints, Int, Bytes, Place, Totals], None]:
    """Return ``mix(weights, count, value, place, totals)``: add to totals values times weights.

    Of the rows of weights, ``count`` are used; the products are of all.
    """

    @register_jitable(**PART_POLICY)
    def mix(weights: Ints, count: Int, value: Bytes, place: Place, totals: Totals) -> None:
        begin, end, column, last = place
        tall, wide = weights.shape[0], padded(last - column)
        copied, room, value_sums = stack_int8(COPIED), stack_int8(PARTS), stack_int32(MAX_HEAD_DIM)
        sums: Ints = as_matrix(stack_int32(SUMS)[: 2 * tall * wide], wide)
        for first in range(begin, end, KEYS):
            after = min(first + KEYS, end)
            across = round_up(after - first, BLOCK)
            turned = as_matrix(copied[: wide * across], across)
            parts = as_matrix(room[: 2 * tall * across], across)
            copy_turned(value, (first, after, column, last), turned, value_sums)
            for t in range(count):
                own = weights[t, first - begin : after - begin]
                split_weights(own, parts[t], parts[tall + t])
            product(parts, turned, sums)
            for t in range(count):
                add_parts(sums[t], sums[tall + t], value_sums, totals[t])

    return mix
