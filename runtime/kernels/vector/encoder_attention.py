"""EncoderAttention on a vector unit: both its products are those of linears.

Keys and values of a head are copied to where a matrix product takes them as weights, the values
turned. A weight of the softmax has 15 bits and is multiplied as two signed bytes.
"""

# mypy: disable-error-code="untyped-decorator"

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from numba.extending import register_jitable

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
    MEAN_BITS,
    RECIPROCAL_127,
    quantize_query,
    weigh,
)
from edgellm.runtime.kernels.simd._unit import BLOCK, VectorUnit
from edgellm.runtime.kernels.vector._products import Product, int8_product
from edgellm.runtime.kernels.vector._tiles import as_matrix

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
MIN_PADDED = 24
"""So few rows are not padded."""
MIN_SHARED = 32
"""Rows of a head that a thread works on at least, unless there are fewer."""

Bytes = npt.NDArray[np.int8]
Ints = npt.NDArray[np.int32]
Totals = npt.NDArray[np.int64]


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


def copy_rows(rows: Bytes, out: Bytes) -> None:
    """Copy (n, D) into a larger matrix, zeros behind."""
    count, dim = rows.shape
    for j in range(count):
        for d in range(dim):
            out[j, d] = rows[j, d]
        for d in range(dim, out.shape[1]):
            out[j, d] = 0
    for j in range(count, out.shape[0]):
        for d in range(out.shape[1]):
            out[j, d] = 0


def copy_turned(rows: Bytes, out: Bytes, sums: Ints) -> None:
    """Copy (n, D) turned into a larger matrix, zeros behind; write 128 times the columns' sums."""
    count, dim = rows.shape
    for d in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[d, j] = 0
    for d in range(dim):
        total = np.int32(0)
        for j in range(count):
            out[d, j] = rows[j, d]
            total = np.int32(total + rows[j, d])
        sums[d] = total << np.int32(7)


def split_weights(weights: Ints, high: Bytes, low: Bytes) -> None:
    """Write weights as ``256 * high + low + 128``, zeros behind."""
    count = weights.shape[0]
    for j in range(count):
        high[j] = weights[j] >> 8
        low[j] = (weights[j] & 255) - 128
    for j in range(count, high.shape[0]):
        high[j] = low[j] = 0


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
    reciprocal = (1 << (bits + 30)) // divisor
    drop = max(bits - 24, 0)
    shift = bits + 30 - drop - MEAN_BITS
    for d in range(y.shape[0]):
        codes = round_shift(round_shift(totals[d], drop) * reciprocal, shift)
        wide = round_shift(codes * scales[d], MEAN_BITS + 6) + np.int64(mean[d])
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
            for head in range(heads):
                columns = slice(head * dim, (head + 1) * dim)
                cache = key[begin:end, columns], value[begin:end, columns]
                peak = np.int64(key_peak[number, head * dim])
                facts = peak, scaling_mantissa, scaling_exponent
                write_scales(value_peak[number, columns], scales[:dim])
                for first in range(begin, end, step):
                    item += 1
                    if item % threads == thread:
                        rows = slice(first, min(first + step, end))
                        mean = value_mean[number, columns]
                        attend(query[rows, columns], cache, facts, (scales, mean), y[rows, columns])

    return encoder_attention


def attend_with(unit: VectorUnit) -> Callable[..., None]:
    """Return ``attend(query, cache, facts, means, y)``: some rows of a head.

    ``cache`` is keys and values; ``facts`` are the peak of the keys and the scaling; ``means`` what
    ``write_scales`` wrote and the means of the values.
    """
    product = int8_product(unit)
    score, mix = score_with(product), mix_with(product)

    @register_jitable(**PART_POLICY)
    def attend(
        query: Ints,
        cache: tuple[Bytes, Bytes],
        facts: tuple[Int, Int, Int],
        means: tuple[Totals, Ints],
        y: Totals,
    ) -> None:
        (rows, dim), length = query.shape, cache[0].shape[0]
        tall = round_up(rows, TOKENS) if rows >= MIN_PADDED else rows
        codes = as_matrix(stack_int8(CODES), round_up(dim, BLOCK))[:tall]
        dots = as_matrix(stack_int32(SCORES), round_up(length, BLOCK))[:tall]
        wide_codes, totals = stack_int16(MAX_HEAD_DIM), as_matrix(stack_int64(SUMS), dim)
        steps, divisors = stack_int64(STEPS), stack_int64(QUERIES)
        for t in range(rows):
            step = quantize_query(query[t], wide_codes, facts[0], (facts[1], facts[2]))
            steps[2 * t], steps[2 * t + 1] = step
            for d in range(dim):
                codes[t, d] = wide_codes[d]
        score(codes, cache[0], dots)
        for t in range(rows):
            divisors[t] = weigh(dots[t, :length], (steps[2 * t], steps[2 * t + 1]))
            for d in range(dim):
                totals[t, d] = 0
        mix(dots[:rows, :length], tall, cache[1], totals)
        for t in range(rows):
            write_mean(totals[t], divisors[t], means[0], means[1], y[t])

    return attend


def score_with(product: Product) -> Callable[[Bytes, Bytes, Ints], None]:
    """Return ``score(codes, keys, dots)``: the dot products of some rows of codes and all keys."""

    @register_jitable(**PART_POLICY)
    def score(codes: Bytes, keys: Bytes, dots: Ints) -> None:
        copied = as_matrix(stack_int8(COPIED), codes.shape[1])
        for first in range(0, keys.shape[0], KEYS):
            some = keys[first : first + KEYS]
            weight = copied[: padded(some.shape[0])]
            copy_rows(some, weight)
            product(codes, weight, dots[:, first : first + weight.shape[0]])

    return score


def mix_with(product: Product) -> Callable[[Ints, Int, Bytes, Totals], None]:
    """Return ``mix(weights, tall, values, totals)``: add to totals values times weights.

    The products are of ``tall`` rows, at least as many as weights has.
    """

    @register_jitable(**PART_POLICY)
    def mix(weights: Ints, tall: Int, values: Bytes, totals: Totals) -> None:
        (length, dim), wide = values.shape, padded(values.shape[1])
        copied, room, value_sums = stack_int8(COPIED), stack_int8(PARTS), stack_int32(MAX_HEAD_DIM)
        sums = as_matrix(stack_int32(SUMS), wide)[: 2 * tall]
        for first in range(0, length, KEYS):
            end = min(first + KEYS, length)
            across = round_up(end - first, BLOCK)
            turned, parts = as_matrix(copied, across)[:wide], as_matrix(room, across)[: 2 * tall]
            copy_turned(values[first:end], turned, value_sums[:dim])
            for t in range(weights.shape[0]):
                split_weights(weights[t, first:end], parts[t], parts[tall + t])
            product(parts, turned, sums)
            for t in range(weights.shape[0]):
                add_parts(sums[t], sums[tall + t], value_sums, totals[t])

    return mix
