"""Attention over a key/value cache, whatever its codes: what its operators share."""

import math

import numpy as np
import numpy.typing as npt

from edgellm.ops import _body_integers as graph
from edgellm.ops import _examples as draw
from edgellm.ops._body import Body, Value
from edgellm.ops._heads import quantize_heads
from edgellm.ops._integers import (
    Dyadic,
    Int64,
    bit_length,
    exact_matmul,
    exp2_table,
    normalize,
    product,
    round_shift,
)

MAX_CONTEXT = 65_535
"""The sum of ``2^15 * 127`` a position has 38 bits."""
EXP2_BITS = 15
EXP2_TABLE = exp2_table(64, EXP2_BITS)
LOGIT_BITS = 12
"""Fraction bits of a log2 distance: 6 choose the table entry, 6 are dropped."""
MAX_HALVINGS = 31
OUT_FRACTION_BITS = 5
"""y has 5 fraction bits more than the values."""
INT8_LIMIT = 127
"""The largest code of int8 keys and values."""

Cache = tuple[npt.NDArray[np.int8], npt.NDArray[np.int32]]
"""Codes (L, H, D) of keys or values, and their absmax (L, H)."""


def attend(
    query: npt.NDArray[np.int32],
    keys: Cache,
    values: Cache,
    scaling: Dyadic,
    window: int,
    limit: int = INT8_LIMIT,
) -> npt.NDArray[np.int64]:
    """Return softmax(query . key) . value of each head, of codes within ``limit``.

    Queries have 8 bits, and weights 15. The rest is as in ``attention.reference``.
    """
    (key, key_absmax), (value, value_absmax) = keys, values
    tokens, length = query.shape[0], key.shape[0]
    groups, dim = key.shape[1], key.shape[2]
    codes, absmax = quantize_heads(query.astype(np.int64).reshape(tokens, groups, -1, dim))
    # (H, G, T, L): |dot| <= 127^2 * D, times absmax below 2^31: below 2^54
    dots = exact_matmul(codes.transpose(1, 2, 0, 3), key.transpose(1, 2, 0)[:, None])
    scores = dots * key_absmax.T.astype(np.int64)[:, None, None, :]
    allowed = allowed_keys(tokens, length, window)
    weights = exp2_weights(scores, absmax.transpose(1, 2, 0, 3), allowed, scaling)
    y = weighted_mean(weights, value, value_absmax, allowed, limit)
    return y.transpose(2, 0, 1, 3).reshape(query.shape)


def allowed_keys(tokens: int, length: int, window: int) -> npt.NDArray[np.bool_]:
    """Return (T, L): which keys each query sees."""
    position = np.arange(length - tokens, length)[:, None]
    key = np.arange(length)[None, :]
    seen = key <= position
    return seen & (key > position - window) if window else seen


def exp2_weights(
    scores: Int64, absmax: Int64, allowed: npt.NDArray[np.bool_], scaling: Dyadic
) -> Int64:
    """Return (H, G, T, L) weights 2^15 * 2^-(distance to the best score), 0 where not allowed."""
    mantissa, exponent = product(normalize(absmax, 0), scaling)
    best = np.where(allowed, scores, np.iinfo(np.int64).min).max(axis=-1, keepdims=True)
    distance = np.where(allowed, best - scores, 0)
    # Only distances below 32 halvings count, so 31 bits of them are enough: drop the rest first.
    drop = np.maximum(exponent - 56, 0)
    distance = np.minimum(distance >> np.minimum(drop, 62), 2**31 - 1)
    halvings = round_shift(distance * mantissa, np.clip(exponent - drop - LOGIT_BITS, 1, 62))
    whole = np.minimum(halvings >> LOGIT_BITS, MAX_HALVINGS)
    entry = EXP2_TABLE[(halvings & (2**LOGIT_BITS - 1)) >> 6]
    return np.where(allowed, (entry + ((np.int64(1) << whole) >> 1)) >> whole, 0)


