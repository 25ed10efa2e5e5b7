"""Attention on a vector unit that multiplies bytes: all heads of a token pass over the cache.

The cache is read in the order of memory, a block of rows after the other and in it head by head;
what the queries of a head share is read once. The weights of the softmax have 15 bits: they are
multiplied as two signed bytes.

Values of the weight 0 are read as well. In a story of stories-bitnet 27 % of the weights of a head
are 0, but only 8 % are for all heads that share a row of the cache, and no four rows in line are
skipped by all; with random weights there are none.
"""

# mypy: disable-error-code="untyped-decorator"

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from numba.extending import register_jitable

from edgellm.runtime.kernels import attention as portable
from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._scalar import (
    Int,
    Pair,
    bit_length,
    share,
    stack_int8,
    stack_int16,
    stack_int32,
    stack_int64,
)
from edgellm.runtime.kernels.attention import (
    BLOCK,
    MAX_HEAD_DIM,
    SCALE_BITS,
    best_score,
    copy_column,
    fold,
    largest,
    quantize_query,
    weigh,
    write_mean,
)
from edgellm.runtime.kernels.simd import _unit
from edgellm.runtime.kernels.simd._unit import Intrinsic, VectorUnit
from edgellm.runtime.kernels.vector._attention_tiles import mix_tile, score_tile, settle_tile

SCRATCH = 1 << 18
"""Scores there is scratch memory for: of 4 heads at the longest context, of 64 at 4096 tokens."""
MAX_HEADS = 64
CODES, SUMS, PARTS, STEPS = (
    MAX_HEADS * MAX_HEAD_DIM,
    2 * MAX_HEADS * MAX_HEAD_DIM,
    2 * SCRATCH,
    2 * MAX_HEADS,
)
ROW_BLOCK = 64
"""Rows of the cache that are read for all heads before the next."""

Bytes = npt.NDArray[np.int8]
Ints = npt.NDArray[np.int32]
Totals = npt.NDArray[np.int64]
Some = tuple[Int, Int, Int]


