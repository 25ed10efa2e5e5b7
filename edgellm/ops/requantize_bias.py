"""RequantizeBias: accumulators to a fixed-point int32 by row scale and channel, plus a bias."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellm.ops import _body_integers as graph
from edgellm.ops import _examples as draw
from edgellm.ops._body import Body
from edgellm.ops._integers import INT32_MAX, requantize, saturate
from edgellm.ops._ranges import SHIFT
from edgellm.ops._schema import Example, OpSchema, Port
from edgellm.ops._work import elements

if TYPE_CHECKING:
    from onnx import FunctionProto

SCHEMA = OpSchema(
    name="RequantizeBias",
    inputs=(
        Port("acc", "int32", ("T", "N")),
        Port("scale", "int32", ("T", "2")),
        Port("multiplier", "int32", ("N",)),
        Port("bias", "int32", ("N",)),
    ),
    outputs=(Port("y", "int32", ("T", "N")),),
    attributes={"shift": SHIFT},
)
work = elements("requantize")


def reference(
    acc: npt.NDArray[np.int32],
    scale: npt.NDArray[np.int32],
    multiplier: npt.NDArray[np.int32],
    bias: npt.NDArray[np.int32],
    *,
    shift: int,
) -> npt.NDArray[np.int32]:
    """Return ``acc * scale * multiplier * 2^-shift + bias``, rounded once, then saturated.

    Args:
        acc: (T, N) sums of a linear.
        scale: (T, 2) of each row.
        multiplier: (N,).
        bias: (N,) in the fixed point of the result.
        shift: exponent that goes with the multiplier.
    """
    wide = requantize(acc.astype(np.int64), scale, multiplier.astype(np.int64), shift)
    return saturate(wide + bias.astype(np.int64), INT32_MAX).astype(np.int32)


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators."""
    b = Body(SCHEMA)
    acc, scale, multiplier, bias = b.inputs
    shift = b.attribute("shift")
    wide = graph.requantize(acc.to("int64"), scale, multiplier.to("int64"), shift)
    return b.function(graph.saturate(wide + bias.to("int64"), INT32_MAX).to("int32"))


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    rng = np.random.default_rng(21)
    for tokens, columns in ((3, 64), (1, 1), (2, 7), (1, 65), (5, 172)):
        inputs = (
            draw.narrow(rng, 20, tokens, columns),
            draw.scales(rng, tokens, 40),
            draw.multipliers(rng, columns),
            draw.narrow(rng, 20, columns),
        )
        yield Example(f"random_{tokens}x{columns}", inputs, {"shift": 21})
    acc = np.array([[-INT32_MAX - 1, -INT32_MAX, -1, 0, 1, INT32_MAX]] * 4, np.int32)
    scale = np.array([[INT32_MAX, 2], [INT32_MAX, 31], [2**30, 61], [2**30, 95]], np.int32)
    top = np.full(6, INT32_MAX, np.int32)
    for shift in (-40, 1, 30, 40):
        for sign in (1, -1):
            name = f"saturation_and_clamped_shift_{shift}_bias_{sign}"
            yield Example(name, (acc, scale, top, sign * top), {"shift": shift})
