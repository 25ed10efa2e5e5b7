"""Attention of one token in three parts: scores, weighted sums of values, and their means.

A thread does all for its heads, ``few_tokens``; or each part for its rows, see ``_divided_rows``.
"""

# mypy: disable-error-code="untyped-decorator,call-arg"
# An intrinsic is declared with the typing context as its first argument, and called without.

from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt
from numba.extending import register_jitable

from edgellm.runtime.kernels._attention import (
    MAX_HEAD_DIM,
    MAX_HEADS,
    SCALE_BITS,
    copy_column,
    largest,
    write_mean,
)
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
from edgellm.runtime.kernels.simd._unit import BLOCK, VectorUnit
from edgellm.runtime.kernels.vector._attention_scores import AHEAD
from edgellm.runtime.kernels.vector._attention_tiles import ROW_BLOCK, column_sums
from edgellm.runtime.kernels.vector._cache_codes import CacheCodes
from edgellm.runtime.kernels.vector._mix_pass import Sums, mix_over, read_sums_of, start_lines
from edgellm.runtime.kernels.vector._prompt_attention import Cache, quantize
from edgellm.runtime.kernels.vector._read_ahead import expect
from edgellm.runtime.kernels.vector._score_pass import Some, score_over
from edgellm.runtime.kernels.vector._softmax_tiles import round_scales, write_facts

SCORES = 1 << 18
"""Scores there is scratch memory for: of 4 heads at the longest context, of 64 at 4096 tokens."""
SCRATCH = SCORES + ROW_BLOCK
"""Whole vectors are read of them."""
PAIRS, FACTS = 2 * MAX_HEADS, 4 * MAX_HEADS
CODES = MAX_HEADS * MAX_HEAD_DIM

Bytes = npt.NDArray[np.int8]
Ints = npt.NDArray[np.int32]
Totals = npt.NDArray[np.int64]


