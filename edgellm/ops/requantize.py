"""Requantize: int32 accumulators to a fixed-point int32, by token scale and channel multiplier."""

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
    name="Requantize",
    inputs=(
        Port("acc", "int32", ("T", "N")),
        Port("scale", "int32", ("T", "2")),
        Port("multiplier", "int32", ("N",)),
    ),
    outputs=(Port("y", "int32", ("T", "N")),),
    attributes={"shift": SHIFT},
)
work = elements("requantize")


def reference(
    acc: npt.NDArray[np.int32],
    scale: npt.NDArray[np.int32],
    multiplier: npt.NDArray[np.int32],
    *,
    shift: int,
) -> npt.NDArray[np.int32]:
    """Return ``acc * scale * multiplier * 2^-shift``, one rounding, saturated to +-(2^31 - 1)."""
    wide = requantize(acc.astype(np.int64), scale, multiplier.astype(np.int64), shift)
    return saturate(wide, INT32_MAX).astype(np.int32)


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators."""
    b = Body(SCHEMA)
    acc, scale, multiplier = b.inputs
    shift = b.attribute("shift")
    wide = graph.requantize(acc.to("int64"), scale, multiplier.to("int64"), shift)
    return b.function(graph.saturate(wide, INT32_MAX).to("int32"))


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    rng = np.random.default_rng(5)
    for tokens, columns in ((3, 64), (1, 1), (2, 7), (1, 65), (2, 172)):
        inputs = (
            draw.narrow(rng, 20, tokens, columns),
            draw.scales(rng, tokens, 40),
            draw.multipliers(rng, columns),
        )
        yield Example(f"random_{tokens}x{columns}", inputs, {"shift": 21})
    zero = (np.zeros((1, 9), np.int32), draw.scales(rng, 1, 40), np.zeros(9, np.int32))
    yield Example("zero_row", zero, {"shift": 21})
    acc = np.array([[-INT32_MAX - 1, -INT32_MAX, -1, 0, 1, INT32_MAX]] * 4, np.int32)
    scale = np.array([[INT32_MAX, 2], [INT32_MAX, 31], [2**30, 61], [2**30, 95]], np.int32)
    top = np.full(6, INT32_MAX, np.int32)
    for shift in (-40, 1, 30, 40):
        yield Example(f"saturation_and_clamped_shift_{shift}", (acc, scale, top), {"shift": shift})
