"""EncoderAttention: softmax attention within each of several sequences, without a mask or a cache.

Rows of sequences of any lengths lie one after the other: nothing is padded. The softmax is
normalised after the weighted sum, as in Attention; 2^-f is a cubic, which vector units compute
without a table.
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellm.ops import _body_integers as graph
from edgellm.ops import _examples as draw
from edgellm.ops import sequence_quantize
from edgellm.ops._body import Body, Value
from edgellm.ops._heads import heads_of, quantize_heads
from edgellm.ops._integers import (
    INT32_MAX,
    RECIPROCAL_127,
    Int64,
    bit_length,
    exact_matmul,
    normalize,
    product,
    round_shift,
    saturate,
)
from edgellm.ops._ranges import EXPONENT, MANTISSA
from edgellm.ops._schema import Example, OpSchema, Port
from edgellm.ops._sequences import sequence_of_rows
from edgellm.ops._use import MAX_COLUMNS, Demands, Use, whole_heads, whole_sequences
from edgellm.ops._work import full_attention

if TYPE_CHECKING:
    from onnx import FunctionProto

SCHEMA = OpSchema(
    name="EncoderAttention",
    inputs=(
        Port("query", "int32", ("T", "M")),
        Port("key", "int8", ("T", "M")),
        Port("key_peak", "int32", ("B", "M")),
        Port("value", "int8", ("T", "M")),
        Port("value_peak", "int32", ("B", "M")),
        Port("value_mean", "int32", ("B", "M")),
        Port("ends", "int64", ("B",)),
    ),
    outputs=(Port("y", "int64", ("T", "M")),),
    attributes={
        "heads": (1, MAX_COLUMNS),
        "scaling_mantissa": MANTISSA,
        "scaling_exponent": EXPONENT,
    },
)
work = full_attention("heads")


def demands(use: Use) -> Demands:
    """Demand whole sequences, and rows of whole heads."""
    return [*whole_sequences(use), *whole_heads(use, use.attributes["heads"])]


WEIGHT_BITS = 15
"""Fraction bits of a log2 distance, and of a weight, which is at most 32767."""
CUBIC = (32767, 22660, 7565, 1290)
"""2^-f = c0 - f (c1 - f (c2 - f c3)) in Q15; off by 1.4e-4 of it at most (the table of 64 entries
that Attention has: 5.4e-3). Found by weighted least squares and a search of the neighbours."""
MAX_HALVINGS = 16
"""A weight of 32767 is 0 after so many."""
MEAN_BITS = 15
"""Fraction bits of a mean of value codes."""


def reference(
    query: npt.NDArray[np.int32],
    key: npt.NDArray[np.int8],
    key_peak: npt.NDArray[np.int32],
    value: npt.NDArray[np.int8],
    value_peak: npt.NDArray[np.int32],
    value_mean: npt.NDArray[np.int32],
    ends: npt.NDArray[np.int64],
    *,
    heads: int,
    scaling_mantissa: int,
    scaling_exponent: int,
) -> npt.NDArray[np.int64]:
    """Return softmax(query . key) . value of each head and sequence.

    Args:
        query: (T, M), M = heads * D, D <= 512; |query| <= 2^31 - 1.
        key: (T, M) codes of SequenceQuantize, the D columns of a head in one group.
        key_peak: (B, M); the first column of a head counts.
        value: (T, M) codes, each column a group.
        value_peak: (B, M).
        value_mean: (B, M).
        ends: (B,) rows up to and without ``ends[i]`` belong to the sequences 0 to i; rising, the
            last is T; a sequence has at most 65,535 rows.
        heads: number of heads.
        scaling_mantissa: with its exponent, the log2 distance of one step of
            ``query code * query absmax * key code * key peak``.
        scaling_exponent: see there.

    Returns:
        (T, M) int64 in the fixed point of the values.
    """
    y = np.empty(query.shape, np.int64)
    scaling = (scaling_mantissa, scaling_exponent)
    begin = 0
    for number, end in enumerate(ends.tolist()):
        codes, absmax = quantize_heads(heads_of(query[begin:end], heads))
        keys, values = (heads_of(part[begin:end], heads) for part in (key, value))
        dots = exact_matmul(codes, keys.transpose(0, 2, 1))  # |dot| <= 127^2 * D < 2^23
        peak = key_peak[number].astype(np.int64).reshape(heads, -1)[:, :1, None]
        step = product(product(normalize(absmax, 0), normalize(peak, 0)), scaling)
        weights = exp2_weights(dots.max(axis=-1, keepdims=True) - dots, *step)
        total = exact_matmul(weights, values)  # below 2^38
        mean = mean_codes(total, weights.sum(axis=-1, keepdims=True))
        mean = mean.transpose(1, 0, 2).reshape(end - begin, -1)
        y[begin:end] = add_mean(mean, value_peak[number], value_mean[number])
        begin = end
    return y


def exp2_weights(distance: Int64, mantissa: Int64, exponent: Int64) -> Int64:
    """Return ``32767 * 2^-(distance * mantissa * 2^-exponent)``; 0 <= distance < 2^24."""
    halvings = round_shift(distance * mantissa, np.clip(exponent - WEIGHT_BITS, 1, 62))
    whole = np.minimum(halvings >> WEIGHT_BITS, MAX_HALVINGS)
    f = halvings & (2**WEIGHT_BITS - 1)
    c0, c1, c2, c3 = CUBIC
    cubic = c0 - (((c1 - (((c2 - ((c3 * f) >> 15)) * f) >> 15)) * f) >> 15)
    return round_shift(cubic, whole)


def mean_codes(total: Int64, divisor: Int64) -> Int64:
    """Return ``total / divisor`` in Q15, |total| <= 127 * divisor < 2^38."""
    bits = bit_length(divisor)
    reciprocal = (np.int64(1) << (bits + 30)) // divisor  # at most 2^31
    drop = np.maximum(bits - 24, 0)
    short = round_shift(total, drop)  # |short| <= 127 * 2^24, so the product is below 2^62
    return round_shift(short * reciprocal, bits + 30 - drop - MEAN_BITS)


def add_mean(mean: Int64, peak: npt.NDArray[np.int32], value_mean: npt.NDArray[np.int32]) -> Int64:
    """Return ``mean * peak / 127 + value_mean``, saturated to 32 bits."""
    scale = round_shift(peak.astype(np.int64) * RECIPROCAL_127[0], 31)  # peak / 127 * 2^6
    return saturate(round_shift(mean * scale, MEAN_BITS + 6) + value_mean, INT32_MAX)


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators: all pairs of rows, most of them masked."""
    b = Body(SCHEMA)
    query, key, key_peak, value, value_peak, value_mean, ends = b.inputs
    heads = b.node("Reshape", [b.attribute("heads"), b.constant([1])], "int64")
    sequence = sequence_of_rows(query, ends)
    own = sequence.reshape(-1)
    same = sequence.equals(own.unsqueeze(0))  # (T, T)
    queries, keys, values, peaks = (
        part.to("int64").reshape(0, heads, -1) for part in (query, key, value, key_peak)
    )
    codes, absmax = graph.quantize_heads(queries)
    dots = graph.exact_matmul(
        codes.to("int8").transpose(1, 0, 2), keys.to("int8").transpose(1, 2, 0)
    ).to("int64")  # (H, T, T)
    peak = peaks.take(b.constant([0]), axis=2).take(own)  # (T, H, 1)
    unit = graph.product(graph.normalize(absmax, 0), graph.normalize(peak, 0))
    scaling = (b.attribute("scaling_mantissa"), b.attribute("scaling_exponent"))
    mantissa, exponent = graph.product(unit, scaling)
    step = (mantissa.transpose(1, 0, 2), exponent.transpose(1, 0, 2))
    weights = _weights_nodes(b, dots, same, step)
    total = weights.matmul(values.transpose(1, 0, 2))
    mean = _mean_nodes(total, weights.row_sum()).transpose(1, 0, 2)
    scale = graph.round_shift_positive(value_peak.to("int64") * RECIPROCAL_127[0], 31)
    flat = mean.reshape(query.size(0), query.size(1)) * scale.take(own)
    y = graph.round_shift(flat, MEAN_BITS + 6) + value_mean.to("int64").take(own)
    return b.function(graph.saturate(y, INT32_MAX))