def copy_scales(absmax: Ints, heads: Some, width: Int, out: Ints) -> None:
    """Copy the columns of (L, H) that belong to some heads, each to its own ``width`` numbers."""
    first, count, shared = heads
    begin = first // shared
    for group in range(begin, (first + count - 1) // shared + 1):
        place = (group - begin) * width
        copy_column(absmax, group, out[place : place + absmax.shape[0]])


def write_peaks(absmax: Ints, place: tuple[Some, Some], peaks: Totals) -> None:
    """Write the largest absmax of each head of the cache, of what ``copy_scales`` wrote."""
    (first, count, shared), (begin, end, width) = place
    for group in range((first + count - 1) // shared - first // shared + 1):
        peaks[group] = largest(absmax[group * width + begin : group * width + end])


def scratch_of(unit: VectorUnit) -> Callable[[int], Sums]:
    """Return what gives scratch memory for sums as a unit makes them."""
    return stack_int32 if unit.adds_fours else stack_int64


def drop_of(peak: Int) -> Int:
    """Return how many bits the scales of values lose that have a peak."""
    return max(bit_length(peak) - SCALE_BITS, 0)


@cache
def score_heads(unit: VectorUnit, cached: CacheCodes) -> Callable[..., None]:
    """Return ``run(row, key, scales, dots, facts, place, scaling)``: scores of some heads.

    ``place`` is heads and rows as ``score_over`` takes them, and ``dots`` are as it writes them;
    facts are the best scores, and a pair for each head, as ``quantize`` returns it.
    """
    score, per_byte = score_over(unit, cached), cached.per_byte

    @register_jitable(**PART_POLICY)
    def run(
        row: Ints,
        key: Bytes,
        scales: Ints,
        dots: Ints,
        facts: tuple[Totals, Totals],
        place: tuple[Some, Some],
        scaling: Pair,
    ) -> None:
        best, steps = facts
        count, dim = place[0][1], key.shape[2] * per_byte
        codes, lines = stack_int8(CODES)[: count * dim], stack_int64(2)
        begin, end = place[1][0], place[1][1]
        read = start_lines(lines, key, place[0], begin)
        ahead = min(end - begin, AHEAD) * (read // BLOCK) // count
        for i in range(count):
            expect(key, lines, read, ahead)
            own = slice(i * dim, (i + 1) * dim)
            step = quantize(row[own], codes[own], scaling)
            steps[2 * i], steps[2 * i + 1] = step
        score(codes, key, scales, dots, best, place)

    return run


@cache
def mix_heads(unit: VectorUnit, cached: CacheCodes) -> Callable[..., None]:
    """Return ``run(value, scales, dots, facts, sums, place)``: add up the values of some heads.

    ``scales`` are those of keys and of values; facts are as ``score_heads`` writes them, and what
    ``write_peaks`` does. To ``sums`` it adds what ``mix_over`` does.
    """
    mix = mix_over(unit, cached)

    @register_jitable(**PART_POLICY)
    def run(
        value: Bytes,
        scales: tuple[Ints, Ints],
        dots: Ints,
        facts: tuple[Totals, Totals, Totals],
        sums: tuple[Sums, Totals],
        place: tuple[Some, Some],
    ) -> None:
        best, steps, peaks = facts
        (first, count, shared), (begin, end, width) = place
        rounded, lines, wanted = stack_int32(SCRATCH), stack_int64(2), stack_int64(FACTS)
        read = start_lines(lines, value, place[0], begin)
        ahead = min(end - begin, ROW_BLOCK) * (read // BLOCK) // count
        done: Int = -1
        for i in range(count):
            group = (first + i) // shared - first // shared
            own = slice(group * width + begin, group * width + end)
            if group != done:
                round_scales(scales[1][own], drop_of(peaks[group]), rounded[own])
                done = group
            expect(value, lines, read, ahead)
            write_facts(best[i], (steps[2 * i], steps[2 * i + 1]), wanted[4 * i :])
        mix(dots, (scales[0], rounded), value, wanted, sums, place)

    return run


@cache
def mean_of_head(unit: VectorUnit, cached: CacheCodes) -> Callable[..., None]:
    """Return ``run(sums, weights, peak, out)``: the mean of a head, of its own sums."""
    read_sums = read_sums_of(unit)
    bias, limit = np.int64(cached.bias(unit)), cached.limit

    @register_jitable(**PART_POLICY)
    def run(sums: Sums, weights: Totals, peak: Int, out: Totals) -> None:
        totals = stack_int64(MAX_HEAD_DIM)
        read_sums(sums, 0, bias * weights[1], totals[: out.shape[0]])
        write_mean(totals, weights[0] * limit, drop_of(peak), out)

    return run


def attend_heads(unit: VectorUnit, cached: CacheCodes) -> Callable[..., None]:
    """Return ``attend(row, out, caches, scales, place, scaling)``: some heads at one position.

    ``place`` is heads and rows as ``score_over`` takes them; ``scales`` hold what ``copy_scales``
    wrote for keys and for values.
    """
    score, mix, mean = (part(unit, cached) for part in (score_heads, mix_heads, mean_of_head))
    per_byte = cached.per_byte
    stack_sums, sums_of_column = scratch_of(unit), column_sums(unit)
    sums_room = sums_of_column * CODES

    @register_jitable(**PART_POLICY)
    def attend(
        row: Ints,
        out: Totals,
        caches: tuple[Bytes, Bytes],
        scales: tuple[Ints, Ints],
        place: tuple[Some, Some],
        scaling: Pair,
    ) -> None:
        (first, count, shared), dim = place[0], caches[0].shape[2] * per_byte
        best, steps, peaks = stack_int64(MAX_HEADS), stack_int64(PAIRS), stack_int64(MAX_HEADS)
        dots, weights = stack_int32(SCRATCH), stack_int64(PAIRS)
        sums = stack_sums(sums_room)[: sums_of_column * count * dim]
        score(row, caches[0], scales[0], dots, (best, steps), place, scaling)
        write_peaks(scales[1], place, peaks)
        sums[:] = 0
        weights[: 2 * count] = 0
        mix(caches[1], scales, dots, (best, steps, peaks), (sums, weights), place)
        for i in range(count):
            own = sums[sums_of_column * i * dim :]
            peak = peaks[(first + i) // shared - first // shared]
            mean(own, weights[2 * i :], peak, out[i * dim : (i + 1) * dim])

    return attend


def few_tokens(unit: VectorUnit, cached: CacheCodes) -> Callable[..., None]:
    """Return ``attend(work, query, cache, y, scaling, window)``: one token after the other.

    ``work`` are thread and threads, which divide the tokens, or the heads where tokens are few.
    """
    attend_some, per_byte = attend_heads(unit, cached), cached.per_byte

    @register_jitable(**PART_POLICY)
    def attend(
        work: Pair, query: Ints, cache: Cache, y: Totals, scaling: Pair, window: Int
    ) -> None:
        (thread, threads), caches = work, (cache[0], cache[2])
        length, groups, dim = cache[0].shape[0], cache[0].shape[1], cache[0].shape[2] * per_byte
        rows, heads = query.shape[0], query.shape[1] // dim
        by_rows = rows >= 2 * threads
        head, last_head = (0, heads) if by_rows else share(heads, thread, threads)
        first_row, row_step = (thread, threads) if by_rows else (0, 1)
        width = (length + ROW_BLOCK - 1) // ROW_BLOCK * ROW_BLOCK
        most = min(SCORES // width, MAX_HEADS)
        scales = stack_int32(SCRATCH), stack_int32(SCRATCH)
        while head < last_head:
            some = head, min(most, last_head - head), heads // groups
            copy_scales(cache[1], some, width, scales[0])
            copy_scales(cache[3], some, width, scales[1])
            columns = slice(head * dim, (head + some[1]) * dim)
            for t in range(first_row, rows, row_step):
                end = length - rows + t + 1
                begin = max(end - window, 0) if window > 0 else 0
                place = some, (begin, end, width)
                attend_some(query[t, columns], y[t, columns], caches, scales, place, scaling)
            head += some[1]

    return attend