def weighted_mean(
    weights: Int64,
    value: npt.NDArray[np.int8],
    value_absmax: npt.NDArray[np.int32],
    allowed: npt.NDArray[np.bool_],
    limit: int = INT8_LIMIT,
) -> Int64:
    """Return (H, G, T, D): sum(weights * value) / sum(weights), 5 fraction bits.

    Codes of values are within ``limit``, which stands for the absmax.
    """
    scales = value_absmax.T.astype(np.int64)[:, None, None, :]  # (H, 1, 1, L)
    peak = np.where(allowed, scales, 0).max(axis=-1, keepdims=True)
    drop = np.maximum(bit_length(peak) - 15, 0)
    folded = round_shift(weights * np.where(allowed, round_shift(scales, drop), 0), 15)
    total = exact_matmul(
        folded, value.transpose(1, 0, 2)[:, None]
    )  # |total| <= 127 * 2^15 * L < 2^38
    divisor = weights.sum(axis=-1, keepdims=True) * limit
    # |total| <= divisor, so adding divisor * 2^20 keeps the dividend positive; it is below 2^60.
    quotient = ((total << 20) + (divisor << 20) + (divisor >> 1)) // divisor - (1 << 20)
    return quotient << drop


def attend_nodes(
    query: Value, keys: tuple[Value, Value], values: tuple[Value, Value], limit: int = INT8_LIMIT
) -> Value:
    """Return ``attend`` in standard ONNX operators; scaling and window are the attributes."""
    b, (key, key_absmax), (value, value_absmax) = query.body, keys, values
    heads = query.to("int64").reshape(query.size(0), key.size(1), -1, key.size(2))
    codes, absmax = graph.quantize_heads(heads)
    dots = graph.exact_matmul(
        codes.to("int8").transpose(1, 2, 0, 3), key.transpose(1, 2, 0).unsqueeze(1)
    )
    scores = dots.to("int64") * _row_scales(key_absmax)
    allowed = _allowed_nodes(b, query.count(0), key.count(0))
    scaling = (b.attribute("scaling_mantissa"), b.attribute("scaling_exponent"))
    weights = _exp2_weights_nodes(scores, absmax.transpose(1, 2, 0, 3), allowed, scaling)
    y = _weighted_mean_nodes(weights, (value, value_absmax), allowed, limit)
    return y.transpose(2, 0, 1, 3).reshape(query.size(0), query.size(1))


def _row_scales(absmax: Value) -> Value:
    """Return (L, H) int32 as (H, 1, 1, L) int64."""
    return absmax.transpose(1, 0).to("int64").unsqueeze(1).unsqueeze(1)


def _allowed_nodes(b: Body, tokens: Value, length: Value) -> Value:
    window = b.attribute("window")
    position = b.range(length - tokens, length).unsqueeze(1)
    key = b.range(b.constant(0), length).unsqueeze(0)
    reach = b.where(window.equals(0), length, window)
    return (key <= position) & (key > position - reach)


def _exp2_weights_nodes(
    scores: Value, absmax: Value, allowed: Value, scaling: graph.Dyadic
) -> Value:
    b = scores.body
    mantissa, exponent = graph.product(graph.normalize(absmax, 0), scaling)
    best = b.where(allowed, scores, -(2**62)).row_max()
    distance = b.where(allowed, best - scores, 0)
    drop = (exponent - 56).at_least(0)
    distance = distance.shift_right(drop.at_most(62)).at_most(2**31 - 1)
    bits = (exponent - drop - LOGIT_BITS).clip(1, 62)
    halvings = graph.round_shift_positive(distance * mantissa, bits)
    whole = halvings.shift_right(LOGIT_BITS).at_most(MAX_HALVINGS)
    entry = b.constant(EXP2_TABLE).take((halvings & (2**LOGIT_BITS - 1)).shift_right(6))
    return b.where(allowed, graph.round_shift_positive(entry, whole), 0)


def _weighted_mean_nodes(
    weights: Value, values: tuple[Value, Value], allowed: Value, limit: int
) -> Value:
    b, (value, value_absmax) = weights.body, values
    scales = b.where(allowed, _row_scales(value_absmax), 0)
    drop = (graph.bit_length(scales.row_max()) - 15).at_least(0)
    folded = graph.round_shift_positive(weights * graph.round_shift_positive(scales, drop), 15)
    total = folded.matmul(value.transpose(1, 0, 2).to("int64").unsqueeze(1))
    divisor = weights.row_sum() * limit
    quotient = ((total + divisor) * 2**20 + divisor // 2) // divisor - 2**20
    return quotient * graph.power_of_two(drop)


def example_attributes(dim: int, *, window: int = 0, frame: int = 18) -> dict[str, int]:
    """Return the attributes for queries and keys in ``frame``."""
    step = math.log2(math.e) / math.sqrt(dim) / 127**2 * 2.0 ** (-2 * frame)
    mantissa, exponent = draw.dyadic(step)
    return {"scaling_mantissa": mantissa, "scaling_exponent": exponent, "window": window}
