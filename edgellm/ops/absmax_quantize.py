"""AbsmaxQuantize: per-token int8 codes of a row, with its scale as a dyadic pair."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellm.ops import _body_integers as graph
from edgellm.ops import _examples as draw
from edgellm.ops._body import Body
from edgellm.ops._integers import (
    RECIPROCAL_127,
    absmax_codes,
    bit_length,
    join_scale,
    normalize,
    product,
    round_shift,
    split_scale,
)
from edgellm.ops._schema import Example, OpSchema, Port
from edgellm.ops._use import row_scale
from edgellm.ops._work import elements

if TYPE_CHECKING:
    from onnx import FunctionProto

SCHEMA = OpSchema(
    name="AbsmaxQuantize",
    inputs=(Port("x", "int64", ("T", "N")), Port("scale", "int32", ("R", "2"))),
    outputs=(Port("codes", "int8", ("T", "N")), Port("out_scale", "int32", ("T", "2"))),
)
work = elements("quantize")
demands = row_scale

ROW_BITS = 37
"""Rows are shifted to 37 bits: rounding may make 38 of them, the most ``absmax_codes`` takes."""


def reference(
    x: npt.NDArray[np.int64], scale: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int32]]:
    """Quantise each row: ``codes = round(127 * x / max|x|)``, ``out_scale = max|x| * scale / 127``.

    Args:
        x: (T, N), |x| < 2^62; its real value is x * scale.
        scale: (T, 2), or (1, 2) for all rows.

    Returns:
        codes (T, N) in [-127, 127] and out_scale (T, 2). A zero row has zero codes and the scale 1.
    """
    peak = np.abs(x).max(axis=1, keepdims=True)
    shift = np.maximum(bit_length(peak) - ROW_BITS, 0)
    rows = round_shift(x, shift)
    peak = np.abs(rows).max(axis=1, keepdims=True)
    codes = absmax_codes(rows, peak).astype(np.int8)
    out = product(product(normalize(peak, -shift), split_scale(scale)), RECIPROCAL_127)
    return codes, join_scale(*out)


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators."""
    b = Body(SCHEMA)
    x, scale = b.inputs
    shift = (graph.bit_length(x.abs().row_max()) - ROW_BITS).at_least(0)
    rows = graph.round_shift(x, shift)
    peak = rows.abs().row_max()
    codes = graph.absmax_codes(rows, peak).to("int8")
    constant = (b.constant(RECIPROCAL_127[0]), b.constant(RECIPROCAL_127[1]))
    unit = graph.product(graph.normalize(peak, -shift), graph.split_scale(scale))
    return b.function(codes, graph.join_scale(*graph.product(unit, constant)))


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    rng = np.random.default_rng(8)
    for tokens, columns, rows in ((3, 64, 1), (1, 1, 1), (2, 7, 2), (1, 65, 1), (4, 172, 4)):
        inputs = (draw.wide(rng, 45, tokens, columns), draw.scales(rng, rows, 60))
        yield Example(f"random_{tokens}x{columns}_{rows}_scales", inputs)
    some_zero = draw.wide(rng, 20, 3, 9)
    some_zero[1] = 0
    yield Example("zero_row", (some_zero, draw.scales(rng, 1, 60)))
    # Peaks around the width at which rows are shifted, and the one that rounds up to 38 bits.
    peaks = [1, 2**31 - 1, 2**31, 2**37 - 1, 2**37, 2**38 - 1, 2**62 - 1]
    edges = np.array([[peak, -peak, peak // 2, 1, 0, -1, -(peak // 3)] for peak in peaks])
    yield Example("row_widths", (edges, draw.scales(rng, 7, 60)))
    longest = draw.alternating(65_536, 2**62 - 1, np.int64)[None]
    yield Example("longest_row", (longest, draw.scales(rng, 1, 60)))
