"""EncoderAttention where vectors have 16 int32: some rows of a head, see ``_softmax_rows``."""

# mypy: disable-error-code="untyped-decorator,call-arg"
# An intrinsic is declared with the typing context as its first argument, and called without.

from collections.abc import Callable

import numpy as np
from numba.extending import register_jitable

from edgellm.ops.encoder_attention import MAX_HALVINGS, MEAN_BITS, WEIGHT_BITS
from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._scalar import (
    Int,
    Pair,
    absmax_reciprocal,
    absmax_shift,
    bit_length,
    clamp,
    normalize,
    product,
    stack_int8,
    stack_int32,
    stack_int64,
)
from edgellm.runtime.kernels.encoder_attention import MAX_HEAD_DIM
from edgellm.runtime.kernels.simd._unit import BLOCK, VectorUnit
from edgellm.runtime.kernels.vector._attention_parts import (
    CODES,
    COPIED,
    KEYS,
    MIN_PADDED,
    PARTS,
    QUERIES,
    SCORES,
    SUMS,
    TOKENS,
    Bytes,
    Ints,
    Place,
    Totals,
    add_parts,
    copy_turned,
    padded,
    round_up,
    write_mean,
)
from edgellm.runtime.kernels.vector._lanes import copy_bytes
from edgellm.runtime.kernels.vector._products import Product, int8_product
from edgellm.runtime.kernels.vector._requantized_rows import codes_row, largest_magnitude
from edgellm.runtime.kernels.vector._softmax_rows import SLOTS, mean_row, weigh_row_with
from edgellm.runtime.kernels.vector._tiles import as_matrix

FAR_BITS = MAX_HALVINGS.bit_length() - 1 + WEIGHT_BITS
"""2^19: so many parts of a halving, and more, leave no weight."""
FARTHEST = 1 << 24
"""No dot is so far from the best."""
SHORT = 512
"""Keys whose weighted values have 32 bits: 512 * 32767 * 127 < 2^31."""
LANES = BLOCK // len(SLOTS)
STEPS = 3 * QUERIES


