"""Attention over the int8 key/value cache: grouped heads, causal or sliding window, exp2-late softmax.

The softmax is normalised after the weighted sum of the values, so that no probability mass is lost at
any length; 2^-f comes from a table of 64 entries. Each query sees the keys up to its own position and
nothing of how the prompt was cut: prefill equals decode, bit for bit.
"""

import numpy as np
import numpy.typing as npt

from edgellm.ops._heads import quantize_heads
from edgellm.ops._integers import (
    Int64,
    bit_length,
    exact_matmul,
    exp2_table,
    normalize,
    product,
    round_shift,
)
from edgellm.ops._schema import OpSchema, Port

SCHEMA = OpSchema(
    name="Attention",
    inputs=(
        Port("query", "int32", ("T", "M")),
        Port("key", "int8", ("L", "H", "D")),
        Port("key_absmax", "int32", ("L", "H")),
        Port("value", "int8", ("L", "H", "D")),
        Port("value_absmax", "int32", ("L", "H")),
    ),
    outputs=(Port("y", "int64", ("T", "M")),),
    attributes=("scaling_mantissa", "scaling_exponent", "window"),
)

EXP2_BITS = 15
EXP2_TABLE = exp2_table(64, EXP2_BITS)
LOGIT_BITS = 12
"""Fraction bits of a log2 distance: 6 choose the table entry, 6 are dropped."""
MAX_HALVINGS = 31
OUT_FRACTION_BITS = 5
"""y has 5 fraction bits more than the values."""


def reference(
    query: npt.NDArray[np.int32],
    key: npt.NDArray[np.int8],
    key_absmax: npt.NDArray[np.int32],
    value: npt.NDArray[np.int8],
    value_absmax: npt.NDArray[np.int32],
    *,
    scaling_mantissa: int,
    scaling_exponent: int,
    window: int,
) -> npt.NDArray[np.int64]:
    """Return softmax(query . key) . value of each head.

    Args:
        query: (T, M), the last T of L positions; M = heads * D, heads a multiple of H.
        key: (L, H, D) codes, L <= 65,535, D <= 512.
        key_absmax: (L, H).
        value: (L, H, D) codes.
        value_absmax: (L, H).
        scaling_mantissa: with its exponent, the log2 distance of one step of
            ``query code * query absmax * key code * key absmax``.
        scaling_exponent: see there.
        window: keys that a query sees, its own included; 0 for all.

    Returns:
        (T, M) int64 with 5 fraction bits more than the fixed point of the values.
    """
    tokens, length = query.shape[0], key.shape[0]
    groups, dim = key.shape[1], key.shape[2]
    codes, absmax = quantize_heads(query.astype(np.int64).reshape(tokens, groups, -1, dim))
    # (H, G, T, L): |dot| <= 127^2 * D, times absmax below 2^31: below 2^54
    dots = exact_matmul(codes.transpose(1, 2, 0, 3), key.transpose(1, 2, 0)[:, None])
    scores = dots * key_absmax.T.astype(np.int64)[:, None, None, :]
    allowed = _allowed(tokens, length, window)
    weights = _exp2_weights(
        scores, absmax.transpose(1, 2, 0, 3), allowed, (scaling_mantissa, scaling_exponent)
    )
    y = _weighted_mean(weights, value, value_absmax, allowed)
    return y.transpose(2, 0, 1, 3).reshape(query.shape)


def _allowed(tokens: int, length: int, window: int) -> npt.NDArray[np.bool_]:
    """Return (T, L): which keys each query sees."""
    position = np.arange(length - tokens, length)[:, None]
    key = np.arange(length)[None, :]
    seen = key <= position
    return seen & (key > position - window) if window else seen


def _exp2_weights(
    scores: Int64, absmax: Int64, allowed: npt.NDArray[np.bool_], scaling: tuple[int, int]
) -> Int64:
    """Return (H, G, T, L) weights 2^15 * 2^-(distance to the best score), 0 where not allowed."""
    constant = (np.int64(scaling[0]), np.int64(scaling[1]))
    mantissa, exponent = product(normalize(absmax, 0), constant)
    best = np.where(allowed, scores, np.iinfo(np.int64).min).max(axis=-1, keepdims=True)
    distance = np.where(allowed, best - scores, 0)
    # Only distances below 32 halvings count, so 31 bits of them are enough: drop the rest first.
    drop = np.maximum(exponent - 56, 0)
    distance = np.minimum(distance >> np.minimum(drop, 62), 2**31 - 1)
    halvings = round_shift(distance * mantissa, np.clip(exponent - drop - LOGIT_BITS, 1, 62))
    whole = np.minimum(halvings >> LOGIT_BITS, MAX_HALVINGS)
    entry = EXP2_TABLE[(halvings & (2**LOGIT_BITS - 1)) >> 6]
    return np.where(allowed, (entry + ((np.int64(1) << whole) >> 1)) >> whole, 0)


def _weighted_mean(
    weights: Int64,
    value: npt.NDArray[np.int8],
    value_absmax: npt.NDArray[np.int32],
    allowed: npt.NDArray[np.bool_],
) -> Int64:
    """Return (H, G, T, D): sum(weights * value) / sum(weights), 5 fraction bits."""
    scales = value_absmax.T.astype(np.int64)[:, None, None, :]  # (H, 1, 1, L)
    peak = np.where(allowed, scales, 0).max(axis=-1, keepdims=True)
    drop = np.maximum(bit_length(peak) - 15, 0)
    folded = round_shift(weights * np.where(allowed, round_shift(scales, drop), 0), 15)
    total = exact_matmul(
        folded, value.transpose(1, 0, 2)[:, None]
    )  # |total| <= 127 * 2^15 * L < 2^38
    divisor = weights.sum(axis=-1, keepdims=True) * 127
    # |total| <= divisor, so adding divisor * 2^20 keeps the dividend positive; it is below 2^60.
    quotient = ((total << 20) + (divisor << 20) + (divisor >> 1)) // divisor - (1 << 20)
    return quotient << drop
