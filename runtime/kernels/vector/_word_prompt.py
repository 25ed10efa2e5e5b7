"""Attention of many tokens where bytes are multiplied as words: see ``_prompt_attention``.

Keys and values are widened and laid out once for all queries of a block. A score then takes no sum
over lanes, and weights are not taken apart.
"""

# mypy: disable-error-code="untyped-decorator,call-arg"
# An intrinsic is declared with the typing context as its first argument, and called without.

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from numba.extending import register_jitable

from edgellm.runtime.kernels._attention import MAX_HEAD_DIM, write_mean
from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._scalar import (
    Int,
    Pair,
    stack_int8,
    stack_int16,
    stack_int32,
    stack_int64,
)
from edgellm.runtime.kernels.simd._unit import VectorUnit
from edgellm.runtime.kernels.vector._cache_codes import CacheCodes, reader
from edgellm.runtime.kernels.vector._prompt_attention import (
    CODES,
    PARTS,
    RESULTS,
    SCORES,
    STEPS,
    SUMS,
    Bytes,
    Ints,
    Totals,
    quantize,
    round_up,
    row_width,
    weigh_with,
)
from edgellm.runtime.kernels.vector._tiles import as_matrix
from edgellm.runtime.kernels.vector._word_panels import (
    COLUMNS,
    PAIR,
    PANEL_BYTES,
    SPAN,
    TOGETHER,
    WORD_BYTES,
    column_filler,
    pair_tile,
    row_filler,
    steps_of,
)

FEW_TOKENS = 4
"""From so many tokens on, this is faster than one token after the other: 1.03 to 1.3 times on Zen 3
with 1,152 keys, 1.2 to 1.45 for 8, 1.35 to 1.65 for 128. Two take 1.06 to 1.3 times as long."""
MOST_SUMS = SUMS // 2
ROWS_BYTES = COLUMNS * max(SPAN, MAX_HEAD_DIM)

Words = npt.NDArray[np.int16]


def word_block_attention(unit: VectorUnit, cached: CacheCodes) -> Callable[..., None]:
    """Return ``attend(query, caches, scales, y, (group, first, end, shared), (scaling, window))``.

    It is as ``block_attention`` says.
    """
    score, weigh, mix = score_with(unit, cached), weigh_with(unit), mix_with(unit, cached)
    per_byte, limit = cached.per_byte, cached.limit

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
        tall = round_up(count, TOGETHER)
        begin = max(past + first + 1 - window, 0) if window > 0 else 0
        width = row_width(past + end - begin)
        codes: Words = as_matrix(stack_int16(CODES)[: tall * dim], dim)
        dots: Ints = as_matrix(stack_int32(SCORES)[: tall * width], width)
        parts: Bytes = as_matrix(stack_int8(PARTS)[: WORD_BYTES * tall * width], WORD_BYTES * width)
        sums: Totals = as_matrix(stack_int64(MOST_SUMS)[: tall * dim], dim)
        steps, facts = stack_int64(STEPS), stack_int64(RESULTS)
        for t in range(first, end):
            for i in range(shared):
                q, at = (t - first) * shared + i, column + i * dim
                step = quantize(query[t][at : at + dim], codes[q], scaling)
                steps[2 * q], steps[2 * q + 1] = step
        # Of the queries of a tile the last one sees the most keys.
        seen = past + first + 1, shared
        score(codes, caches[0][:, group], dots, (begin, past + end), seen)
        weigh(
            dots, codes, parts, scales, (steps, facts), (begin, past + first, count, shared, window)
        )
        mix(parts, caches[1][:, group], sums, (begin, past + end), seen)
        for q in range(count):
            at = column + q % shared * dim
            mean = y[first + q // shared][at : at + dim]
            write_mean(sums[q], facts[3 * q] * limit, facts[3 * q + 2], mean)

    return attend


def end_of_tile(q: Int, seen: Pair, end: Int) -> Int:
    """Return behind which key no query of the tile from q on sees.

    ``seen`` is where the keys of the first token end, and how many queries a token has.
    """
    return min(seen[0] + (q + TOGETHER - 1) // seen[1], end)


def score_with(unit: VectorUnit, cached: CacheCodes) -> Callable[..., None]:
    """Return ``score(codes, key, dots, (begin, end), seen)``: of queries and keys that they see.

    And of some behind them.
    """
    fill, multiply = row_filler(unit), pair_tile(unit, TOGETHER, adds=False)
    read, per_byte = reader(cached), cached.per_byte

    @register_jitable(**PART_POLICY)
    def score(codes: Words, key: Bytes, dots: Ints, place: Pair, seen: Pair) -> None:
        begin, end = place
        panel, unpacked = stack_int8(PANEL_BYTES), stack_int8(ROWS_BYTES)
        for n in range(begin, end, COLUMNS):
            here, first, _ = read(key, (n, COLUMNS, 0, per_byte * key.shape[1]), unpacked)
            fill(here, panel, first)
            for q in range(0, codes.shape[0], TOGETHER):
                if n < end_of_tile(q, seen, end):
                    multiply(codes, panel, dots, (q, 0, codes.shape[1] // PAIR, n - begin))

    return score


def mix_with(unit: VectorUnit, cached: CacheCodes) -> Callable[..., None]:
    """Return ``mix(parts, value, sums, (begin, end), seen)``: the values times the weights."""
    fill, multiply = column_filler(unit), pair_tile(unit, TOGETHER, adds=True)
    read = reader(cached)

    @register_jitable(**PART_POLICY)
    def mix(parts: Bytes, value: Bytes, sums: Totals, place: Pair, seen: Pair) -> None:
        begin, end = place
        panel, unpacked = stack_int8(PANEL_BYTES), stack_int8(ROWS_BYTES)
        sums[:] = 0
        for k in range(begin, end, SPAN):
            at = WORD_BYTES * (k - begin)
            for n in range(0, sums.shape[1], COLUMNS):
                here, row, column = read(value, (k, SPAN, n, COLUMNS), unpacked)
                fill(here, panel, (row, steps_of(min(SPAN, end - k)), column))
                for q in range(0, sums.shape[0], TOGETHER):
                    steps = steps_of(min(SPAN, end_of_tile(q, seen, end) - k))
                    multiply(parts, panel, sums, (q, at, steps, n))

    return mix
