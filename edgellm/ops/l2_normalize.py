"""L2Normalize: each row divided by its length, in Q30."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellm.ops import _body_integers as graph
from edgellm.ops import _examples as draw
from edgellm.ops._body import Body
from edgellm.ops._integers import INT32_MAX, bit_length, isqrt, round_shift
from edgellm.ops._norms import row_sum_of_squares
from edgellm.ops._schema import Example, OpSchema, Port
from edgellm.ops._use import norm_columns
from edgellm.ops._work import elements

if TYPE_CHECKING:
    from onnx import FunctionProto

SCHEMA = OpSchema(
    name="L2Normalize",
    inputs=(Port("x", "int32", ("T", "N")),),
    outputs=(Port("y", "int32", ("T", "N")),),
)
work = elements("norm")
demands = norm_columns

ROW_BITS = 22
"""Rows are shifted to 22 bits: the sum of squares of 65,536 columns is at most 2^60."""
FRAME = 30


def reference(x: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Return ``x / sqrt(sum x^2)`` of each row in Q30; a zero row stays zero.

    Args:
        x: (T, N) in any fixed point, N <= 65,536, |x| <= 2^31 - 1.
    """
    wide = x.astype(np.int64)
    drop = np.maximum(bit_length(np.abs(wide).max(axis=1, keepdims=True)) - ROW_BITS, 0)
    rows = round_shift(wide, drop)
    radicand = np.maximum(row_sum_of_squares(rows), 1)
    even = (62 - bit_length(radicand)) & ~np.int64(1)
    inverse = (np.int64(1) << 61) // isqrt(radicand << even)  # at most 2^31
    return round_shift(rows * inverse, 61 - FRAME - (even >> 1)).astype(np.int32)


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators."""
    b = Body(SCHEMA)
    (x,) = b.inputs
    wide = x.to("int64")
    drop = (graph.bit_length(wide.abs().row_max()) - ROW_BITS).at_least(0)
    rows = graph.round_shift(wide, drop)
    radicand = (rows * rows).row_sum().at_least(1)
    even = (62 - graph.bit_length(radicand)) & -2
    inverse = b.constant(1 << 61) // graph.isqrt(radicand * graph.power_of_two(even))
    return b.function(graph.round_shift(rows * inverse, 61 - FRAME - even // 2).to("int32"))


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    rng = np.random.default_rng(31)
    for rows, columns, bits in ((3, 64, 20), (1, 1, 3), (2, 7, 30), (1, 384, 18)):
        x = draw.narrow(rng, bits, rows, columns)
        yield Example(f"random_{rows}x{columns}_{bits}_bits", (x,))
    small = np.array([[0, 0, 0], [1, 0, 0], [0, -1, 1], [INT32_MAX, 0, 1]], np.int32)
    yield Example("zero_and_unit_rows", (small,))
    yield Example("longest_row", (draw.alternating(65_536, INT32_MAX, np.int32)[None],))
