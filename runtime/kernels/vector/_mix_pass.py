"""The second pass of attention over the cache: the mean of the values of one token."""

# mypy: disable-error-code="untyped-decorator,call-arg"
# An intrinsic is declared with the typing context as its first argument, and called without.

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from numba.extending import register_jitable

from edgellm.runtime.kernels._attention import MAX_HEADS
from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._scalar import Int, stack_int8, stack_int64
from edgellm.runtime.kernels.simd._unit import BLOCK, VectorUnit
from edgellm.runtime.kernels.vector._attention_scores import most_in_pack
from edgellm.runtime.kernels.vector._attention_tiles import (
    ROW_BLOCK,
    column_sums,
    lines_of_mix,
    mix_tile,
    settle_tile,
)
from edgellm.runtime.kernels.vector._cache_codes import CacheCodes
from edgellm.runtime.kernels.vector._prompt_attention import join
from edgellm.runtime.kernels.vector._read_ahead import expect
from edgellm.runtime.kernels.vector._score_pass import Some, next_group
from edgellm.runtime.kernels.vector._softmax_tiles import weigh_tile
from edgellm.runtime.kernels.vector._word_mix import MOST, mix_words_tile

PARTS = 2 * MAX_HEADS * ROW_BLOCK

Bytes = npt.NDArray[np.int8]
Ints = npt.NDArray[np.int32]
Totals = npt.NDArray[np.int64]
Sums = Ints | Totals
"""Of both parts of weights, as ``settle_tile`` expects them; or of whole ones, int64."""
Place = tuple[Int, Int, Int, Int]


def start_lines(lines: Totals, cache: Bytes, heads: Some, row: Int) -> Int:
    """Write where reading ahead begins, at a row; return how many bytes of it the heads read."""
    dim = cache.shape[2]
    begin = heads[0] // heads[2]
    run = (next_group(heads[1] - 1, heads)[0] + 1 - begin) * dim
    lines[0], lines[1] = (row * cache.shape[1] + begin) * dim, run
    return run


def mixes_of(unit: VectorUnit, cached: CacheCodes) -> Callable[..., None]:
    """Return ``run(parts, value, sums, lines, place, count)``: a tile for so many queries."""
    tile, most = (mix_tile, most_in_pack(unit)) if unit.adds_fours else (mix_words_tile, MOST)
    many, two, one = (tile(unit, count, cached) for count in (most, 2, 1))
    sums_of_column, per_byte = column_sums(unit), cached.per_byte

    @register_jitable(**PART_POLICY)
    def run(
        parts: Bytes, value: Bytes, sums: Sums, lines: Totals, place: Place, count: Int
    ) -> None:
        i: Int = 0
        step = sums_of_column * value.shape[2] * per_byte
        while i < count:
            own, its = parts[2 * i * ROW_BLOCK :], sums[i * step :]
            if count - i >= most:
                many(own, value, its, lines, place)
                i += most
            elif count - i >= 2:
                two(own, value, its, lines, place)
                i += 2
            else:
                one(own, value, its, lines, place)
                i += 1

    return run


def mix_over(unit: VectorUnit, cached: CacheCodes) -> Callable[..., None]:
    """Return ``run(dots, scales, value, facts, sums, (heads, rows))``.

    For a block of rows and a head of the cache it makes weights of the scores of all its queries,
    as ``facts`` say, and adds the values times them to the first of ``sums``; the second are those
    of ``weigh_tile``. Scales are those of the keys, and of the values as ``round_scales`` writes
    them. Dots are as ``score_over`` writes them.

    The rows of the next block are read ahead, evenly: what is asked for in one go is waited for.
    """
    weigh, mix, per_byte = weigh_tile(unit), mixes_of(unit, cached), cached.per_byte
    sums_of_column = column_sums(unit)
    mixed, whole = lines_of_mix(unit, cached), ROW_BLOCK // per_byte  # lines of 64 columns

    @register_jitable(**PART_POLICY)
    def run(
        dots: Ints,
        scales: tuple[Ints, Ints],
        value: Bytes,
        facts: Totals,
        sums: tuple[Sums, Totals],
        place: tuple[Some, Some],
    ) -> None:
        heads, (begin, end, width) = place
        dim = value.shape[2] * per_byte
        parts, lines = stack_int8(PARTS), stack_int64(2)
        left = (whole - mixed) * (dim // BLOCK)
        for first in range(begin, end, ROW_BLOCK):
            last = min(first + ROW_BLOCK, end)
            sizes = last - first, ROW_BLOCK
            own_dots = dots[(first - begin) * heads[1] :]
            reading = start_lines(lines, value, heads, last if last < end else first)
            i: Int = 0
            while i < heads[1]:
                group, after = next_group(i, heads)
                column = (group - heads[0] // heads[2]) * width + first
                keys, folds = scales[0][column:], scales[1][column:]
                for q in range(i, after):
                    expect(value, lines, reading, left // (after - i))
                    own_parts = parts[2 * (q - i) * ROW_BLOCK :]
                    here, out = own_dots[q * ROW_BLOCK :], sums[1][2 * q :]
                    weigh(here, keys, folds, own_parts, out, facts[4 * q :], sizes)
                rows = group, first, last, reading
                mix(parts, value, sums[0][sums_of_column * i * dim :], lines, rows, after - i)
                i = after

    return run


def read_sums_of(unit: VectorUnit) -> Callable[..., None]:
    """Return ``read(sums, i, extra, totals)``: the sums of head i, less what a bias adds."""
    settle = settle_tile(unit)

    @register_jitable(**PART_POLICY)
    def read_parts(sums: Ints, i: Int, extra: Int, totals: Totals) -> None:
        dim = totals.shape[0]
        high, low = sums[2 * i * dim :], sums[(2 * i + 1) * dim :]
        settle(high, 2 * dim)
        join(high, low, extra, totals)

    @register_jitable(**PART_POLICY)
    def read_whole(sums: Totals, i: Int, extra: Int, totals: Totals) -> None:
        dim = totals.shape[0]
        for d in range(dim):
            totals[d] = sums[i * dim + d] - extra

    return read_parts if unit.adds_fours else read_whole
