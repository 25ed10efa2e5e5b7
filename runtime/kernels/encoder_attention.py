"""EncoderAttention: softmax attention within each of several sequences."""

import numpy as np
import numpy.typing as npt

from edgellm.ops.encoder_attention import CUBIC, MAX_HALVINGS, MEAN_BITS, WEIGHT_BITS
from edgellm.runtime.kernels._dot import dot_wide
from edgellm.runtime.kernels._jit import kernel
from edgellm.runtime.kernels._scalar import (
    INT32_MAX,
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
"""Rows of a sequence that there is scratch memory for; pages that are not used cost nothing."""
BLOCK = 256
"""Keys whose weighted values are added in int32: 256 * 32767 * 127 < 2^31."""
RECIPROCAL_127 = 1082196484
"""1/127 * 2^37."""
FRACTION = (1 << WEIGHT_BITS) - 1
FAR = (MAX_HALVINGS + 1) << WEIGHT_BITS
"""So many halvings and more give the weight 0."""
C0, C1, C2, C3 = CUBIC

Codes = npt.NDArray[np.int8]
Ints = npt.NDArray[np.int32]
Totals = npt.NDArray[np.int64]


def quantize_query(head: Ints, codes: npt.NDArray[np.int16], key_peak: Int, scaling: Pair) -> Pair:
    """Write the codes of a query head; return what a step of its dots is in halvings, dyadic."""
    low = high = np.int32(0)
    for d in range(head.shape[0]):
        low, high = min(low, head[d]), max(high, head[d])
    peak = max(np.int64(high), -np.int64(low))
    reciprocal, shift = np.int32(absmax_reciprocal(peak)), absmax_shift(peak)
    for d in range(head.shape[0]):
        codes[d] = round_shift(np.int64(head[d]) * np.int64(reciprocal), shift)
    mantissa, exponent = normalize(peak, 0)
    key_mantissa, key_exponent = normalize(key_peak, 0)
    mantissa, exponent = product(mantissa, exponent, key_mantissa, key_exponent)
    return product(mantissa, exponent, scaling[0], scaling[1])


def weigh(dots: Ints, step: Pair) -> Int:
    """Replace dots by ``32767 * 2^-((best - dot) * step)``; return the sum of the weights."""
    best = dots[0]
    for j in range(dots.shape[0]):
        best = max(best, dots[j])
    write_halvings(dots, best, step)
    total = np.int32(0)  # at most 2^16 weights below 2^15
    for j in range(dots.shape[0]):
        halvings = dots[j]
        f = np.int32(halvings & np.int32(FRACTION))
        # Unsigned and known to be small, a shift takes 32 bits; else Numba has it in 64.
        whole = np.uint32(np.uint32(halvings) >> np.uint32(WEIGHT_BITS))
        whole = min(whole, np.uint32(MAX_HALVINGS)) & np.uint32(31)
        inner = np.int32(np.int32(C2) - np.int32(np.int32(f * np.int32(C3)) >> np.int32(15)))
        inner = np.int32(np.int32(C1) - np.int32(np.int32(inner * f) >> np.int32(15)))
        cubic = np.int32(np.int32(C0) - np.int32(np.int32(inner * f) >> np.int32(15)))
        rounding = np.uint32(np.uint32(np.uint32(1) << whole) >> np.uint32(1))
        weight = np.int32(np.uint32(np.uint32(cubic) + rounding) >> whole)
        dots[j] = weight
        total = np.int32(total + weight)
    return np.int64(total)


def write_halvings(dots: Ints, best: np.int32, step: Pair) -> None:
    """Replace dots by ``(best - dot) * step``, at most FAR.

    A loop of its own: it has 64 bits a key, and the weights after it have 32.
    """
    mantissa = np.uint64(np.uint32(step[0]))
    shift = np.uint64(clamp(step[1] - WEIGHT_BITS, 1, 62))
    half = np.uint64(1) << np.uint64(shift - np.uint64(1))
    for j in range(dots.shape[0]):
        distance = np.uint64(np.uint32(best - dots[j]))
        dots[j] = np.int32(min((distance * mantissa + half) >> shift, np.uint64(FAR)))


def add_values(weights: Ints, value: Codes, totals: Totals) -> None:
    """Write the sums of rows of values times their weights."""
    part = stack_int32(MAX_HEAD_DIM)
    dim = value.shape[1]
    for d in range(dim):
        totals[d] = 0
    for first in range(0, value.shape[0], BLOCK):
        for d in range(dim):
            part[d] = 0
        for j in range(first, min(first + BLOCK, value.shape[0])):
            weight, row = weights[j], value[j]
            for d in range(dim):
                part[d] += np.int32(row[d]) * weight
        for d in range(dim):
            totals[d] += np.int64(part[d])


def write_mean(totals: Totals, divisor: Int, peak: Ints, mean: Ints, y: Totals) -> None:
    """Write ``total / divisor * peak / 127 + mean``."""
    bits = bit_length(divisor)
    reciprocal = (1 << (bits + 30)) // divisor
    drop = max(bits - 24, 0)
    shift = bits + 30 - drop - MEAN_BITS
    for d in range(y.shape[0]):
        codes = round_shift(round_shift(totals[d], drop) * reciprocal, shift)
        scale = round_shift(np.int64(peak[d]) * RECIPROCAL_127, 31)
        wide = round_shift(codes * scale, MEAN_BITS + 6) + np.int64(mean[d])
        y[d] = clamp(wide, -INT32_MAX, INT32_MAX)


def find_sequence(ends: Totals, t: Int, number: Int) -> Int:
    """Return the sequence that row t belongs to, from ``number`` on."""
    while ends[number] <= t:
        number += 1
    return number


@kernel("EncoderAttention", split="queries")
def encoder_attention(
    thread: int,
    threads: int,
    query: Ints,  # (T, M)
    key: Codes,  # (T, M)
    key_peak: Ints,  # (B, M)
    value: Codes,  # (T, M)
    value_peak: Ints,  # (B, M)
    value_mean: Ints,  # (B, M)
    ends: Totals,  # (B,)
    y: Totals,  # (T, M)
    heads: int,
    scaling_mantissa: int,
    scaling_exponent: int,
) -> None:
    """Split by queries."""
    dim = query.shape[1] // heads
    first, last = share(query.shape[0], thread, threads)
    codes, totals = stack_int16(MAX_HEAD_DIM), stack_int64(MAX_HEAD_DIM)
    scratch = stack_int32(MAX_LENGTH)
    scaling = scaling_mantissa, scaling_exponent
    number: Int = np.int64(0)
    for t in range(first, last):
        number = find_sequence(ends, t, number)
        begin, end = (ends[number - 1] if number > 0 else 0), ends[number]
        dots = scratch[: end - begin]
        for head in range(heads):
            columns = slice(head * dim, (head + 1) * dim)
            peak = np.int64(key_peak[number, head * dim])
            step = quantize_query(query[t, columns], codes, peak, scaling)
            for j in range(end - begin):
                dots[j] = dot_wide(key[begin + j, columns], codes)
            divisor = weigh(dots, step)
            add_values(dots, value[begin:end, columns], totals)
            peaks, means = value_peak[number, columns], value_mean[number, columns]
            write_mean(totals, divisor, peaks, means, y[t, columns])
