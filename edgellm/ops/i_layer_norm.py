"""ILayerNorm: the LayerNorm of I-ViT, with ten Newton steps for the root, as published.

The result is normalised by the root of the *sum* of squares, in units of sqrt(N) * 2^-30; the norm
weight is in the multipliers of the DyadicRequantize that follows, and the norm bias is added here
in units of these. eps is left out. Known faults:

- The ten steps begin at 2^16 and reach the root for sums of squares from 2^17 on only: at 2^14 it
  is up to 4 % too large, at 2^12 31 %, at 2^8 4 times, at 2 and below 64 times. A row of few
  distinct small integers is scaled wrongly.
- The mean is rounded to an integer, which tells where a row's values are small.
- ``(2^31 - 1) // root`` has 31 bits less those of the root: it is for inputs of at most 16 bits
  (0.013 % off at 2560 columns; 24 bits: 3 %).
- A channel whose weight is 0, or small beside its bias, has no bias in these units.

LayerNormQuantize has an exact mean and an exact root.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellm.ops import _body_integers as graph
from edgellm.ops import _examples as draw
from edgellm.ops._body import Body, Value
from edgellm.ops._integers import INT32_MAX, Int64, saturate
from edgellm.ops._schema import Example, OpSchema, Port
from edgellm.ops._use import norm_columns
from edgellm.ops._work import elements

if TYPE_CHECKING:
    from onnx import FunctionProto

SCHEMA = OpSchema(
    name="ILayerNorm",
    inputs=(Port("x", "int32", ("T", "N")), Port("bias", "int32", ("N",))),
    outputs=(Port("y", "int32", ("T", "N")),),
)
work = elements("norm")
demands = norm_columns

SEED = 1 << 16
STEPS = 10
CONVERGED = 1 << 17
"""Sums of squares from here on have their root."""
UNIT_BITS = 30
X_LIMIT = (1 << 15) - 1
OFFSET = 1 << 31
"""Makes sums non-negative before they are divided; it is more than any |x|."""


def reference(x: npt.NDArray[np.int32], bias: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Return ``(x - mean) / sqrt(sum of squares) + bias`` of each row, in Q30.

    Args:
        x: (T, N) integers of 16 bits, |x| <= 32767; N <= 65,536.
        bias: (N,) in Q30.

    Returns:
        (T, N); real = integer * sqrt(N) * 2^-30 * norm weight; saturated to +-(2^31 - 1).
    """
    wide = x.astype(np.int64)
    centred = wide - round_half_even(wide.sum(axis=1, keepdims=True), wide.shape[1])
    squares = (centred * centred).sum(axis=1, keepdims=True)  # below 2^48
    y = (centred * (INT32_MAX // newton_root(squares))) >> 1
    return saturate(y + bias, INT32_MAX).astype(np.int32)


def round_half_even(total: Int64, count: int) -> Int64:
    """Return ``total / count``, rounded to the nearest integer, of two to the even one."""
    floor, rest = total // count, total % count
    up = (2 * rest > count) | ((2 * rest == count) & (floor & 1 == 1))
    return floor + up


def newton_root(squares: Int64) -> Int64:
    """Return the square root as ten steps from 2^16 find it; it is at least 1."""
    root = np.full_like(squares, SEED)
    for _ in range(STEPS):
        root = (root + squares // root) >> 1
    return root


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators."""
    b = Body(SCHEMA)
    x, bias = b.inputs
    wide = x.to("int64")
    centred = wide - _mean(wide)
    squares = (centred * centred).row_sum()
    root = squares * 0 + SEED
    for _ in range(STEPS):
        root = (root + squares // root) // 2
    y = (centred * (b.constant(INT32_MAX) // root)) >> 1
    return b.function(graph.saturate(y + bias.to("int64"), INT32_MAX).to("int32"))


def _mean(wide: Value) -> Value:
    count = wide.count(1)
    total = (wide + OFFSET).row_sum()  # OFFSET is even, so an even floor stays one
    floor = total // count
    rest = (total - floor * count) * 2
    odd_half = rest.equals(count) & (floor & 1).equals(1)
    up = (rest > count).to("int64") + odd_half.to("int64")
    return floor + up - OFFSET


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    rng = np.random.default_rng(43)
    for bits, tokens, columns in ((15, 3, 64), (15, 1, 1), (10, 2, 7), (6, 4, 172), (2, 5, 65)):
        inputs = (draw.narrow(rng, bits, tokens, columns), draw.narrow(rng, 30, columns))
        yield Example(f"random_{bits}_bits_{tokens}x{columns}", inputs)
    zeros = np.zeros(4, np.int32)
    golden = np.array([[300, -100, 50, 150], [3, -1, 0, 2], [7, 7, 7, 7]], np.int32)
    yield Example("golden", (golden, zeros))
    halves = np.array([[1, 2, 1, 2], [2, 3, 2, 3], [-1, -2, -1, -2], [0, 0, -1, -1]], np.int32)
    yield Example("means_of_a_half", (halves, zeros))
    top = draw.alternating(4, INT32_MAX, np.int32)
    yield Example("saturation", (golden * 20, top))
    longest = draw.alternating(65_536, X_LIMIT, np.int32)[None]
    yield Example("longest_row", (longest, np.zeros(65_536, np.int32)))
