"""AddBias: add a vector of the same fixed point, saturating (biases of Qwen2, offsets of keys)."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellm.ops import _body_integers as graph
from edgellm.ops import _examples as draw
from edgellm.ops._body import Body
from edgellm.ops._integers import INT32_MAX, saturate
from edgellm.ops._schema import Example, OpSchema, Port
from edgellm.ops._work import elements

if TYPE_CHECKING:
    from onnx import FunctionProto

SCHEMA = OpSchema(
    name="AddBias",
    inputs=(Port("x", "int32", ("T", "N")), Port("bias", "int32", ("N",))),
    outputs=(Port("y", "int32", ("T", "N")),),
)
work = elements("add")


def reference(x: npt.NDArray[np.int32], bias: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Return ``x + bias`` saturated to +-(2^31 - 1)."""
    return saturate(x.astype(np.int64) + bias.astype(np.int64), INT32_MAX).astype(np.int32)


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators."""
    b = Body(SCHEMA)
    x, bias = b.inputs
    y = graph.saturate(x.to("int64") + bias.to("int64"), INT32_MAX)
    return b.function(y.to("int32"))


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    rng = np.random.default_rng(1)
    for tokens, columns in ((3, 64), (1, 1), (2, 7), (1, 172)):
        x, bias = draw.narrow(rng, 24, tokens, columns), draw.narrow(rng, 24, columns)
        yield Example(f"random_{tokens}x{columns}", (x, bias))
    yield Example("zero", (np.zeros((2, 5), np.int32), np.zeros(5, np.int32)))
    ends = np.array([-INT32_MAX - 1, -INT32_MAX, -1, 0, 1, INT32_MAX], np.int32)
    yield Example("saturation", (np.stack([ends, ends[::-1]]), ends))