def key_of(row: Int) -> Int:
    """Return which key a row of scores is of, both counted from a multiple of 64."""
    return len(SLOTS) * (row % LANES) + SLOTS[row // LANES]


def copy_keys(key: Bytes, place: Place, out: Bytes) -> None:
    """Copy keys of a head in the order of ``_softmax_rows``; behind the last it is repeated."""
    begin, end, first, last = place
    for row in range(out.shape[0]):
        number = begin + row // BLOCK * BLOCK + key_of(row % BLOCK)
        copy_bytes(key[min(number, end - 1), first:last], out[row])


def far_from(step: Pair) -> Int:
    """Return a distance that has no weight, of a step: ``distance * step`` still has 32 bits."""
    mantissa, shift = step
    if mantissa == 0 or shift + FAR_BITS > 62:
        return np.int64(FARTHEST)
    return min(np.int64(FARTHEST), (np.int64(1) << (shift + FAR_BITS)) // mantissa + 1)


def quantize_queries(
    query: Ints, place: Place, facts: tuple[Int, Int, Int], codes: Bytes, steps: Totals
) -> None:
    """Write the codes of rows of queries; of each, mantissa and shift of a step, and ``far_from``.

    In two loops: reciprocals of different rows do not wait for each other.
    """
    begin, end, first, last = place
    key_mantissa, key_exponent = normalize(facts[0], 0)
    for t in range(end - begin):
        steps[3 * t] = largest_magnitude(query[begin + t, first:last])
    for t in range(end - begin):
        peak = steps[3 * t]
        reciprocal, shift = np.int64(absmax_reciprocal(peak)), absmax_shift(peak)
        codes_row(query[begin + t, first:last], codes[t], reciprocal, shift)
        mantissa, exponent = normalize(peak, 0)
        mantissa, exponent = product(mantissa, exponent, key_mantissa, key_exponent)
        mantissa, exponent = product(mantissa, exponent, facts[1], facts[2])
        steps[3 * t], steps[3 * t + 1] = mantissa, clamp(exponent - WEIGHT_BITS, 1, 62)
        steps[3 * t + 2] = far_from((steps[3 * t], steps[3 * t + 1]))


def mean_facts(divisor: Int) -> tuple[Int, Int, Int]:
    """Return ``drop``, the reciprocal and its shift, as ``mean_row`` takes them."""
    bits = bit_length(divisor)
    drop = max(bits - 24, 0)
    return drop, (np.int64(1) << (bits + 30)) // divisor, bits + 30 - drop - MEAN_BITS


def attend_in_lanes(unit: VectorUnit) -> Callable[..., None]:
    """Return ``attend`` as ``encoder_attention.attend_with`` does.

    All products are of slices, in rows and in sums: one kind of arrays is compiled once.
    """
    multiply = int8_product(unit)
    score, mix = score_with(multiply), mix_with(multiply)
    weigh_row = weigh_row_with(unit)

    @register_jitable(**PART_POLICY)
    def attend(
        matrices: tuple[Ints, Bytes, Bytes, Totals],
        rows: tuple[Int, Int],
        place: Place,
        facts: tuple[Int, Int, Int],
        means: tuple[Totals, Ints],
    ) -> None:
        (query, key, value, y), (begin, end, column, last) = matrices, place
        count, dim, length = rows[1] - rows[0], last - column, end - begin
        tall = round_up(count, TOKENS) if count >= MIN_PADDED else count
        inner, across = round_up(dim, BLOCK), round_up(length, BLOCK)
        codes: Bytes = as_matrix(stack_int8(CODES)[: tall * inner], inner)
        dots = as_matrix(stack_int32(SCORES)[: tall * (across + LANES)], across + LANES)
        parts = as_matrix(stack_int8(PARTS)[: 2 * tall * (across + BLOCK)], across + BLOCK)
        steps, divisors = stack_int64(STEPS), stack_int64(QUERIES)
        quantize_queries(query, (rows[0], rows[1], column, last), facts, codes, steps)
        score(codes[:, :inner], key, place, dots)
        for t in range(count):
            m, shift, far = steps[3 * t], steps[3 * t + 1], steps[3 * t + 2]
            divisors[t] = weigh_row(dots[t], length, parts[t], parts[tall + t], m, shift, far)
        mix(
            parts[:, :across],
            divisors[:count],
            value,
            place,
            means,
            y[rows[0] : rows[1], column:last],
        )

    return attend


def score_with(multiply: Product) -> Callable[[Bytes, Bytes, Place, Ints], None]:
    """Return ``score(codes, key, place, dots)``: the dot products of rows of codes and all keys."""

    @register_jitable(**PART_POLICY)
    def score(codes: Bytes, key: Bytes, place: Place, dots: Ints) -> None:
        begin, end, column, last = place
        inner = codes.shape[1]
        copied = stack_int8(COPIED)
        for first in range(begin, end, KEYS):
            after = min(first + KEYS, end)
            weight: Bytes = as_matrix(copied[: round_up(after - first, BLOCK) * inner], inner)
            copy_keys(key, (first, after, column, last), weight)
            multiply(codes, weight, dots[:, first - begin : first - begin + weight.shape[0]])

    return score


def mix_with(multiply: Product) -> Callable[..., None]:
    """Return ``mix(parts, divisors, value, place, means, y)``: write means of rows of values.

    ``parts`` are the high bytes of weights, as many rows as a product takes, and then the low ones.
    """

    @register_jitable(**PART_POLICY)
    def mix(
        parts: Bytes,
        divisors: Totals,
        value: Bytes,
        place: Place,
        means: tuple[Totals, Ints],
        y: Totals,
    ) -> None:
        begin, end, column, last = place
        tall, dim = parts.shape[0] // 2, last - column
        wide, count = padded(dim), divisors.shape[0]
        copied, value_sums = stack_int8(COPIED), stack_int32(MAX_HEAD_DIM)
        sums: Ints = as_matrix(stack_int32(SUMS)[: 2 * tall * (wide + LANES)], wide + LANES)
        if end - begin <= SHORT:
            scales = stack_int32(MAX_HEAD_DIM)
            for d in range(dim):
                scales[d] = means[0][d]
            turned: Bytes = as_matrix(copied[: wide * parts.shape[1]], parts.shape[1])
            copy_turned(value, place, turned, value_sums)
            multiply(parts, turned, sums[:, :wide])
            for t in range(count):
                facts = mean_facts(divisors[t])
                mean_row(sums[t], sums[tall + t], value_sums, facts, scales, means[1], y[t])
            return
        totals: Totals = as_matrix(stack_int64(SUMS), dim)
        for t in range(count):
            for d in range(dim):
                totals[t, d] = 0
        for first in range(begin, end, KEYS):
            after = min(first + KEYS, end)
            across = round_up(after - first, BLOCK)
            turned = as_matrix(copied[: wide * across], across)
            copy_turned(value, (first, after, column, last), turned, value_sums)
            multiply(parts[:, first - begin : first - begin + across], turned, sums[:, :wide])
            for t in range(count):
                add_parts(sums[t], sums[tall + t], value_sums, totals[t])
        for t in range(count):
            write_mean(totals[t], divisors[t], means[0], means[1], y[t])

    return mix
