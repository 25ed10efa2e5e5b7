"""RMSNorm fused with the per-token absmax quantiser: the codes do not depend on the RMS.

``codes = round(127 * x*weight / max|x*weight|)``; the root of the mean square is needed for the
scale of the token alone, once a row. Source: BitNet b1.58 quantisers (transformers
``integrations/bitnet.py``), RMSNorm as in Llama; headroom in the comments.
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
from edgellm.ops._integers import (
    INT32_MAX,
    absmax_codes,
    bit_length,
    join_scale,
    round_shift,
    split_scale,
)
from edgellm.ops._norms import norm_scale, row_sum_of_squares
from edgellm.ops._ranges import NORM
from edgellm.ops._schema import Example, OpSchema, Port
from edgellm.ops._use import row_scale
from edgellm.ops._work import elements

if TYPE_CHECKING:
    from onnx import FunctionProto

SCHEMA = OpSchema(
    name="RmsNormQuantize",
    inputs=(
        Port("x", "int64", ("T", "N")),
        Port("scale", "int32", ("R", "2")),
        Port("weight", "int16", ("N",)),
    ),
    outputs=(Port("codes", "int8", ("T", "N")), Port("out_scale", "int32", ("T", "2"))),
    attributes=NORM,
)
work = elements("norm")
demands = row_scale

ROW_BITS = 22
"""Rows are shifted to 22 bits: |x*weight| <= 2^37 then (rounding included), as ``absmax_codes``
asks, and the sum of squares of 65,536 columns is at most 2^60."""


def reference(
    x: npt.NDArray[np.int64],
    scale: npt.NDArray[np.int32],
    weight: npt.NDArray[np.int16],
    *,
    epsilon_mantissa: int,
    epsilon_exponent: int,
    gain_mantissa: int,
    gain_exponent: int,
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int32]]:
    """Normalise and quantise each row.

    Args:
        x: (T, N), |x| <= 2,080,000^3 < 2^63, N <= 65,536; its real value is x * scale.
        scale: (T, 2), or (1, 2) for all rows.
        weight: (N,) the norm weights in a fixed point of their own.
        epsilon_mantissa: with its exponent, ``eps * N`` as a dyadic scale (mantissa 0: no eps).
        epsilon_exponent: see there.
        gain_mantissa: with its exponent, ``sqrt(N) * weight_unit / 127``.
        gain_exponent: see there.

    Returns:
        codes (T, N) in [-127, 127], and the scale of each row (T, 2): real = codes * out_scale.
    """
    peak = np.abs(x).max(axis=1, keepdims=True)
    shift = np.maximum(bit_length(peak) - ROW_BITS, 0)
    rows = round_shift(x, shift)
    weighted = rows * weight.astype(np.int64)
    peak = np.abs(weighted).max(axis=1, keepdims=True)
    codes = absmax_codes(weighted, peak).astype(np.int8)
    squares = row_sum_of_squares(rows)
    epsilon = (epsilon_mantissa, epsilon_exponent)
    gain = (gain_mantissa, gain_exponent)
    out = norm_scale(peak, squares, split_scale(scale), shift, epsilon, gain)
    return codes, join_scale(*out)


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators."""
    b = Body(SCHEMA)
    x, scale, weight = b.inputs
    shift = (graph.bit_length(x.abs().row_max()) - ROW_BITS).at_least(0)
    rows = graph.round_shift(x, shift)
    weighted = rows * weight.to("int64")
    peak = weighted.abs().row_max()
    codes = graph.absmax_codes(weighted, peak).to("int8")
    squares = (rows * rows).row_sum()
    epsilon = (b.attribute("epsilon_mantissa"), b.attribute("epsilon_exponent"))
    gain = (b.attribute("gain_mantissa"), b.attribute("gain_exponent"))
    out = norm_scale_nodes(peak, squares, graph.split_scale(scale), shift, epsilon, gain)
    return b.function(codes, graph.join_scale(*out))


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    rng = np.random.default_rng(9)
    frame_24 = np.array([[2**30, 54]], np.int32)
    for tokens, columns, rows in ((3, 64, 1), (1, 1, 1), (2, 7, 2), (1, 65, 1), (4, 172, 4)):
        scale = frame_24 if rows == 1 else draw.scales(rng, rows, 60)
        inputs = (draw.wide(rng, 30, tokens, columns), scale, draw.norm_weights(rng, columns))
        yield Example(f"random_{tokens}x{columns}_{rows}_scales", inputs, _attributes(columns))
    some_zero = draw.wide(rng, 20, 3, 9)
    some_zero[1] = 0
    yield Example("zero_row", (some_zero, frame_24, draw.norm_weights(rng, 9)), _attributes(9))
    yield Example("zero_weights", (some_zero, frame_24, np.zeros(9, np.int16)), _attributes(9))
    yield from _epsilon_examples(rng)
    yield from _longest_rows()


def _attributes(columns: int, epsilon: float = 1e-5) -> dict[str, int]:
    """Return the attributes for weights in Q12."""
    return draw.norm_attributes(epsilon * columns, math.sqrt(columns) * 2.0**-12 / 127)


def _epsilon_examples(rng: np.random.Generator) -> Iterator[Example]:
    """Yield rows that are tiny beside eps, by up to more than 62 bits, and rows without eps."""
    tiny = np.array([[1, 0, -1, 0, 0], [-3, 2, 1, 0, 1], [400, -7, 90, 2, 0]])
    weight = draw.norm_weights(rng, 5)
    for exponent in (30, 54, 60, 80, 100):
        scale = np.array([[1_500_000_000, exponent]], np.int32)
        yield Example(f"epsilon_beside_2^-{exponent - 30}", (tiny, scale, weight), _attributes(5))
    scale = np.array([[2**30, 54]], np.int32)
    yield Example("no_epsilon", (tiny, scale, weight), _attributes(5, epsilon=0.0))
    scale = np.array([[2**30, 90]], np.int32)
    yield Example("no_epsilon_wide", (tiny << 13, scale, weight), _attributes(5, epsilon=0.0))


def _longest_rows() -> Iterator[Example]:
    """Yield 65,536 columns of the largest magnitudes."""
    scale = np.array([[INT32_MAX, 90]], np.int32)
    weight = draw.alternating(65_536, -(2**15) + 1, np.int16)
    weight[::3] = -(2**15)
    for name, limit in (("62_bits", 2**62 - 1), ("squared_relu_gate", 2_080_000**3)):
        x = draw.alternating(65_536, limit, np.int64)[None]
        yield Example(f"longest_row_{name}", (x, scale, weight), _attributes(65_536))