def _weights_nodes(b: Body, dots: Value, same: Value, step: graph.Dyadic) -> Value:
    best = b.where(same, dots, -(2**31)).row_max()
    distance = b.where(same, best - dots, 0)
    mantissa, exponent = step
    bits = (exponent - WEIGHT_BITS).clip(1, 62)
    halvings = graph.round_shift_positive(distance * mantissa, bits)
    whole = halvings.shift_right(WEIGHT_BITS).at_most(MAX_HALVINGS)
    f = halvings & (2**WEIGHT_BITS - 1)
    c0, c1, c2, c3 = CUBIC
    inner = c2 - (f * c3).shift_right(15)
    inner = c1 - (inner * f).shift_right(15)
    cubic = c0 - (inner * f).shift_right(15)
    return b.where(same, graph.round_shift_positive(cubic, whole), 0)


def _mean_nodes(total: Value, divisor: Value) -> Value:
    bits = graph.bit_length(divisor)
    reciprocal = graph.power_of_two(bits + 30) // divisor
    drop = (bits - 24).at_least(0)
    short = graph.round_shift(total, drop)
    return graph.round_shift(short * reciprocal, bits + (30 - MEAN_BITS) - drop)


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    rng = np.random.default_rng(25)
    cases: tuple[tuple[int, int, list[int]], ...] = (
        (1, 1, [1]),
        (2, 8, [5]),
        (3, 7, [4, 5, 16]),
        (2, 32, [17, 33, 34, 70]),
        (1, 64, [50]),
        (4, 40, [9, 21]),
        (1, 2, [600]),
        (2, 8, [1100]),
    )
    for heads, dim, ends in cases:
        name = f"random_{heads}x{dim}_{'_'.join(map(str, ends))}"
        rows = [draw.narrow(rng, 20, ends[-1], heads * dim) for _ in range(3)]
        yield Example(name, _inputs(rows, ends, dim), _attributes(heads, dim))
    yield from _degenerate_examples(rng)
    yield from _extreme_examples(rng)


