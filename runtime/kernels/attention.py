"""Attention over the int8 key/value cache: grouped heads, sliding window, exp2-late softmax."""

import numpy as np
import numpy.typing as npt

from edgellm.ops.attention import EXP2_TABLE, LOGIT_BITS, MAX_HALVINGS
from edgellm.runtime.kernels._dot import dot
from edgellm.runtime.kernels._jit import kernel
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
    stack_int8,
    stack_int32,
    stack_int64,
)

MAX_HEAD_DIM = 512
FRACTION = (1 << LOGIT_BITS) - 1
FLUSH = 512
"""Keys after which int32 sums of ``weight * value`` move to int64: 512 * 32591 * 128 < 2^31."""


def exp2_weight(distance: Int, mantissa: Int, exponent: Int) -> Int:
    """Return ``2^15 * 2^-(distance * mantissa * 2^-exponent)`` by the table of 64 entries."""
    drop = max(exponent - 56, 0)
    near = min(distance >> min(drop, 62), 2**31 - 1)
    halvings = round_shift(near * mantissa, clamp(exponent - drop - LOGIT_BITS, 1, 62))
    whole = min(halvings >> LOGIT_BITS, MAX_HALVINGS)
    entry: Int = EXP2_TABLE[(halvings & FRACTION) >> 6]
    return (entry + ((1 << whole) >> 1)) >> whole


def quantize_query(head: npt.NDArray[np.int32], codes: npt.NDArray[np.int8], scaling: Pair) -> Pair:
    """Write the codes of a query head; return what a step of its scores is in halvings, dyadic."""
    peak = np.int64(0)
    for d in range(head.shape[0]):
        peak = max(peak, abs(np.int64(head[d])))
    reciprocal, shift = absmax_reciprocal(peak), absmax_shift(peak)
    for d in range(head.shape[0]):
        codes[d] = round_shift(np.int64(head[d]) * reciprocal, shift)
    mantissa, exponent = normalize(peak, 0)
    return product(mantissa, exponent, scaling[0], scaling[1])


def add_scaled(sums: npt.NDArray[np.int32], values: npt.NDArray[np.int8], factor: np.int32) -> None:
    """Add ``factor * values`` to ``sums``."""
    for d in range(values.shape[0]):
        sums[d] += np.int32(values[d]) * factor


def flush(totals: npt.NDArray[np.int64], sums: npt.NDArray[np.int32]) -> None:
    """Move the int32 sums into the int64 totals."""
    for d in range(sums.shape[0]):
        totals[d] += sums[d]
        sums[d] = 0


def weighted_sum(
    best: Int,
    step: Pair,
    codes: npt.NDArray[np.int8],
    keys: tuple[npt.NDArray[np.int8], npt.NDArray[np.int32]],
    values: tuple[npt.NDArray[np.int8], npt.NDArray[np.int32]],
    totals: npt.NDArray[np.int64],
    drop: Int,
) -> Int:
    """Add all values by their weights to ``totals``; return the sum of the weights.

    The scores are computed once more: keeping them would take memory as long as the context.
    """
    sums = stack_int32(MAX_HEAD_DIM)[: codes.shape[0]]
    sums[:] = 0
    totals[:] = 0
    weights = np.int64(0)
    for j in range(keys[1].shape[0]):
        score = np.int64(dot(codes, keys[0][j])) * keys[1][j]
        weight = exp2_weight(best - score, step[0], step[1])
        weights += weight
        folded = round_shift(weight * round_shift(np.int64(values[1][j]), drop), 15)
        if folded != 0:
            add_scaled(sums, values[0][j], np.int32(folded))
        if j % FLUSH == FLUSH - 1:
            flush(totals, sums)
    flush(totals, sums)
    return weights


@kernel("Attention")
def attention(
    thread: int,
    threads: int,
    query: npt.NDArray[np.int32],  # (T, M)
    key: npt.NDArray[np.int8],  # (L, H, D)
    key_absmax: npt.NDArray[np.int32],  # (L, H)
    value: npt.NDArray[np.int8],  # (L, H, D)
    value_absmax: npt.NDArray[np.int32],  # (L, H)
    y: npt.NDArray[np.int64],  # (T, M), M = query heads * D
    scaling_mantissa: int,
    scaling_exponent: int,
    window: int,
) -> None:
    """Split by query heads of rows, in turn: later rows see more keys."""
    length, groups, dim = key.shape
    heads = query.shape[1] // dim
    first_position = length - query.shape[0]
    codes = stack_int8(MAX_HEAD_DIM)[:dim]
    totals = stack_int64(MAX_HEAD_DIM)[:dim]
    for item in range(thread, query.shape[0] * heads, threads):
        t, head = item // heads, item % heads
        group = head // (heads // groups)
        end = first_position + t + 1
        begin = max(end - window, 0) if window > 0 else 0
        columns = slice(head * dim, (head + 1) * dim)
        step = quantize_query(query[t, columns], codes, (scaling_mantissa, scaling_exponent))
        keys = key[begin:end, group], key_absmax[begin:end, group]
        values = value[begin:end, group], value_absmax[begin:end, group]
        best, peak = np.int64(-(2**62)), np.int64(0)
        for j in range(end - begin):
            best = max(best, np.int64(dot(codes, keys[0][j])) * keys[1][j])
            peak = max(peak, np.int64(values[1][j]))
        drop = max(bit_length(peak) - 15, 0)
        weights = weighted_sum(best, step, codes, keys, values, totals, drop)
        divisor = max(weights * 127, 1)
        out = y[t, columns]
        for d in range(dim):
            dividend = (totals[d] << 20) + (divisor << 20) + (divisor >> 1)
            out[d] = (dividend // divisor - (1 << 20)) << drop
