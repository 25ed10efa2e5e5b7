"""LayerNormQuantize: LayerNorm in integers, with its result and the result's int8 codes a row.

The mean is exact: rows are centred as ``N * x - sum(x)``, so no fraction is lost. The root is the
exact integer one, of as many bits as there are (I-ViT's ten Newton steps from 2^16 give a standard
deviation up to 64 times too large for small rows, and its mean is rounded to an integer).
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellm.ops import _body_integers as graph
from edgellm.ops import _examples as draw
from edgellm.ops._body import Body, Value
from edgellm.ops._body_norms import add_epsilon as add_epsilon_nodes
from edgellm.ops._integers import (
    INT32_MAX,
    RECIPROCAL_127,
    UNIT_SCALE,
    Dyadic,
    Int64,
    absmax_codes,
    bit_length,
    isqrt,
    join_scale,
    normalize,
    product,
    round_shift,
    saturate,
)
from edgellm.ops._norms import add_epsilon, row_sum_of_squares
from edgellm.ops._ranges import FRAME, NORM, RIGHT_SHIFT
from edgellm.ops._schema import Example, OpSchema, Port
from edgellm.ops._use import norm_columns
from edgellm.ops._work import elements

if TYPE_CHECKING:
    from onnx import FunctionProto

SCHEMA = OpSchema(
    name="LayerNormQuantize",
    inputs=(
        Port("x", "int32", ("T", "N")),
        Port("weight", "int16", ("N",)),
        Port("bias", "int32", ("N",)),
    ),
    outputs=(
        Port("y", "int32", ("T", "N")),
        Port("codes", "int8", ("T", "N")),
        Port("out_scale", "int32", ("T", "2")),
    ),
    attributes={**NORM, "shift": RIGHT_SHIFT, "frame": FRAME},
)
work = elements("norm")
demands = norm_columns

ROW_BITS = 22
"""Centred rows are shifted to 22 bits: the sum of squares of 65,536 columns is at most 2^60."""
UNIT_BITS = 20
"""Fraction bits of a normalised value, which is at most sqrt(N) = 2^8: 28 bits."""


def reference(
    x: npt.NDArray[np.int32],
    weight: npt.NDArray[np.int16],
    bias: npt.NDArray[np.int32],
    *,
    epsilon_mantissa: int,
    epsilon_exponent: int,
    gain_mantissa: int,
    gain_exponent: int,
    shift: int,
    frame: int,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int8], npt.NDArray[np.int32]]:
    """Normalise each row, then quantise it by its absmax.

    Args:
        x: (T, N), N <= 65,536, |x| <= 2^31 - 1.
        weight: (N,) the norm weights in a fixed point of their own.
        bias: (N,) in the fixed point of y.
        epsilon_mantissa: with its exponent, ``eps * N^3`` in units of a step of x squared, as a
            dyadic scale (mantissa 0: no eps).
        epsilon_exponent: see there.
        gain_mantissa: with its exponent, ``sqrt(N)`` as a dyadic scale.
        gain_exponent: see there.
        shift: 20 + fixed point of the weights - frame, 1 to 62.
        frame: fixed point of y.

    Returns:
        y (T, N) int32, its codes (T, N) in [-127, 127], and their scale (T, 2): y is about
        codes * out_scale.
    """
    wide = x.astype(np.int64)
    centred = wide * x.shape[1] - wide.sum(axis=1, keepdims=True)  # below 2^48
    drop = np.maximum(bit_length(np.abs(centred).max(axis=1, keepdims=True)) - ROW_BITS, 0)
    rows = round_shift(centred, drop)
    epsilon = (epsilon_mantissa, epsilon_exponent)
    factor = _inverse_deviation(rows, drop, epsilon, (gain_mantissa, gain_exponent))
    unit = round_shift(rows * factor[0], np.clip(factor[1] - UNIT_BITS, 1, 62))
    y = saturate(round_shift(unit * weight, shift) + bias, INT32_MAX)  # |unit * weight| <= 2^44
    peak = np.abs(y).max(axis=1, keepdims=True)
    codes = absmax_codes(y, peak).astype(np.int8)
    out = product(normalize(peak, frame), RECIPROCAL_127)
    return y.astype(np.int32), codes, join_scale(*out)


def _inverse_deviation(
    rows: Int64, drop: Int64, epsilon: Dyadic, gain: Dyadic
) -> tuple[Int64, Int64]:
    """Return ``gain / sqrt(sum of squares + epsilon)`` of each row as a dyadic scale."""
    unit = (np.array(UNIT_SCALE[0]), np.array(UNIT_SCALE[1]))
    radicand, half_exponent = add_epsilon(row_sum_of_squares(rows), unit, drop, epsilon)
    even = (62 - bit_length(radicand)) & ~np.int64(1)
    inverse = (np.int64(1) << 61) // isqrt(radicand << even)  # 2^30 <= inverse <= 2^31
    mantissa, exponent = product(normalize(inverse, 61), gain)
    return mantissa, exponent + half_exponent - (even >> 1)


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators."""
    b = Body(SCHEMA)
    x, weight, bias = b.inputs
    wide = x.to("int64")
    centred = wide * x.count(1) - wide.row_sum()
    drop = (graph.bit_length(centred.abs().row_max()) - ROW_BITS).at_least(0)
    rows = graph.round_shift(centred, drop)
    mantissa, exponent = _inverse_deviation_nodes(b, rows, drop)
    unit = graph.round_shift(rows * mantissa, (exponent - UNIT_BITS).clip(1, 62))
    scaled = graph.round_shift(unit * weight.to("int64"), b.attribute("shift"))
    y = graph.saturate(scaled + bias.to("int64"), INT32_MAX)
    peak = y.abs().row_max()
    codes = graph.absmax_codes(y, peak).to("int8")
    constant = (b.constant(RECIPROCAL_127[0]), b.constant(RECIPROCAL_127[1]))
    out = graph.product(graph.normalize(peak, b.attribute("frame")), constant)
    return b.function(y.to("int32"), codes, graph.join_scale(*out))


