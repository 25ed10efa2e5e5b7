"""RmsNorm: RMSNorm with its result as numbers, for blocks whose linears have norms of their own.

``RmsNormQuantize`` is for what goes into linears; MatMul-free models norm what they normed before.
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellm.ops import _body_integers as graph
from edgellm.ops import _examples as draw
from edgellm.ops._body import Body
from edgellm.ops._body_norms import norm_scale as norm_scale_nodes
from edgellm.ops._integers import INT32_MAX, bit_length, round_shift, split_scale
from edgellm.ops._norms import norm_scale, row_sum_of_squares
from edgellm.ops._ranges import NORM
from edgellm.ops._schema import Example, OpSchema, Port
from edgellm.ops._use import row_scale
from edgellm.ops._work import elements

if TYPE_CHECKING:
    from onnx import FunctionProto

SCHEMA = OpSchema(
    name="RmsNorm",
    inputs=(
        Port("x", "int64", ("T", "N")),
        Port("scale", "int32", ("R", "2")),
        Port("weight", "int16", ("N",)),
    ),
    outputs=(Port("y", "int64", ("T", "N")),),
    attributes=NORM,
)
work = elements("norm")
demands = row_scale

ROW_BITS = 22
"""As in RmsNormQuantize: |x*weight| <= 2^37 then, and the sum of squares is at most 2^60."""
FACTOR_SHIFT = 7
"""The factor of a row keeps 24 of its 31 bits, so that its product with x*weight is below 2^62."""


def reference(
    x: npt.NDArray[np.int64],
    scale: npt.NDArray[np.int32],
    weight: npt.NDArray[np.int16],
    *,
    epsilon_mantissa: int,
    epsilon_exponent: int,
    gain_mantissa: int,
    gain_exponent: int,
) -> npt.NDArray[np.int64]:
    """Return ``x * weight / rms`` of each row in a fixed point, one rounding.

    Args:
        x: (T, N), |x| < 2^62, N <= 65,536; its real value is x * scale.
        scale: (T, 2), or (1, 2) for all rows.
        weight: (N,) the norm weights in a fixed point of their own.
        epsilon_mantissa: with its exponent, ``eps * N`` as a dyadic scale (mantissa 0: no eps).
        epsilon_exponent: see there.
        gain_mantissa: with its exponent, ``sqrt(N) * weight_unit * 2^(fixed point of y)``.
        gain_exponent: see there.
    """
    peak = np.abs(x).max(axis=1, keepdims=True)
    shift = np.maximum(bit_length(peak) - ROW_BITS, 0)
    rows = round_shift(x, shift)
    squares = row_sum_of_squares(rows)
    one = np.ones_like(peak)
    epsilon = (epsilon_mantissa, epsilon_exponent)
    gain = (gain_mantissa, gain_exponent)
    mantissa, exponent = norm_scale(one, squares, split_scale(scale), shift, epsilon, gain)
    factor = round_shift(mantissa, FACTOR_SHIFT)
    weighted = rows * weight.astype(np.int64)
    return round_shift(weighted * factor, np.clip(exponent - FACTOR_SHIFT, 1, 62))


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators."""
    b = Body(SCHEMA)
    x, scale, weight = b.inputs
    shift = (graph.bit_length(x.abs().row_max()) - ROW_BITS).at_least(0)
    rows = graph.round_shift(x, shift)
    squares = (rows * rows).row_sum()
    epsilon = (b.attribute("epsilon_mantissa"), b.attribute("epsilon_exponent"))
    gain = (b.attribute("gain_mantissa"), b.attribute("gain_exponent"))
    units = graph.split_scale(scale)
    mantissa, exponent = norm_scale_nodes(b.constant([[1]]), squares, units, shift, epsilon, gain)
    factor = graph.round_shift_positive(mantissa, FACTOR_SHIFT)
    weighted = rows * weight.to("int64")
    return b.function(graph.round_shift(weighted * factor, (exponent - FACTOR_SHIFT).clip(1, 62)))


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    rng = np.random.default_rng(43)
    frame_24 = np.array([[2**30, 54]], np.int32)
    for tokens, columns, rows in ((3, 64, 1), (1, 1, 1), (2, 7, 2), (1, 65, 1), (4, 172, 4)):
        scale = frame_24 if rows == 1 else draw.scales(rng, rows, 60)
        inputs = (draw.wide(rng, 30, tokens, columns), scale, draw.norm_weights(rng, columns))
        yield Example(f"random_{tokens}x{columns}_{rows}_scales", inputs, _attributes(columns))
    some_zero = draw.wide(rng, 20, 3, 9)
    some_zero[1] = 0
    yield Example("zero_row", (some_zero, frame_24, draw.norm_weights(rng, 9)), _attributes(9))
    yield Example(
        "no_epsilon", (some_zero, frame_24, draw.norm_weights(rng, 9)), _attributes(9, 0.0)
    )
    tiny = np.array([[1, 0, -1, 0, 3, -2, 1, 0, 0]])
    for exponent in (30, 54, 80, 100):
        scale = np.array([[1_500_000_000, exponent]], np.int32)
        inputs = (tiny, scale, draw.norm_weights(rng, 9))
        yield Example(f"epsilon_beside_2^-{exponent - 30}", inputs, _attributes(9))
    widest = draw.alternating(65_536, 2**62 - 1, np.int64)[None]
    scale = np.array([[INT32_MAX, 90]], np.int32)
    weight = draw.alternating(65_536, -(2**15) + 1, np.int16)
    yield Example("longest_row", (widest, scale, weight), _attributes(65_536))
    one = np.zeros((1, 65_536), np.int64)
    one[0, 7] = -(2**62) + 1
    yield Example("one_of_many", (one, scale, weight), _attributes(65_536))


def _attributes(columns: int, epsilon: float = 1e-6) -> dict[str, int]:
    """Return the attributes for weights in Q12 and a result in frame 24."""
    return draw.norm_attributes(epsilon * columns, math.sqrt(columns) * 2.0**12)