def copy_scales(absmax: Ints, heads: Some, width: Int, out: Ints) -> None:
    """Copy the columns of (L, H) that belong to some heads, each to its own ``width`` numbers."""
    first, count, shared = heads
    begin = first // shared
    for group in range(begin, (first + count - 1) // shared + 1):
        place = (group - begin) * width
        copy_column(absmax, group, out[place : place + absmax.shape[0]])


def write_query(head: Ints, scaling: Pair, codes: Bytes, code_sum: Totals) -> Pair:
    """Write the int8 codes of a query and their sum; return the step of ``quantize_query``."""
    wide = stack_int16(MAX_HEAD_DIM)
    step = quantize_query(head, wide, scaling)
    total = np.int32(0)
    for d in range(head.shape[0]):
        codes[d] = wide[d]
        total = np.int32(total + wide[d])
    code_sum[0] = total
    return step


def add(numbers: Ints, term: Int) -> None:
    """Add to each of some numbers."""
    for j in range(numbers.shape[0]):
        numbers[j] += np.int32(term)


def split(folded: npt.NDArray[np.int16], high: Bytes, low: Bytes) -> Int:
    """Write weights, at most 32591, as ``256 * high + low``, signed bytes; return their sum."""
    total = np.int64(0)
    for j in range(high.shape[0]):
        upper = np.int16((folded[j] + np.int16(128)) >> 8)
        high[j] = upper
        low[j] = folded[j] - (upper << 8)
        total += folded[j]
    return total


def write_weights(
    dots: Ints, scales: tuple[Ints, Ints], step: Pair, drop: Int, parts: Bytes
) -> Pair:
    """Write the weights of a query as two parts, and zeros behind each.

    Args:
        dots: (n,) its dot products.
        scales: (n,) the absmax of the keys and of the values.
        step: see ``quantize_query``.
        drop: see ``fold``.
        parts: (2 * width,) with width > n, or n a multiple of 4.

    Returns:
        The sum of the weights, and that of the weights with the scales of the values.
    """
    length, width = dots.shape[0], parts.shape[0] // 2
    weights, folded = stack_int32(BLOCK), stack_int16(BLOCK)
    best = best_score(dots, scales[0])
    total, folded_total = np.int64(0), np.int64(0)
    for begin in range(0, length, BLOCK):
        end = min(begin + BLOCK, length)
        count = end - begin
        total += weigh(best, step, dots[begin:end], scales[0][begin:end], weights[:count])
        fold(weights[:count], scales[1][begin:end], drop, folded)
        high, low = parts[begin:end], parts[width + begin : width + end]
        folded_total += split(folded, high, low)
    for j in range(length, (length + 3) // 4 * 4):
        parts[j] = parts[width + j] = 0
    return total, folded_total


def join(parts: Ints, bias: Int, totals: Totals) -> None:
    """Write ``256 * high + low - bias`` for the sums of both parts."""
    dim = totals.shape[0]
    for d in range(dim):
        totals[d] = (np.int64(parts[d]) << 8) + np.int64(parts[dim + d]) - bias


def pass_over(
    unit: VectorUnit, tile: Callable[[VectorUnit, int], Intrinsic]
) -> Callable[..., None]:
    """Return ``run(own, cache, sums, steps, heads, rows)``: a tile for all rows and heads.

    ``own`` and ``sums`` have ``steps`` numbers for each head; heads are (first, count, how many
    share a head of the cache), rows are (begin, end, width); see the tiles.
    """
    most = 4 if unit.tokens >= 4 else 2  # what the registers have room for
    many, two, one = (tile(unit, count) for count in (most, 2, 1))

    @register_jitable(**PART_POLICY)
    def run(
        own: Bytes,
        cache: Bytes,
        sums: Ints,
        steps: Pair,
        heads: Some,
        rows: Some,
    ) -> None:
        first_head, count, shared = heads
        begin, end, width = rows
        dim = cache.shape[2]
        next_block = ROW_BLOCK * cache.shape[1] * dim
        for first in range(begin, end, ROW_BLOCK):
            last = min(first + ROW_BLOCK, end)
            i = 0
            while i < count:
                group = (first_head + i) // shared
                after = min((group + 1) * shared - first_head, count)
                back = (group - first_head // shared) * dim
                ahead = dim if after < count else next_block - back
                place = group, first, last, begin, width, ahead
                while i < after:
                    mine, its = own[i * steps[0] :], sums[i * steps[1] :]
                    if after - i >= most:
                        many(mine, cache, its, place)
                        i += most
                    elif after - i >= 2:
                        two(mine, cache, its, place)
                        i += 2
                    else:
                        one(mine, cache, its, place)
                        i += 1

    return run


def build(unit: VectorUnit) -> Callable[..., None]:
    """Return the kernel: the portable one for units that do not multiply bytes in four."""
    plain = portable.attention.py
    if not unit.panels:
        return plain
    plain = register_jitable(**PART_POLICY)(plain)
    attend = attend_heads(unit)

    def attention(
        thread: int,
        threads: int,
        query: npt.NDArray[np.int32],  # (T, M)
        key: npt.NDArray[np.int8],  # (L, H, D)
        key_absmax: npt.NDArray[np.int32],  # (L, H)
        value: npt.NDArray[np.int8],  # (L, H, D)
        value_absmax: npt.NDArray[np.int32],  # (L, H)
        y: npt.NDArray[np.int64],  # (T, M)
        scaling_mantissa: int,
        scaling_exponent: int,
        window: int,
    ) -> None:
        length, groups, dim = key.shape
        scaling = scaling_mantissa, scaling_exponent
        if dim % _unit.BLOCK != 0:
            scales = key_absmax, value_absmax
            plain(thread, threads, query, key, scales[0], value, scales[1], y, *scaling, window)
            return
        rows, heads = query.shape[0], query.shape[1] // dim
        by_rows = rows >= 2 * threads
        head, last_head = (0, heads) if by_rows else share(heads, thread, threads)
        first_row, row_step = (thread, threads) if by_rows else (0, 1)
        width = (length + 3) // 4 * 4
        most = min(SCRATCH // width, MAX_HEADS)
        key_scales, value_scales = stack_int32(SCRATCH), stack_int32(SCRATCH)
        while head < last_head:
            some = head, min(most, last_head - head), heads // groups
            copy_scales(key_absmax, some, width, key_scales)
            copy_scales(value_absmax, some, width, value_scales)
            columns = slice(head * dim, (head + some[1]) * dim)
            for t in range(first_row, rows, row_step):
                end = length - rows + t + 1
                begin = max(end - window, 0) if window > 0 else 0
                caches, scales = (key, value), (key_scales, value_scales)
                place = begin, end, width
                attend(query[t, columns], y[t, columns], caches, scales, (some, place), scaling)
            head += some[1]

    return attention


def attend_heads(unit: VectorUnit) -> Callable[..., None]:
    """Return ``attend(row, out, caches, scales, place, scaling)``: some heads at one position.

    ``place`` is heads and rows as ``pass_over`` takes them; ``scales`` hold what ``copy_scales``
    wrote for keys and for values.
    """
    score, mix, settle = pass_over(unit, score_tile), pass_over(unit, mix_tile), settle_tile(unit)
    bias = np.int64(unit.byte_bias)

    @register_jitable(**PART_POLICY)
    def attend(
        row: Ints,
        out: Totals,
        caches: tuple[Bytes, Bytes],
        scales: tuple[Ints, Ints],
        place: tuple[Some, Some],
        scaling: Pair,
    ) -> None:
        (first, count, shared), (begin, end, width) = place
        dim = caches[0].shape[2]
        codes, code_sums = stack_int8(CODES), stack_int64(MAX_HEADS)
        steps, divisors = stack_int64(STEPS), stack_int64(MAX_HEADS)
        biases, drops = stack_int64(MAX_HEADS), stack_int64(MAX_HEADS)
        dots, parts = stack_int32(SCRATCH), stack_int8(PARTS)
        sums, totals = stack_int32(SUMS), stack_int64(MAX_HEAD_DIM)
        for i in range(count):
            own = slice(i * dim, (i + 1) * dim)
            step = write_query(row[own], scaling, codes[own], code_sums[i : i + 1])
            steps[2 * i], steps[2 * i + 1] = step
        score(codes, caches[0], dots, (dim, width), place[0], place[1])
        for i in range(count):
            column = ((first + i) // shared - first // shared) * width
            key_scales = scales[0][column + begin : column + end]
            value_scales = scales[1][column + begin : column + end]
            drops[i] = max(bit_length(largest(value_scales)) - SCALE_BITS, 0)
            own_dots = dots[i * width : i * width + end - begin]
            add(own_dots, -bias * code_sums[i])
            divisors[i], folded = write_weights(
                own_dots,
                (key_scales, value_scales),
                (steps[2 * i], steps[2 * i + 1]),
                drops[i],
                parts[2 * i * width : 2 * (i + 1) * width],
            )
            biases[i] = bias * folded
        sums[: 2 * count * dim] = 0
        mix(parts, caches[1], sums, (2 * width, 2 * dim), place[0], place[1])
        settle(sums, 2 * count * dim)
        for i in range(count):
            join(sums[2 * i * dim : 2 * (i + 1) * dim], biases[i], totals[:dim])
            write_mean(totals, divisors[i], drops[i], out[i * dim : (i + 1) * dim])

    return attend
