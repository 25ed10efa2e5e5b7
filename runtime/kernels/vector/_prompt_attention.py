"""Attention of many tokens: scores and means of a block of queries are products of matrices.

Queries of a block are those of some tokens in line, of all heads that share a head of the cache.
They are multiplied with all keys that the last of them sees; each then weighs those that it sees
itself, and has zeros for the others. Integers are those of one token alone: only what is not seen
is skipped, or multiplied by 0.
"""

# mypy: disable-error-code="untyped-decorator,call-arg"
# An intrinsic is declared with the typing context as its first argument, and called without.

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from numba.extending import register_jitable

from edgellm.runtime.kernels._attention import (
    MAX_HEAD_DIM,
    MAX_LENGTH,
    SCALE_BITS,
    best_score,
    copy_column,
    largest,
    write_mean,
)
from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._scalar import (
    Int,
    Pair,
    absmax_reciprocal,
    absmax_shift,
    bit_length,
    normalize,
    product,
    round_shift,
    stack_int8,
    stack_int32,
    stack_int64,
)
from edgellm.runtime.kernels.simd._unit import BLOCK, VectorUnit
from edgellm.runtime.kernels.vector._cache_codes import CacheCodes, reader
from edgellm.runtime.kernels.vector._lanes import LANES
from edgellm.runtime.kernels.vector._panels import CHUNK, SPAN
from edgellm.runtime.kernels.vector._panels_of_rows import (
    TALL,
    bias_of,
    clear,
    fill_values,
    panels_of_keys,
    sweeps,
    tile_registers,
)
from edgellm.runtime.kernels.vector._softmax_tiles import round_scales, weigh_tile, write_facts
from edgellm.runtime.kernels.vector._tiles import as_matrix

LEAST_TOKENS = 16
"""From so many tokens on, this is faster than one token after the other; a block has as many."""
QUERIES = 256
"""Queries of a block: so many use a panel of keys or values."""
SCORES = 1 << 18
"""Scratch memory for scores: of 256 queries and 1008 keys, or of 16 and 16,368."""
SUMS = 1 << 17
"""Scratch memory for sums of both parts: of 256 queries of 240 columns."""
CODES, PARTS = 1 << 16, 2 * SCORES
PANEL_BYTES = 32 * SPAN
LAST_KEYS = 32 * MAX_HEAD_DIM
SCALES = MAX_LENGTH + LANES
"""Whole vectors are read of them."""
FACTS, STEPS, RESULTS = 4, 2 * QUERIES, 3 * QUERIES

Bytes = npt.NDArray[np.int8]
Ints = npt.NDArray[np.int32]
Totals = npt.NDArray[np.int64]
Cache = tuple[Bytes, Ints, Bytes, Ints]
"""Keys and values (L, H, D), each with its absmax (L, H)."""


def round_up(size: Int, step: Int) -> Int:
    """Return the next multiple of a step."""
    return (size + step - 1) // step * step


def row_width(length: Int) -> Int:
    """Return how many scores of a query there is room for: whole blocks, and a vector more."""
    return round_up(length, BLOCK) + BLOCK


