"""DyadicRequantizeWide: sums to integers of up to 32 bits of a scale that is known.

DyadicRequantize for what I-ViT keeps in 16 bits: the residual stream and what is added to it.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellm.ops import _body_integers as graph
from edgellm.ops import dyadic_requantize as narrow
from edgellm.ops._body import Body
from edgellm.ops._ranges import RIGHT_SHIFT
from edgellm.ops._schema import Example, OpSchema, Port
from edgellm.ops._work import elements

if TYPE_CHECKING:
    from onnx import FunctionProto

SCHEMA = OpSchema(
    name="DyadicRequantizeWide",
    inputs=(
        Port("acc", "int32", ("T", "N")),
        Port("multiplier", "int32", ("N",)),
        Port("offset", "int64", ("N",)),
    ),
    outputs=(Port("y", "int32", ("T", "N")),),
    attributes={"shift": RIGHT_SHIFT, "bits": (2, 32)},
)
work = elements("requantize")


def reference(
    acc: npt.NDArray[np.int32],
    multiplier: npt.NDArray[np.int32],
    offset: npt.NDArray[np.int64],
    *,
    shift: int,
    bits: int,
) -> npt.NDArray[np.int32]:
    """Return ``(acc * multiplier + offset) * 2^-shift``, rounded once, in ``bits`` bits.

    Args:
        acc: (T, N) int32.
        multiplier: (N,) of either sign.
        offset: (N,) |offset| <= 2^61.
        shift: 1 to 62.
        bits: 2 to 32: results are clamped to +-(2^(bits - 1) - 1).
    """
    limit = 2 ** (bits - 1) - 1
    return narrow.dyadic(acc, multiplier, offset, shift).clip(-limit, limit).astype(np.int32)


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators."""
    b = Body(SCHEMA)
    acc, multiplier, offset = b.inputs
    wide = acc.to("int64") * multiplier.to("int64") + offset
    limit = graph.power_of_two(b.attribute("bits") - 1) - 1
    y = graph.round_shift(wide, b.attribute("shift")).at_most(limit).at_least(-limit)
    return b.function(y.to("int32"))


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    rng = np.random.default_rng(45)
    for tokens, columns in ((3, 64), (1, 1), (2, 7), (1, 65), (5, 172)):
        inputs = narrow.random(rng, tokens, columns)
        yield Example(f"random_{tokens}x{columns}", inputs, {"shift": 38, "bits": 16})
    for bits in (2, 8, 16, 32):
        for shift in (1, 62):
            attributes = {"shift": shift, "bits": bits}
            yield Example(f"extremes_{bits}_bits_shift_{shift}", narrow.extremes(), attributes)
