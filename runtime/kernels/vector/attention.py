"""Attention on a vector unit that multiplies bytes: all heads of a token pass over the cache.

The cache is read in the order of memory, a block of rows after the other and in it head by head;
what the queries of a head share is read once. The weights of the softmax have 15 bits: they are
multiplied as two signed bytes.

Values of the weight 0 are read as well. In a story of stories-bitnet 27 % of the weights of a head
are 0, but only 8 % are for all heads that share a row of the cache, and no four rows in line are
skipped by all; with random weights there are none.

Reading and computing hardly overlap: one thread of a server of 2024 reads 4,096 positions in 310 us
a layer, computes 340 us when they are in its caches, and takes 570 for both. With instructions
between them few loads wait at a time; what goes on beside arithmetic are prefetches to the level-2
cache, in the order of memory and some four lines at a time. With those, and both products with AMX
(a lane has four columns of one value, and three of four bytes of a weight are 0, so that values are
read as they are), it took 8 to 12 % less from memory and 20 % less from caches: 2 to 4 % of a
token, for as many lines again. To score four rows for all heads at a time, copied and prefetched in
the order of memory, took 3 % less from memory and 7 % more from caches.
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
    stack_int32,
    stack_int64,
)
from edgellm.runtime.kernels.attention import (
    MAX_HEAD_DIM,
    SCALE_BITS,
    best_score,
    copy_column,
    largest,
    write_mean,
)
from edgellm.runtime.kernels.simd import _unit
from edgellm.runtime.kernels.simd._unit import Intrinsic, VectorUnit
from edgellm.runtime.kernels.vector._attention_tiles import (
    ROW_BLOCK,
    mix_tile,
    score_tile,
    settle_tile,
)
from edgellm.runtime.kernels.vector._prompt_attention import (
    LEAST_TOKENS,
    attend_prompt,
    correct,
    join,
    most_queries,
    quantize,
)
from edgellm.runtime.kernels.vector._softmax_tiles import round_scales, weigh_tile, write_facts

SCORES = 1 << 18
"""Scores there is scratch memory for: of 4 heads at the longest context, of 64 at 4096 tokens."""
SCRATCH = SCORES + ROW_BLOCK
"""Whole vectors are read of them."""
MAX_HEADS = 64
PAIRS, FACTS = 2 * MAX_HEADS, 4 * MAX_HEADS
CODES, SUMS, PARTS = (
    MAX_HEADS * MAX_HEAD_DIM,
    2 * MAX_HEADS * MAX_HEAD_DIM,
    2 * MAX_HEADS * ROW_BLOCK,
)

Bytes = npt.NDArray[np.int8]
Ints = npt.NDArray[np.int32]
Totals = npt.NDArray[np.int64]
Some = tuple[Int, Int, Int]
Place = tuple[Int, Int, Int, Int, Int, Int]


def copy_scales(absmax: Ints, heads: Some, width: Int, out: Ints) -> None:
    """Copy the columns of (L, H) that belong to some heads, each to its own ``width`` numbers."""
    first, count, shared = heads
    begin = first // shared
    for group in range(begin, (first + count - 1) // shared + 1):
        place = (group - begin) * width
        copy_column(absmax, group, out[place : place + absmax.shape[0]])


def tiles_of(unit: VectorUnit, tile: Callable[[VectorUnit, int], Intrinsic]) -> Callable[..., None]:
    """Return ``run(own, cache, sums, steps, place, count)``: a tile for all queries of a head.

    ``own`` and ``sums`` have ``steps`` numbers for each query; see the tiles.
    """
    most = 4 if unit.tokens >= 4 else 2  # what the registers have room for
    many, two, one = (tile(unit, count) for count in (most, 2, 1))

    @register_jitable(**PART_POLICY)
    def run(own: Bytes, cache: Bytes, sums: Ints, steps: Pair, place: Place, count: Int) -> None:
        i = 0
        while i < count:
            mine, its = own[i * steps[0] :], sums[i * steps[1] :]
            if count - i >= most:
                many(mine, cache, its, place)
                i += most
            elif count - i >= 2:
                two(mine, cache, its, place)
                i += 2
            else:
                one(mine, cache, its, place)
                i += 1

    return run


def next_group(i: Int, heads: Some, row_bytes: Int, dim: Int) -> Some:
    """Return the group of head i, the first head of the next, and how far ahead that is read.

    Behind the last group, which are the rows of the next block of the first one.
    """
    first, count, shared = heads
    group = (first + i) // shared
    after = min((group + 1) * shared - first, count)
    back = (group - first // shared) * dim
    return group, after, dim if after < count else ROW_BLOCK * row_bytes - back


def score_over(unit: VectorUnit) -> Callable[..., None]:
    """Return ``run(codes, key, dots, heads, rows)``: the dot products of all rows and heads.

    Heads are (first, count, how many share a head of the cache), rows are (begin, end, width).
    """
    score = tiles_of(unit, score_tile)

    @register_jitable(**PART_POLICY)
    def run(codes: Bytes, key: Bytes, dots: Ints, heads: Some, rows: Some) -> None:
        begin, end, width = rows
        dim = key.shape[2]
        for first in range(begin, end, ROW_BLOCK):
            last = min(first + ROW_BLOCK, end)
            i: Int = 0
            while i < heads[1]:
                group, after, ahead = next_group(i, heads, key.shape[1] * dim, dim)
                place = group, first, last, begin, width, ahead
                score(codes[i * dim :], key, dots[i * width :], (dim, width), place, after - i)
                i = after

    return run


def mix_over(unit: VectorUnit) -> Callable[..., None]:
    """Return ``run(dots, scales, value, facts, sums, place)``.

    For a block of rows and a head of the cache it makes weights of the scores of all its queries,
    as ``facts`` say, and adds the values times them to the first of ``sums``; the second are those
    of ``weigh_tile``. Scales are those of the keys, and of the values as ``round_scales`` writes
    them. ``place`` is heads and rows as ``score_over`` takes them.
    """
    weigh, mix = weigh_tile(unit), tiles_of(unit, mix_tile)

    @register_jitable(**PART_POLICY)
    def run(
        dots: Ints,
        scales: tuple[Ints, Ints],
        value: Bytes,
        facts: Totals,
        sums: tuple[Ints, Totals],
        place: tuple[Some, Some],
    ) -> None:
        heads, (begin, end, width) = place
        dim = value.shape[2]
        parts = stack_int8(PARTS)
        steps = 2 * ROW_BLOCK, 2 * dim
        for first in range(begin, end, ROW_BLOCK):
            last = min(first + ROW_BLOCK, end)
            sizes = last - first, ROW_BLOCK
            i: Int = 0
            while i < heads[1]:
                group, after, ahead = next_group(i, heads, value.shape[1] * dim, dim)
                column = (group - heads[0] // heads[2]) * width + first
                keys, folds = scales[0][column:], scales[1][column:]
                for q in range(i, after):
                    own_dots, own_facts = dots[q * width + first - begin :], facts[4 * q :]
                    own_parts = parts[2 * (q - i) * ROW_BLOCK :]
                    weigh(own_dots, keys, folds, own_parts, sums[1][2 * q :], own_facts, sizes)
                here = group, first, last, first, ROW_BLOCK, ahead
                mix(parts, value, sums[0][2 * i * dim :], steps, here, after - i)
                i = after

    return run


def build(unit: VectorUnit) -> Callable[..., None]:
    """Return the kernel: the portable one for units that do not multiply bytes in four."""
    plain = portable.attention.py
    if not unit.panels:
        return plain
    plain = register_jitable(**PART_POLICY)(plain)
    attend, attend_many = attend_heads(unit), attend_prompt(unit)

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
        most = most_queries(length, dim)
        if rows >= LEAST_TOKENS and most >= heads // groups:
            work, cache = (thread, threads, most), (key, key_absmax, value, value_absmax)
            attend_many(work, query, cache, y, scaling, window)
            return
        by_rows = rows >= 2 * threads
        head, last_head = (0, heads) if by_rows else share(heads, thread, threads)
        first_row, row_step = (thread, threads) if by_rows else (0, 1)
        width = (length + 3) // 4 * 4
        most = min(SCORES // width, MAX_HEADS)
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

    ``place`` is heads and rows as ``score_over`` takes them; ``scales`` hold what ``copy_scales``
    wrote for keys and for values.
    """
    score, mix, settle = score_over(unit), mix_over(unit), settle_tile(unit)
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
        codes = stack_int8(CODES)
        steps, drops = stack_int64(PAIRS), stack_int64(MAX_HEADS)
        facts, divisors = stack_int64(FACTS), stack_int64(PAIRS)
        dots, rounded = stack_int32(SCRATCH), stack_int32(SCRATCH)
        sums, totals = stack_int32(SUMS), stack_int64(MAX_HEAD_DIM)
        for i in range(count):
            own = slice(i * dim, (i + 1) * dim)
            step = quantize(row[own], codes[own], scaling)
            steps[2 * i], steps[2 * i + 1] = step
        score(codes, caches[0], dots, place[0], place[1])
        done: Int = -1
        for i in range(count):
            group = (first + i) // shared - first // shared
            own = slice(group * width + begin, group * width + end)
            if group != done:
                drop = max(bit_length(largest(scales[1][own])) - SCALE_BITS, 0)
                round_scales(scales[1][own], drop, rounded[own])
                done = group
            drops[i] = drop
            own_dots = dots[i * width : i * width + end - begin]
            correct(own_dots, codes[i * dim : (i + 1) * dim], bias)
            best = best_score(own_dots, scales[0][own])
            write_facts(best, (steps[2 * i], steps[2 * i + 1]), facts[4 * i :])
        sums[: 2 * count * dim] = 0
        divisors[: 2 * count] = 0
        mix(dots, (scales[0], rounded), caches[1], facts, (sums, divisors), place)
        settle(sums, 2 * count * dim)
        for i in range(count):
            high, low = sums[2 * i * dim :], sums[(2 * i + 1) * dim :]
            join(high, low, bias * divisors[2 * i + 1], totals[:dim])
            write_mean(totals, divisors[2 * i], drops[i], out[i * dim : (i + 1) * dim])

    return attend
