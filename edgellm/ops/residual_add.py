"""ResidualAdd: requantise accumulators to the residual stream and add them, int64."""

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
    name="ResidualAdd",
    inputs=(
        Port("x", "int64", ("T", "N")),
        Port("acc", "int32", ("T", "N")),
        Port("scale", "int32", ("T", "2")),
        Port("multiplier", "int32", ("N",)),
    ),
    outputs=(Port("y", "int64", ("T", "N")),),
    attributes={"shift": SHIFT},
)
work = elements("add", binary=True)

TERM_LIMIT = 2**47
"""Each term is saturated here: the sum of 16,384 fits below 2^61, and none comes near it in use."""


def reference(
    x: npt.NDArray[np.int64],
    acc: npt.NDArray[np.int32],
    scale: npt.NDArray[np.int32],
    multiplier: npt.NDArray[np.int32],
    *,
    shift: int,
) -> npt.NDArray[np.int64]:
    """Return ``x + acc * scale * multiplier * 2^-shift``, the term rounded once and saturated."""
    term = requantize(acc.astype(np.int64), scale, multiplier.astype(np.int64), shift)
    return x + saturate(term, TERM_LIMIT)


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators."""
    b = Body(SCHEMA)
    x, acc, scale, multiplier = b.inputs
    shift = b.attribute("shift")
    term = graph.requantize(acc.to("int64"), scale, multiplier.to("int64"), shift)
    return b.function(x + graph.saturate(term, TERM_LIMIT))


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    rng = np.random.default_rng(6)
    for tokens, columns in ((3, 64), (1, 1), (2, 7), (1, 65), (2, 172)):
        inputs = (
            draw.wide(rng, 30, tokens, columns),
            draw.narrow(rng, 20, tokens, columns),
            draw.scales(rng, tokens, 40),
            draw.multipliers(rng, columns),
        )
        yield Example(f"random_{tokens}x{columns}", inputs, {"shift": 21})
    zero = np.zeros((1, 9), np.int32)
    inputs = (draw.wide(rng, 30, 1, 9), zero, draw.scales(rng, 1, 40), draw.multipliers(rng, 9))
    yield Example("zero_row", inputs, {"shift": 21})
    acc = np.array([[-INT32_MAX - 1, -INT32_MAX, -1, 0, 1, INT32_MAX]] * 2, np.int32)
    scale = np.array([[INT32_MAX, 2], [INT32_MAX, 95]], np.int32)
    inputs = (draw.wide(rng, 60, 2, 6), acc, scale, np.full(6, INT32_MAX, np.int32))
    for shift in (1, 40):
        yield Example(f"saturation_and_clamped_shift_{shift}", inputs, {"shift": shift})