def most_queries(length: Int, dim: Int) -> Int:
    """Return how many queries there is room for, a multiple of TALL or 0."""
    room = min(SCORES // row_width(length), SUMS // (2 * dim), CODES // dim, QUERIES)
    return room // TALL * TALL


def tokens_at_once(tokens: Int, threads: Int, groups: Int, bounds: Pair) -> Int:
    """Return how many tokens a block has, within bounds: few enough to have work for all."""
    least, most = bounds
    return min(most, max(tokens * groups // (2 * threads), least))


def quantize(head: Ints, codes: Bytes, scaling: Pair) -> Pair:
    """Write the codes of a query; return what a step of its scores is in halvings, dyadic."""
    low = high = np.int32(0)
    for d in range(head.shape[0]):
        low, high = min(low, head[d]), max(high, head[d])
    peak = max(np.int64(high), -np.int64(low))
    reciprocal, shift = np.int32(absmax_reciprocal(peak)), absmax_shift(peak)
    for d in range(head.shape[0]):
        codes[d] = round_shift(np.int64(head[d]) * np.int64(reciprocal), shift)
    mantissa, exponent = normalize(peak, 0)
    return product(mantissa, exponent, scaling[0], scaling[1])


def correct(numbers: Ints, codes: Bytes, bias: Int) -> None:
    """Take from sums what the bias of the weights adds to each."""
    total = np.int32(0)
    for d in range(codes.shape[0]):
        total = np.int32(total + codes[d])
    for j in range(numbers.shape[0]):
        numbers[j] -= np.int32(bias * total)


def copy_rows(source: Bytes, out: Bytes) -> None:
    """Copy all rows of a matrix to the first of another."""
    for j in range(source.shape[0]):
        row, copied = source[j], out[j]
        for d in range(row.shape[0]):
            copied[d] = row[d]


def join(high: Ints, low: Ints, bias: Int, totals: Totals) -> None:
    """Write ``256 * high + low - bias``."""
    for d in range(totals.shape[0]):
        totals[d] = (np.int64(high[d]) << 8) + np.int64(low[d]) - bias


def attend_prompt(
    attend_block: Callable[..., None], least: int, cached: CacheCodes
) -> Callable[..., None]:
    """Return ``attend(work, query, cache, y, scaling, window)`` for many tokens.

    ``work`` are thread and threads, and the queries of a block at most. Blocks, of at least so many
    tokens, are attended as ``block_attention`` does.
    """
    per_byte = cached.per_byte

    @register_jitable(**PART_POLICY)
    def attend(
        work: tuple[Int, Int, Int],
        query: Ints,
        cache: Cache,
        y: Totals,
        scaling: Pair,
        window: Int,
    ) -> None:
        thread, threads, most = work
        groups, dim = cache[0].shape[1], cache[0].shape[2] * per_byte
        tokens, shared = query.shape[0], query.shape[1] // dim // groups
        step = tokens_at_once(tokens, threads, groups, (least, most // shared))
        scales = stack_int32(SCALES), stack_int32(SCALES)
        for group in range(groups):
            copy_column(cache[1], group, scales[0])
            copy_column(cache[3], group, scales[1])
            for block, first in enumerate(range(0, tokens, step)):
                if (group + block) % threads == thread:  # later blocks see more keys
                    place = group, first, min(first + step, tokens), shared
                    attend_block(query, (cache[0], cache[2]), scales, y, place, (scaling, window))

    return attend


def block_attention(unit: VectorUnit, cached: CacheCodes) -> Callable[..., None]:
    """Return ``attend(query, caches, scales, y, (group, first, end, shared), (scaling, window))``.

    The tokens are those from ``first`` to ``end``; scales are the absmax of the group.
    """
    score, weigh, mix = score_with(unit, cached), weigh_with(unit), mix_with(unit, cached)
    begin_tiles, end_tiles = tile_registers(unit)
    per_byte = cached.per_byte

    @register_jitable(**PART_POLICY)
    def attend(
        query: Ints,
        caches: tuple[Bytes, Bytes],
        scales: tuple[Ints, Ints],
        y: Totals,
        place: tuple[Int, Int, Int, Int],
        attributes: tuple[Pair, Int],
    ) -> None:
        group, first, end, shared = place
        scaling, window = attributes
        length, dim = caches[0].shape[0], caches[0].shape[2] * per_byte
        past = length - query.shape[0]
        count, column = (end - first) * shared, group * shared * dim
        tall = round_up(count, TALL)
        begin = max(past + first + 1 - window, 0) if window > 0 else 0
        width = row_width(past + end - begin)
        codes: Bytes = as_matrix(stack_int8(CODES)[: tall * dim], dim)
        dots: Ints = as_matrix(stack_int32(SCORES)[: tall * width], width)
        parts: Bytes = as_matrix(stack_int8(PARTS)[: 2 * tall * width], width)
        sums: Ints = as_matrix(stack_int32(SUMS)[: 2 * tall * dim], dim)
        steps, facts = stack_int64(STEPS), stack_int64(RESULTS)
        for t in range(first, end):
            for i in range(shared):
                q, at = (t - first) * shared + i, column + i * dim
                steps[2 * q], steps[2 * q + 1] = quantize(
                    query[t][at : at + dim], codes[q], scaling
                )
        begin_tiles()
        score(codes, caches[0][:, group], dots, (begin, past + end))
        weigh(
            dots, codes, parts, scales, (steps, facts), (begin, past + first, count, shared, window)
        )
        mix(parts, caches[1][:, group], sums, (begin, past + end))
        end_tiles()
        write(sums, facts, y[first:end], (column, count, shared))

    write = means_with(unit, cached)
    return attend


def score_with(unit: VectorUnit, cached: CacheCodes) -> Callable[..., None]:
    """Return ``score(codes, key, dots, (begin, end))``: of all queries and the keys between.

    And of some behind them, which no query sees.
    """
    layout, (write, _) = panels_of_keys(unit), sweeps(unit)
    fill, rows = layout.fill(), layout.rows
    read, is_packed = reader(cached), cached.is_packed

    @register_jitable(**PART_POLICY)
    def score(codes: Bytes, key: Bytes, dots: Ints, place: Pair) -> None:
        begin, end = place
        dim = codes.shape[1]
        panel, copied = stack_int8(PANEL_BYTES), stack_int8(LAST_KEYS)
        last: Bytes = as_matrix(copied[: rows * dim], dim)
        for n in range(begin, end, rows):
            if is_packed:
                read(key, (n, rows, 0, dim), copied)
                fill(last, panel, 0, 0, dim // CHUNK)
            else:
                is_whole = n + rows <= key.shape[0]
                if not is_whole:
                    copy_rows(key[n:], last)
                here = key if is_whole else last[:, :dim]
                fill(here, panel, n if is_whole else 0, 0, dim // CHUNK)
            write(codes, panel, dots, (n - begin, 0, dim))

    return score


def weigh_with(unit: VectorUnit) -> Callable[..., None]:
    """Return ``weigh(dots, codes, parts, scales, (steps, facts), place)``: from scores to weights.

    Place is the first key, what the first token sees before itself, the queries, how many a token
    has, and the window. Facts are for each query the sum of its weights, that of its weights times
    the scales of the values, and by how many bits those are too small.
    """
    weigh_row = weigh_tile(unit)
    # Of weights taken apart there is a row of high bytes and one of low ones, else one of words.
    bias, is_apart, size = bias_of(unit), unit.adds_fours, 1 if unit.adds_fours else 2

    @register_jitable(**PART_POLICY)
    def weigh(
        dots: Ints,
        codes: Bytes,
        parts: Bytes,
        scales: tuple[Ints, Ints],
        facts: tuple[Totals, Totals],
        place: tuple[Int, Int, Int, Int, Int],
    ) -> None:
        first_key, before, count, shared, window = place
        tall, width = dots.shape
        rounded, known = stack_int32(SCALES), stack_int64(FACTS)
        rounded_drop: Int = -1
        last_key = before + count // shared
        for q in range(count):
            end = before + q // shared + 1
            begin = max(end - window, 0) if window > 0 else 0
            skipped, seen = begin - first_key, end - begin
            drop = max(bit_length(largest(scales[1][begin:end])) - SCALE_BITS, 0)
            if drop != rounded_drop:
                round_scales(scales[1][first_key:last_key], drop, rounded[: last_key - first_key])
                rounded_drop = drop
            own = dots[q][skipped : skipped + seen]
            if bias != 0:
                correct(own, codes[q], bias)
            best = best_score(own, scales[0][begin:end])
            write_facts(best, (facts[0][2 * q], facts[0][2 * q + 1]), known)
            result = facts[1][3 * q : 3 * q + 3]
            result[0] = result[1] = 0
            high, low = parts[q], parts[tall + q if is_apart else q]
            clear(high, 0, size * skipped)
            if is_apart:
                clear(low, 0, skipped)  # and more, which is written next
            sizes = seen, tall * width
            behind = high[size * skipped :]
            weigh_row(own, scales[0][begin:], rounded[skipped:], behind, result, known, sizes)
            clear(high, size * (skipped + seen), size * (width - BLOCK))
            if is_apart:
                clear(low, skipped + seen, width - BLOCK)
            result[2] = drop

    return weigh


def mix_with(unit: VectorUnit, cached: CacheCodes) -> Callable[..., None]:
    """Return ``mix(parts, value, sums, (begin, end))``: the values between, times all parts."""
    layout, (write, add) = panels_of_keys(unit), sweeps(unit)
    fill, rows, read = fill_values(layout), layout.rows, reader(cached)

    @register_jitable(**PART_POLICY)
    def mix(parts: Bytes, value: Bytes, sums: Ints, place: Pair) -> None:
        begin, end = place
        panel, unpacked = stack_int8(PANEL_BYTES), stack_int8(PANEL_BYTES)
        for n in range(0, sums.shape[1], rows):
            for k in range(begin, end, SPAN):
                size = min(SPAN, round_up(end - k, BLOCK))
                here, first, column = read(value, (k, size, n, rows), unpacked)
                fill(here, panel, first, size, column)
                if k == begin:
                    write(parts, panel, sums, (n, 0, size))
                else:
                    add(parts, panel, sums, (n, k - begin, size))

    return mix


def means_with(unit: VectorUnit, cached: CacheCodes) -> Callable[..., None]:
    """Return ``write(sums, facts, y, (column, count, shared))``: the means of all queries."""
    bias, limit = bias_of(unit), cached.limit

    @register_jitable(**PART_POLICY)
    def write(sums: Ints, facts: Totals, y: Totals, place: tuple[Int, Int, Int]) -> None:
        column, count, shared = place
        tall, dim = sums.shape[0] // 2, sums.shape[1]
        totals = stack_int64(MAX_HEAD_DIM)
        for q in range(count):
            at = column + q % shared * dim
            join(sums[q], sums[tall + q], bias * facts[3 * q + 1], totals[:dim])
            divisor = facts[3 * q] * limit
            write_mean(totals[:dim], divisor, facts[3 * q + 2], y[q // shared][at : at + dim])

    return write
