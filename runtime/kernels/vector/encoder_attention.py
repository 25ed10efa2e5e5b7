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
    Int,
    share,
    stack_int8,
    stack_int16,
    stack_int32,
    stack_int64,
)
from edgellm.runtime.kernels.encoder_attention import MAX_HEAD_DIM, quantize_query, weigh
from edgellm.runtime.kernels.simd._unit import BLOCK, VectorUnit
from edgellm.runtime.kernels.vector._attention_lanes import attend_in_lanes
from edgellm.runtime.kernels.vector._attention_parts import (
    CODES,
    COPIED,
    KEYS,
    MIN_PADDED,
    PARTS,
    QUERIES,
    SCORES,
    STEPS,
    SUMS,
    TOKENS,
    Bytes,
    Ints,
    Place,
    Totals,
    add_parts,
    copy_rows,
    copy_turned,
    padded,
    round_up,
    rows_at_once,
    split_weights,
    write_mean,
    write_scales,
)
from edgellm.runtime.kernels.vector._lanes import LANES
from edgellm.runtime.kernels.vector._products import Product, int8_product
from edgellm.runtime.kernels.vector._tiles import as_matrix
from edgellm.runtime.kernels.vector._word_encoder import attend_with_words


def build(unit: VectorUnit) -> Callable[..., None]:
    """Return the kernel."""
    attend = attention_of(unit)

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
        own_first, own_last = share(query.shape[0], thread, threads)
        for number in range(ends.shape[0]):
            begin, end = (ends[number - 1] if number > 0 else 0), ends[number]
            first_row, last_row = max(begin, own_first), min(end, own_last)
            if first_row >= last_row:
                continue
            step = rows_at_once(end - begin, dim)
            for column in range(0, heads * dim, dim):
                place = begin, end, column, column + dim
                facts = np.int64(key_peak[number, column]), scaling_mantissa, scaling_exponent
                means = scales, value_mean[number, column : column + dim]
                write_scales(value_peak[number, column : column + dim], scales)
                for first in range(first_row, last_row, step):
                    rows = first, min(first + step, last_row)
                    attend((query, key, value, y), rows, place, facts, means)

    return encoder_attention


def attention_of(unit: VectorUnit) -> Callable[..., None]:
    """Return the ``attend`` that suits a unit."""
    if unit.lanes == LANES:
        return attend_in_lanes(unit)
    return attend_with_words(unit) if unit.multiplies_words else attend_with(unit)


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