def _inputs(
    rows: list[npt.NDArray[np.int32]], ends: list[int], dim: int
) -> tuple[npt.NDArray[np.generic], ...]:
    query, key, value = rows
    stops = np.array(ends)
    keys, key_peak, _ = sequence_quantize.reference(key, stops, group=dim)
    return (query, keys, key_peak, *sequence_quantize.reference(value, stops, group=1), stops)


def _attributes(heads: int, dim: int, *, frame: int = 18) -> dict[str, int]:
    step = math.log2(math.e) / math.sqrt(dim) / 127**2 * 2.0 ** (-2 * frame)
    mantissa, exponent = draw.dyadic(step)
    return {"heads": heads, "scaling_mantissa": mantissa, "scaling_exponent": exponent}


def _degenerate_examples(rng: np.random.Generator) -> Iterator[Example]:
    """Yield inputs in which something is zero, or all keys are the same."""
    for name, port in (("query", 0), ("key", 1), ("value", 2)):
        rows = [draw.narrow(rng, 20, 12, 16) for _ in range(3)]
        rows[port] = np.zeros_like(rows[port])
        yield Example(f"zero_{name}", _inputs(rows, [7, 12], 8), _attributes(2, 8))


def _extreme_examples(rng: np.random.Generator) -> Iterator[Example]:
    """Yield the largest magnitudes, and scalings far from any model's."""
    row = draw.alternating(512, INT32_MAX, np.int32)
    opposite = np.stack([row, -row, row])
    for frame in (0, 9, 18, 30):
        inputs = _inputs([opposite] * 3, [2, 3], 512)
        yield Example(f"largest_frame_{frame}", inputs, _attributes(1, 512, frame=frame))
    for exponent in (0, 40, 60, 80, 140):
        scaling = {"scaling_mantissa": INT32_MAX, "scaling_exponent": exponent}
        rows = [draw.narrow(rng, 20, 12, 16) for _ in range(3)]
        inputs = _inputs(rows, [7, 12], 8)
        yield Example(f"scaling_exponent_{exponent}", inputs, {"heads": 2, **scaling})
    yield _largest_sums()


def _largest_sums() -> Example:
    """Return equal weights of so many keys that their sums with the least code exceed 32 bits."""
    rows, dim = 520, 8  # 520 * 32767 * 128 > 2^31
    query, key = np.zeros((rows, dim), np.int32), np.zeros((rows, dim), np.int8)
    peak, mean = np.full((1, dim), INT32_MAX, np.int32), np.zeros((1, dim), np.int32)
    inputs = query, key, peak, np.full_like(key, -128), peak, mean, np.array([rows])
    return Example("largest_sums", inputs, _attributes(1, dim))
