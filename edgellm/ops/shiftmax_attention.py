"""ShiftmaxAttention: the attention of I-ViT: int8 scores, Shiftmax, probabilities times values.

Scales are known, so queries, keys and values are int8 codes, and a head's scores get theirs by one
multiplier. Probabilities are normalised before the weighted sum and rounded down: what Shiftmax
loses of the mass, the result loses. Rows of sequences lie one after the other.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellm.ops import _body_integers as graph
from edgellm.ops import _examples as draw
from edgellm.ops._body import Body, Value
from edgellm.ops._heads import heads_of
from edgellm.ops._integers import INT32_MAX, exact_matmul, round_shift, saturate
from edgellm.ops._ranges import RIGHT_SHIFT, SHIFT_EXP
from edgellm.ops._schema import Example, OpSchema, Port
from edgellm.ops._sequences import sequence_of_rows
from edgellm.ops._shift_exp import (
    exponential_fits,
    normalized,
    normalized_nodes,
    shift_exp,
    shift_exp_nodes,
)
from edgellm.ops._use import Demands, Use, whole_heads, whole_sequences
from edgellm.ops._work import full_attention
from edgellm.ops.shiftmax import PYTORCH, TVM

if TYPE_CHECKING:
    from onnx import FunctionProto

SCHEMA = OpSchema(
    name="ShiftmaxAttention",
    inputs=(
        Port("query", "int8", ("T", "M")),
        Port("key", "int8", ("T", "M")),
        Port("value", "int8", ("T", "M")),
        Port("multiplier", "int32", ("H",)),
        Port("ends", "int64", ("B",)),
    ),
    outputs=(Port("y", "int32", ("T", "M")),),
    attributes={"shift": RIGHT_SHIFT, **SHIFT_EXP},
)
work = full_attention("H")


def demands(use: Use) -> Demands:
    """Demand whole sequences, rows of whole heads, and an exponential that fits an int32."""
    heads = whole_heads(use, use.sizes["H"])
    return [*whole_sequences(use), *heads, *exponential_fits(use)]


SCORE_LIMIT = 127


def reference(
    query: npt.NDArray[np.int8],
    key: npt.NDArray[np.int8],
    value: npt.NDArray[np.int8],
    multiplier: npt.NDArray[np.int32],
    ends: npt.NDArray[np.int64],
    *,
    shift: int,
    unit: int,
    n: int,
    bits: int,
    half_bit: int,
) -> npt.NDArray[np.int32]:
    """Return ``Shiftmax(query . key * multiplier * 2^-shift) . value`` of each head and sequence.

    Args:
        query: (T, M), M = H * D, D <= 512; codes in [-127, 127].
        key: (T, M).
        value: (T, M).
        multiplier: (H,) of each head, 0 <= multiplier < 2^31: scores are clamped to [-127, 127].
        ends: (B,) rows up to and without ``ends[i]`` belong to the sequences 0 to i; rising, the
            last is T; a sequence has at most 65,535 rows.
        shift: exponent that goes with the multipliers, 1 to 62.
        unit: of Shiftmax, as are n, bits and half_bit.
        n: see there.
        bits: see there.
        half_bit: see there.

    Returns:
        (T, M) int32; real = integer * scale of the values * 2^-(bits - 1).
    """
    heads = len(multiplier)
    y = np.empty(query.shape, np.int32)
    factor = multiplier.astype(np.int64)[:, None, None]
    begin = 0
    for end in ends.tolist():
        queries, keys, values = (heads_of(x[begin:end], heads) for x in (query, key, value))
        dots = exact_matmul(queries, keys.transpose(0, 2, 1))  # |dot| <= 127^2 * D < 2^23
        scores = saturate(round_shift(dots * factor, shift), SCORE_LIMIT)
        best = scores.max(axis=-1, keepdims=True)
        e = shift_exp(scores - best, unit, n, half_bit)
        weights = normalized(e, e.sum(axis=-1, keepdims=True), bits)
        total = exact_matmul(weights, values)  # below 2^15 * 127 * 65,535 < 2^38
        rows = total.transpose(1, 0, 2).reshape(end - begin, -1)
        y[begin:end] = saturate(rows, INT32_MAX)
        begin = end
    return y


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators: all pairs of rows, most of them masked."""
    b = Body(SCHEMA)
    query, key, value, multiplier, ends = b.inputs
    sequence = sequence_of_rows(query, ends)
    same = sequence.equals(sequence.reshape(-1).unsqueeze(0))  # (T, T)
    heads = multiplier.size(0)
    queries, keys, values = (part.reshape(0, heads, -1) for part in (query, key, value))
    dots = graph.exact_matmul(queries.transpose(1, 0, 2), keys.transpose(1, 2, 0)).to("int64")
    factor = multiplier.to("int64").reshape(-1, 1, 1)
    scores = graph.saturate(
        graph.round_shift(dots * factor, b.attribute("shift")), SCORE_LIMIT
    )  # (H, T, T)
    weights = _weights(b, scores, same)
    total = weights.matmul(values.to("int64").transpose(1, 0, 2)).transpose(1, 0, 2)
    rows = graph.saturate(total.reshape(query.size(0), query.size(1)), INT32_MAX)
    return b.function(rows.to("int32"))


def _weights(b: Body, scores: Value, same: Value) -> Value:
    unit, n, bits, half_bit = (b.attribute(name) for name in ("unit", "n", "bits", "half_bit"))
    best = b.where(same, scores, -SCORE_LIMIT).row_max()
    e = shift_exp_nodes(b.where(same, scores - best, 0), unit, n, half_bit)
    e = b.where(same, e, 0)
    return normalized_nodes(e, e.row_sum(), bits)


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    rng = np.random.default_rng(47)
    cases: tuple[tuple[int, int, list[int]], ...] = (
        (1, 1, [1]),
        (2, 8, [5]),
        (3, 7, [4, 5, 16]),
        (2, 32, [17, 33, 34, 70]),
        (4, 40, [9, 21]),
    )
    for variant, constants in (("pytorch", PYTORCH), ("tvm", TVM)):
        for heads, dim, ends in cases:
            name = f"{variant}_{heads}x{dim}_{'_'.join(map(str, ends))}"
            yield Example(
                name, _inputs(rng, heads, dim, ends), {"shift": 39, "unit": 16, **constants}
            )
    longest = _inputs(rng, 1, 2, [700])
    yield Example("long_sequence", longest, {"shift": 39, "unit": 50, **PYTORCH})
    row = draw.alternating(512, SCORE_LIMIT, np.int8)
    extreme = np.stack([row, -row, row])
    for shift in (1, 30, 62):
        inputs = (extreme, extreme, extreme, np.full(1, INT32_MAX, np.int32), np.array([2, 3]))
        yield Example(f"extremes_shift_{shift}", inputs, {"shift": shift, "unit": 3, **PYTORCH})


def _inputs(
    rng: np.random.Generator, heads: int, dim: int, ends: list[int]
) -> tuple[npt.NDArray[np.generic], ...]:
    rows = [draw.codes(rng, ends[-1], heads * dim) for _ in range(3)]
    return (*rows, draw.multipliers(rng, heads), np.array(ends))
