"""DyadicAdd: the sum of two tensors of known scales in a third one, as I-ViT adds residuals.

Each is requantised by itself, so there are two roundings, and then the sum is clamped.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellm.ops import _body_integers as graph
from edgellm.ops import _examples as draw
from edgellm.ops._body import Body
from edgellm.ops._integers import INT32_MAX, round_shift
from edgellm.ops._ranges import MANTISSA, RIGHT_SHIFT
from edgellm.ops._schema import Example, OpSchema, Port
from edgellm.ops._work import elements

if TYPE_CHECKING:
    from onnx import FunctionProto

SCHEMA = OpSchema(
    name="DyadicAdd",
    inputs=(Port("x", "int32", ("T", "N")), Port("y", "int32", ("T", "N"))),
    outputs=(Port("sum", "int32", ("T", "N")),),
    attributes={
        "x_mantissa": MANTISSA,
        "x_shift": RIGHT_SHIFT,
        "y_mantissa": MANTISSA,
        "y_shift": RIGHT_SHIFT,
        "bits": (2, 32),
    },
)
work = elements("add", binary=True)


def reference(
    x: npt.NDArray[np.int32],
    y: npt.NDArray[np.int32],
    *,
    x_mantissa: int,
    x_shift: int,
    y_mantissa: int,
    y_shift: int,
    bits: int,
) -> npt.NDArray[np.int32]:
    """Return ``x * x_mantissa * 2^-x_shift + y * y_mantissa * 2^-y_shift``.

    Args:
        x: (T, N) int32.
        y: (T, N) int32.
        x_mantissa: 0 to 2^31 - 1.
        x_shift: 1 to 62.
        y_mantissa: 0 to 2^31 - 1.
        y_shift: 1 to 62.
        bits: 2 to 32: the sum is clamped to +-(2^(bits - 1) - 1).
    """
    limit = 2 ** (bits - 1) - 1
    total = round_shift(x.astype(np.int64) * x_mantissa, x_shift)
    total = total + round_shift(y.astype(np.int64) * y_mantissa, y_shift)
    return total.clip(-limit, limit).astype(np.int32)


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators."""
    b = Body(SCHEMA)
    terms = [
        graph.round_shift(
            value.to("int64") * b.attribute(f"{name}_mantissa"), b.attribute(f"{name}_shift")
        )
        for name, value in zip("xy", b.inputs, strict=True)
    ]
    limit = graph.power_of_two(b.attribute("bits") - 1) - 1
    return b.function((terms[0] + terms[1]).at_most(limit).at_least(-limit).to("int32"))


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    rng = np.random.default_rng(46)
    factors = {"x_mantissa": 1_600_000_123, "x_shift": 30, "y_mantissa": 1_100_000_321}
    attributes = {**factors, "y_shift": 33, "bits": 16}
    for tokens, columns in ((3, 64), (1, 1), (2, 7), (1, 65), (5, 172)):
        inputs = (draw.narrow(rng, 15, tokens, columns), draw.narrow(rng, 15, tokens, columns))
        yield Example(f"random_{tokens}x{columns}", inputs, attributes)
    x = np.array([[-INT32_MAX - 1, -INT32_MAX, -3, -1, 0, 1, 3, INT32_MAX]], np.int32)
    top = {"x_mantissa": INT32_MAX, "y_mantissa": INT32_MAX}
    for bits in (2, 16, 32):
        for shift in (1, 62):
            shifts = {"x_shift": shift, "y_shift": shift, "bits": bits}
            ordered = {name: {**top, **shifts}[name] for name in SCHEMA.attributes}
            yield Example(f"extremes_{bits}_bits_shift_{shift}", (x, x), ordered)
    one = {"x_mantissa": 2**30, "x_shift": 30, "y_mantissa": 2**30, "y_shift": 31, "bits": 32}
    yield Example("one_and_a_half", (x, x), one)
