"""ShiftGELU: the GELU of I-ViT, ``x * sigmoid(1.702 x)`` by shifts, as published.

``1.702 x`` goes into the scale. The sigmoid is e^(x-M) / (e^(x-M) + e^(-M)) with M the maximum of
the row, so an element depends on its row. Known faults:

- ``x * sigmoid(1.702 x)`` itself is off by up to 0.020; in the range that works the operator is
  off by 0.014 to 0.02 (root of the mean square), a table of 256 entries by 0.008 to 0.012.
- From a row maximum of 9.4 on both exponentials reach their clamp at n halvings, and the sigmoid
  of everything below 0 is about one half: off by up to |x| / 2.
- A row whose maximum is negative makes e^(-M) more than 32 bits hold from -2 on; the sum is
  clamped, and -4 becomes -0.16 at a scale of 1/16 (GELU: -0.0001).

ActivationQuantize, which is a table in a fixed point, has none of these.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellm.ops import _examples as draw
from edgellm.ops._body import Body
from edgellm.ops._ranges import SHIFT_EXP
from edgellm.ops._schema import Example, OpSchema, Port
from edgellm.ops._shift_exp import normalized, normalized_nodes, shift_exp, shift_exp_nodes
from edgellm.ops._work import elements

if TYPE_CHECKING:
    from onnx import FunctionProto

SCHEMA = OpSchema(
    name="ShiftGelu",
    inputs=(Port("x", "int8", ("T", "N")),),
    outputs=(Port("y", "int32", ("T", "N")),),
    attributes=SHIFT_EXP,
)
work = elements("activation")

PUBLISHED = {"n": 23, "bits": 8, "half_bit": 1}
SLOPE = 1.702


def reference(
    x: npt.NDArray[np.int8], *, unit: int, n: int, bits: int, half_bit: int
) -> npt.NDArray[np.int32]:
    """Return ``x * sigmoid(1.702 x)`` of each row.

    Args:
        x: (T, N) codes; real = code * S.
        unit: ``-floor(-1 / (1.702 S))``.
        n: fraction bits of the exponential, 1 to 30; published is 23.
        bits: of the sigmoid, 2 to 16; one is the sign. Published is 8.
        half_bit: 1 or 0, see ``_shift_exp``.

    Returns:
        (T, N) int32; real = integer * S * 2^-(bits - 1).
    """
    wide = x.astype(np.int64)
    peak = wide.max(axis=1, keepdims=True)
    e = shift_exp(wide - peak, unit, n, half_bit)
    total = e + shift_exp(-peak, unit, n, half_bit)
    return (wide * normalized(e, total, bits)).astype(np.int32)


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators."""
    b = Body(SCHEMA)
    wide = b.inputs[0].to("int64")
    unit, n, bits, half_bit = (b.attribute(name) for name in SCHEMA.attributes)
    peak = wide.row_max()
    e = shift_exp_nodes(wide - peak, unit, n, half_bit)
    total = e + shift_exp_nodes(-peak, unit, n, half_bit)
    return b.function((wide * normalized_nodes(e, total, bits)).to("int32"))


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    rng = np.random.default_rng(42)
    for tokens, columns, unit in ((3, 64, 19), (1, 1, 19), (2, 7, 10), (4, 172, 4), (2, 33, 1)):
        inputs = (draw.codes(rng, tokens, columns),)
        yield Example(f"random_{tokens}x{columns}_unit_{unit}", inputs, {"unit": unit, **PUBLISHED})
    negative = -np.abs(draw.codes(rng, 4, 30))
    for unit in (1, 19, 255):
        yield Example(f"negative_rows_unit_{unit}", (negative,), {"unit": unit, **PUBLISHED})
    without = {"unit": 19, **PUBLISHED, "half_bit": 0}
    yield Example("without_half_bit", (draw.codes(rng, 3, 40),), without)
    every = np.arange(-127, 128, dtype=np.int8)
    rows = np.stack([np.minimum(every, top) for top in (-127, -1, 0, 1, 64, 127)])
    for unit in (1, 5, 60):
        yield Example(f"every_code_unit_{unit}", (rows,), {"unit": unit, **PUBLISHED})
    extreme = {"unit": 65_535, "n": 30, "bits": 16, "half_bit": 1}
    yield Example("finest_unit", (rows,), {**extreme, "n": 15})
    yield Example("most_bits", (rows,), {**extreme, "unit": 1})
