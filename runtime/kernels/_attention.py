"""Attention over a key/value cache, as plain loops: grouped heads, sliding window, late exp2."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from edgellm.ops._attention import EXP2_TABLE, LOGIT_BITS, MAX_HALVINGS
from edgellm.runtime.kernels._scalar import (
    Int,
    Pair,
    absmax_reciprocal,
    absmax_shift,
    bit_length,
    clamp,
    normalize,
    product,
    round_shift,
    share,
    stack_int16,
    stack_int32,
    stack_int64,
)

MAX_HEAD_DIM = 512
MAX_LENGTH = 1 << 16
"""Positions that there is scratch memory for: 1 MiB of the stack, of which a page costs nothing
until a position in it is used."""
SCALE_BITS = 15
BLOCK = 256
"""Keys whose weights are computed together: their int32 sums hold 256 * 32591 * 128 < 2^31."""
FRACTION = (1 << LOGIT_BITS) - 1
NOTHING_LEFT = ((MAX_HALVINGS + 1) << LOGIT_BITS) - 1
"""So many halvings and more give the weight 0, whatever the table holds."""
MAX_HEADS = 64
"""Of a token at once, on vector units."""
NOTED_FACTS, NOTED_SUMS = 6 * MAX_HEADS, 1 << 13
"""Words of a thread: six facts of a head, sums of 64 heads of 128 columns."""
NOTED_SCORES, NOTED_SCALES = 1 << 17, 1 << 16
"""Numbers of 32 bits of a thread: scores of 32 heads at 4096 positions, and scales of 8 heads of
the cache, two each. Where a text is longer, threads divide its heads."""
NOTES = NOTED_FACTS + NOTED_SUMS + (NOTED_SCORES + NOTED_SCALES) // 2
TABLE = EXP2_TABLE.astype(np.uint32)

Ints = npt.NDArray[np.int32]
Totals = npt.NDArray[np.int64]
Cache = npt.NDArray[np.int8] | npt.NDArray[np.uint8]


def quantize_query(head: Ints, codes: npt.NDArray[np.int16], scaling: Pair) -> Pair:
    """Write the codes of a query head; return what a step of its scores is in halvings, dyadic."""
    peak = np.int64(0)
    for d in range(head.shape[0]):
        peak = max(peak, abs(np.int64(head[d])))
    reciprocal, shift = absmax_reciprocal(peak), absmax_shift(peak)
    for d in range(head.shape[0]):
        codes[d] = round_shift(np.int64(head[d]) * reciprocal, shift)
    mantissa, exponent = normalize(peak, 0)
    return product(mantissa, exponent, scaling[0], scaling[1])


def copy_column(table: Ints, column: Int, out: Ints) -> None:
    """Copy a column of (L, H) side by side: it is read once for each query."""
    for j in range(table.shape[0]):
        out[j] = table[j, column]


def largest(numbers: Ints) -> Int:
    """Return the largest of some numbers, at least 0."""
    most = np.int32(0)
    for j in range(numbers.shape[0]):
        most = max(most, numbers[j])
    return np.int64(most)


def best_score(dots: Ints, absmax: Ints) -> Int:
    """Return the largest ``dot * absmax``."""
    best = np.int64(-(2**62))
    for j in range(dots.shape[0]):
        best = max(best, np.int64(dots[j]) * np.int64(absmax[j]))
    return best


def weigh(best: Int, step: Pair, dots: Ints, absmax: Ints, weights: Ints) -> Int:
    """Write ``2^15 * 2^-((best - score) * step)`` by the table of 64 entries; return their sum."""
    drop = max(step[1] - 56, 0)
    shift = np.uint64(clamp(step[1] - drop - LOGIT_BITS, 1, 62))
    half = np.uint64(1) << np.uint64(shift - np.uint64(1))
    far = np.uint64(min(drop, 62))
    mantissa = np.uint64(np.uint32(step[0]))
    total = np.int64(0)
    for j in range(dots.shape[0]):
        distance = np.uint64(best - np.int64(dots[j]) * np.int64(absmax[j])) >> far
        near = np.uint64(np.uint32(min(distance, np.uint64(2**31 - 1))))
        halvings = np.uint32(min((near * mantissa + half) >> shift, np.uint64(NOTHING_LEFT)))
        whole = halvings >> np.uint32(LOGIT_BITS)
        entry = TABLE[(halvings & np.uint32(FRACTION)) >> np.uint32(6)]
        rounding = np.uint32(np.uint32(1) << whole) >> np.uint32(1)
        weights[j] = np.int32(np.uint32(entry + rounding) >> whole)
        total += weights[j]
    return total


def fold(weights: Ints, absmax: Ints, drop: Int, folded: npt.NDArray[np.int16]) -> None:
    """Write the weights times the scales of the values, at most 32591."""
    half = np.uint32((1 << drop) >> 1)
    for j in range(weights.shape[0]):
        scale = np.uint32(np.uint32(absmax[j]) + half) >> np.uint32(drop)  # at most 2^15
        wide = np.uint32(np.uint32(weights[j]) * scale)
        folded[j] = np.uint32(wide + np.uint32(1 << 14)) >> np.uint32(15)


def write_mean(totals: Totals, divisor: Int, drop: Int, y: Totals) -> None:
    """Write ``round(total / divisor * 2^20) << drop``; |total| <= divisor < 2^38.

    The quotient comes from a reciprocal of 30 bits, which is off by less than 1 / 64 for a quotient
    below 2^22, and one step by the remainder: a division takes as long as ten multiplications.
    """
    divisor = max(divisor, 1)
    excess = max(bit_length(divisor) - 31, 0)
    short = divisor >> excess
    bits = bit_length(short)
    reciprocal = (1 << (bits + 29)) // short
    rounding = (divisor << 20) + (divisor >> 1)
    for d in range(y.shape[0]):
        quotient = (((totals[d] + divisor) >> excess) * reciprocal) >> (bits + 9)
        rest = (totals[d] << 20) + rounding - quotient * divisor
        quotient += np.int64(rest >= divisor) - np.int64(rest < 0)
        y[d] = (quotient - (1 << 20)) << drop


def attend_with(
    dot_rows: Callable[..., None], add_rows: Callable[..., None], per_byte: int, limit: int
) -> Callable[..., None]:
    """Return ``attend(row, out, key, value, scales, place, scaling)`` over one kind of cache.

    It writes the attention of one head, or of two heads of a group, at one position: ``row`` (D,)
    or (2 * D,) are the queries, ``out`` is as long, key and value are (L, H, D / per_byte),
    ``scales`` the group's own key_absmax and value_absmax, (L,) each, and ``place`` the group, and
    the first and the last position seen, that one excluded.

    Args:
        dot_rows: as in ``_attention_sums``, for such a cache.
        add_rows: the same.
        per_byte: codes in a byte of the cache.
        limit: the largest code.
    """

    def attend(
        row: Ints,
        out: Totals,
        key: Cache,
        value: Cache,
        scales: tuple[Ints, Ints],
        place: tuple[Int, Int, Int],
        scaling: Pair,
    ) -> None:
        group, begin, end = place
        dim = key.shape[2] * per_byte
        count = row.shape[0] // dim
        codes = stack_int16(MAX_HEAD_DIM), stack_int16(MAX_HEAD_DIM)
        dots = stack_int32(MAX_LENGTH), stack_int32(MAX_LENGTH)
        folded = stack_int16(BLOCK), stack_int16(BLOCK)
        totals = stack_int64(MAX_HEAD_DIM), stack_int64(MAX_HEAD_DIM)
        weights = stack_int32(BLOCK)
        steps, best, sums = stack_int64(4), stack_int64(2), stack_int64(2)
        if count == 1:
            codes[1][:dim] = 0
            folded[1][:] = 0
        for q in range(count):
            step = quantize_query(row[q * dim : (q + 1) * dim], codes[q], scaling)
            steps[2 * q], steps[2 * q + 1] = step
        dot_rows(codes, key, group, begin, end, dots)
        for q in range(2):
            best[q] = best_score(dots[q][begin:end], scales[0][begin:end])
            sums[q] = 0
            totals[q][:dim] = 0
        drop = max(bit_length(largest(scales[1][begin:end])) - SCALE_BITS, 0)
        for start in range(begin, end, BLOCK):
            stop = min(start + BLOCK, end)
            some = weights[: stop - start]
            for q in range(count):
                step = steps[2 * q], steps[2 * q + 1]
                sums[q] += weigh(best[q], step, dots[q][start:stop], scales[0][start:stop], some)
                fold(some, scales[1][start:stop], drop, folded[q])
            add_rows(folded, value, group, start, stop, totals)
        for q in range(count):
            write_mean(totals[q], sums[q] * limit, drop, out[q * dim : (q + 1) * dim])

    return attend


def attention_of(attend: Callable[..., None], per_byte: int) -> Callable[..., None]:
    """Return ``run(work, query, cache, y, scaling, window)``: attention of all tokens.

    ``work`` are thread and threads: they divide the rows, in turn, because later rows see more
    keys; where rows are few, the heads. ``cache`` are keys and values, each with its absmax.
    """

    def run(
        work: Pair,
        query: Ints,
        cache: tuple[Cache, Ints, Cache, Ints],
        y: Totals,
        scaling: Pair,
        window: Int,
    ) -> None:
        thread, threads = work
        key, key_absmax, value, value_absmax = cache
        length, groups, dim = key.shape[0], key.shape[1], key.shape[2] * per_byte
        rows, heads = query.shape[0], query.shape[1] // dim
        by_rows = rows >= 2 * threads
        head, last_head = (0, heads) if by_rows else share(heads, thread, threads)
        first_row, row_step = (thread, threads) if by_rows else (0, 1)
        scales = stack_int32(MAX_LENGTH), stack_int32(MAX_LENGTH)
        copied = -1
        while head < last_head:
            group = head * groups // heads
            if group != copied:
                copy_column(key_absmax, group, scales[0])
                copy_column(value_absmax, group, scales[1])
                copied = group
            alone = head + 1 == last_head or (head + 1) * groups // heads != group
            after = head + (1 if alone else 2)
            columns = slice(head * dim, after * dim)
            for t in range(first_row, rows, row_step):
                end = length - rows + t + 1
                begin = max(end - window, 0) if window > 0 else 0
                place = group, begin, end
                attend(query[t, columns], y[t, columns], key, value, scales, place, scaling)
            head = after

    return run