def _inverse_deviation_nodes(b: Body, rows: Value, drop: Value) -> graph.Dyadic:
    unit = (b.constant(UNIT_SCALE[0]), b.constant(UNIT_SCALE[1]))
    epsilon = (b.attribute("epsilon_mantissa"), b.attribute("epsilon_exponent"))
    gain = (b.attribute("gain_mantissa"), b.attribute("gain_exponent"))
    radicand, half_exponent = add_epsilon_nodes((rows * rows).row_sum(), unit, drop, epsilon)
    even = (62 - graph.bit_length(radicand)) & -2
    inverse = b.constant(1 << 61) // graph.isqrt(radicand * graph.power_of_two(even))
    mantissa, exponent = graph.product(graph.normalize(inverse, 61), gain)
    return mantissa, exponent + half_exponent - even // 2


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    rng = np.random.default_rng(23)
    for tokens, columns in ((3, 64), (1, 1), (2, 7), (1, 65), (4, 172)):
        inputs = (draw.narrow(rng, 21, tokens, columns), *_parameters(rng, columns))
        yield Example(f"random_{tokens}x{columns}", inputs, _attributes(columns))
    offset = draw.narrow(rng, 4, 3, 40) + np.int32(1 << 28)
    yield Example("large_mean", (offset, *_parameters(rng, 40)), _attributes(40))
    constant = np.array([[7] * 9, [0] * 9, [-(2**31) + 1] * 9], np.int32)
    yield Example("constant_rows", (constant, *_parameters(rng, 9)), _attributes(9))
    tiny = np.array([[1, 0, -1, 0, 0], [-3, 2, 1, 0, 1], [400, -7, 90, 2, 0]], np.int32)
    for epsilon in (0.0, 1e-12, 1e-5, 1.0, 2.0**60):
        attributes = _attributes(5, epsilon=epsilon)
        yield Example(f"tiny_epsilon_{epsilon:g}", (tiny, *_parameters(rng, 5)), attributes)
    yield from _extreme_examples()


def _parameters(
    rng: np.random.Generator, columns: int
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int32]]:
    return rng.integers(-(2**14), 2**14, columns, np.int16), draw.narrow(rng, 18, columns)


def _attributes(columns: int, *, epsilon: float = 1e-6) -> dict[str, int]:
    """Return the attributes for weights in Q13, values in Q18."""
    return {
        **draw.norm_attributes(epsilon * columns**3 * 2.0**36, math.sqrt(columns)),
        "shift": UNIT_BITS + 13 - 18,
        "frame": 18,
    }


def _extreme_examples() -> Iterator[Example]:
    """Yield the largest magnitudes: a single peak in the longest row, and alternating ones."""
    weight = draw.alternating(65_536, 2**15 - 1, np.int16)
    bias = draw.alternating(65_536, INT32_MAX, np.int32)
    peak = np.zeros((1, 65_536), np.int32)
    peak[0, 3] = INT32_MAX
    for name, x in (("peak", peak), ("alternating", draw.alternating(65_536, INT32_MAX, np.int32))):
        for kind, added in (("plain", np.zeros_like(bias)), ("biased", bias)):
            inputs = (x.reshape(1, -1), weight, added)
            yield Example(f"longest_row_{name}_{kind}", inputs, _attributes(65_536))
