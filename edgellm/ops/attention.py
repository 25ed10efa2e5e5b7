"""Attention over the int8 key/value cache: grouped heads, causal or sliding window, exp2 softmax.

The softmax is normalised after the weighted sum of the values, so that no probability mass is lost
at any length; 2^-f comes from a table of 64 entries. Each query sees the keys up to its own
position and nothing of how the prompt was cut: prefill equals decode, bit for bit.
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellm.device import Attention as CausalAttention
from edgellm.device import Work
from edgellm.graph_names import PAST_LENGTH, TOKENS
from edgellm.ops import _body_integers as graph
from edgellm.ops import _examples as draw
from edgellm.ops._body import Body, Value
from edgellm.ops._heads import quantize_heads
from edgellm.ops._integers import (
    INT32_MAX,
    Dyadic,
    Int64,
    bit_length,
    exact_matmul,
    exp2_table,
    normalize,
    product,
    round_shift,
)
from edgellm.ops._ranges import EXPONENT, MANTISSA
from edgellm.ops._schema import Example, OpSchema, Port
from edgellm.ops._use import MAX_HEAD_DIM, Demands, Use, at_most, divides
from edgellm.ops._work import Sizes

if TYPE_CHECKING:
    from onnx import FunctionProto

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
    attributes={
        "scaling_mantissa": MANTISSA,
        "scaling_exponent": EXPONENT,
        "window": (0, 2**31 - 1),
    },
)


def work(sizes: Sizes) -> Work:
    """Return what a call amounts to."""
    return CausalAttention(
        tokens=sizes["T"],
        length=sizes["L"],
        heads=sizes["M"] // sizes["D"],
        kv_heads=sizes["H"],
        head_dim=sizes["D"],
        window=sizes["window"],
    )


def demands(use: Use) -> Demands:
    """Demand the cache of a text as its keys, and whole groups of query heads."""
    heads, dim = use.sizes["H"], use.sizes["D"]
    whole = isinstance(heads, int) and divides(dim, use.sizes["M"], heads)
    length = f"{PAST_LENGTH}+{TOKENS}"
    return [
        (
            use.sizes["T"] == TOKENS and use.sizes["L"] == length,
            "its keys are the past and the tokens",
        ),
        (at_most(dim, MAX_HEAD_DIM), f"heads have at most {MAX_HEAD_DIM} columns"),
        (whole, "the query heads are a multiple of the key/value heads"),
    ]


MAX_CONTEXT = 65_535
"""The sum of ``2^15 * 127`` a position has 38 bits."""
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
    allowed = allowed_keys(tokens, length, window)
    weights = exp2_weights(
        scores, absmax.transpose(1, 2, 0, 3), allowed, (scaling_mantissa, scaling_exponent)
    )
    y = weighted_mean(weights, value, value_absmax, allowed)
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


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators."""
    b = Body(SCHEMA)
    query, key, key_absmax, value, value_absmax = b.inputs
    heads = query.to("int64").reshape(query.size(0), key.size(1), -1, key.size(2))
    codes, absmax = graph.quantize_heads(heads)
    dots = graph.exact_matmul(
        codes.to("int8").transpose(1, 2, 0, 3), key.transpose(1, 2, 0).unsqueeze(1)
    )
    scores = dots.to("int64") * _row_scales(key_absmax)
    allowed = _allowed_nodes(b, query.count(0), key.count(0))
    scaling = (b.attribute("scaling_mantissa"), b.attribute("scaling_exponent"))
    weights = _exp2_weights_nodes(scores, absmax.transpose(1, 2, 0, 3), allowed, scaling)
    y = _weighted_mean_nodes(weights, value, value_absmax, allowed)
    return b.function(y.transpose(2, 0, 1, 3).reshape(query.size(0), query.size(1)))


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
    weights: Value, value: Value, value_absmax: Value, allowed: Value
) -> Value:
    b = weights.body
    scales = b.where(allowed, _row_scales(value_absmax), 0)
    drop = (graph.bit_length(scales.row_max()) - 15).at_least(0)
    folded = graph.round_shift_positive(weights * graph.round_shift_positive(scales, drop), 15)
    total = folded.matmul(value.transpose(1, 0, 2).to("int64").unsqueeze(1))
    divisor = weights.row_sum() * 127
    quotient = ((total + divisor) * 2**20 + divisor // 2) // divisor - 2**20
    return quotient * graph.power_of_two(drop)


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    rng = np.random.default_rng(15)
    sizes = (
        (1, 1, 1, 1, 1),
        (5, 5, 2, 1, 8),
        (1, 300, 2, 2, 8),
        (3, 70, 1, 3, 80),
        (2, 67, 3, 1, 7),
        (1, 301, 2, 7, 64),
        (5, 70, 3, 2, 128),
        (2, 130, 1, 5, 512),
        (1, 150, 5, 3, 64),
        (2, 200, 5, 4, 128),
    )
    for tokens, length, groups, share, dim in sizes:
        name = f"random_{tokens}_of_{length}_{groups}x{share}x{dim}"
        inputs = _random_inputs(rng, (tokens, length, groups, share, dim))
        yield Example(name, inputs, _attributes(dim))
    for window in (1, 4, 29, 30, 1000):
        for dim in (8, 64):
            inputs = _random_inputs(rng, (4, 30, 2, 2, dim))
            yield Example(f"window_{window}_x{dim}", inputs, _attributes(dim, window=window))
    for tokens, length, window in ((2, 210, 100), (1, 420, 205)):
        inputs = _random_inputs(rng, (tokens, length, 2, 4, 64))
        yield Example(f"window_of_blocks_{tokens}", inputs, _attributes(64, window=window))
    yield from _degenerate_examples(rng)
    yield from _extreme_examples(rng)


def _random_inputs(
    rng: np.random.Generator, sizes: tuple[int, int, int, int, int]
) -> tuple[npt.NDArray[np.generic], ...]:
    """Return inputs; sizes: tokens, length, heads of the cache, queries to each, head dimension."""
    tokens, length, groups, share, dim = sizes
    return (
        draw.narrow(rng, 20, tokens, groups * share * dim),
        draw.codes(rng, length, groups, dim),
        np.abs(draw.narrow(rng, 20, length, groups)),
        draw.codes(rng, length, groups, dim),
        np.abs(draw.narrow(rng, 20, length, groups)),
    )


def _attributes(dim: int, *, window: int = 0, frame: int = 18) -> dict[str, int]:
    """Return the attributes for queries and keys in ``frame``."""
    step = math.log2(math.e) / math.sqrt(dim) / 127**2 * 2.0 ** (-2 * frame)
    mantissa, exponent = draw.dyadic(step)
    return {"scaling_mantissa": mantissa, "scaling_exponent": exponent, "window": window}


def _degenerate_examples(rng: np.random.Generator) -> Iterator[Example]:
    """Yield rows in which something is zero, or all scores are the same."""
    for name, port in (("query", 0), ("key", 1), ("value", 3)):
        inputs = list(_random_inputs(rng, (3, 20, 2, 2, 8)))
        inputs[port] = np.zeros_like(inputs[port])
        if port:  # a zero row of the cache has the absmax 0
            inputs[port + 1] = np.zeros_like(inputs[port + 1])
        yield Example(f"zero_{name}", tuple(inputs), _attributes(8))
    query, key, key_absmax, value, value_absmax = _random_inputs(rng, (2, 40, 1, 2, 8))
    same = (np.repeat(key[:1], 40, axis=0), np.repeat(key_absmax[:1], 40, axis=0))
    yield Example("identical_scores", (query, *same, value, value_absmax), _attributes(8))


def _extreme_examples(rng: np.random.Generator) -> Iterator[Example]:
    """Yield the largest magnitudes, the longest row, and scalings far from any model's."""
    query = draw.alternating(512, INT32_MAX, np.int32)[None]
    opposite = draw.alternating(2 * 512, 127, np.int8).reshape(2, 1, 512)
    opposite[0] *= -1
    absmax = np.full((2, 1), INT32_MAX, np.int32)
    largest = (query, opposite, absmax, opposite, absmax)
    for frame in (0, 9, 18, 30):
        yield Example(f"largest_frame_{frame}", largest, _attributes(512, frame=frame))
    for exponent in (0, 40, 60, 80, 140):
        scaling = {"scaling_mantissa": INT32_MAX, "scaling_exponent": exponent, "window": 0}
        inputs = _random_inputs(rng, (2, 30, 2, 1, 8))
        yield Example(f"scaling_exponent_{exponent}", inputs, scaling)
    peaks = np.full((65_535, 1), INT32_MAX, np.int32)
    for dim in (2, 64):
        values = np.full((65_535, 1, dim), 127, np.int8)
        values[:, :, 1::2] = -127
        query, zeros = draw.alternating(dim, 5, np.int32)[None], np.zeros_like(values)
        yield Example(f"longest_row_x{dim}", (query, zeros, peaks, values, peaks), _attributes(dim))
