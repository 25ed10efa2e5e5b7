"""MeanPool: the mean of the rows of each sequence."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellm.ops import _examples as draw
from edgellm.ops._body import Body
from edgellm.ops._integers import INT32_MAX
from edgellm.ops._schema import Example, OpSchema, Port
from edgellm.ops._sequences import means, members, sequence_of_rows
from edgellm.ops._use import whole_sequences
from edgellm.ops._work import elements

if TYPE_CHECKING:
    from onnx import FunctionProto

SCHEMA = OpSchema(
    name="MeanPool",
    inputs=(Port("x", "int32", ("T", "N")), Port("ends", "int64", ("B",))),
    outputs=(Port("y", "int32", ("B", "N")),),
)
work = elements("pool")
demands = whole_sequences

OFFSET = 2**31
"""Makes sums non-negative before they are divided."""


def reference(x: npt.NDArray[np.int32], ends: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """Return the mean of each sequence's rows, rounded half up.

    Args:
        x: (T, N), |x| <= 2^31 - 1.
        ends: (B,) as EncoderAttention has them.
    """
    begins = np.concatenate([[0], ends[:-1]])
    total = np.add.reduceat(x.astype(np.int64) + OFFSET, begins, axis=0)
    length = (ends - begins)[:, None]
    return ((total + length // 2) // length - OFFSET).astype(np.int32)


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators."""
    b = Body(SCHEMA)
    x, ends = b.inputs
    inside = members(sequence_of_rows(x, ends), ends)
    return b.function(means(x.to("int64"), inside, ends, OFFSET).to("int32"))


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    rng = np.random.default_rng(30)
    for ends, columns in (([1], 1), ([3, 5, 12], 64), ([3, 4], 7), ([200], 5)):
        inputs = (draw.narrow(rng, 30, ends[-1], columns), np.array(ends))
        yield Example(f"random_{len(ends)}x{columns}_of_{ends[-1]}", inputs)
    edges = np.array([[INT32_MAX, -INT32_MAX, 1, -1], [INT32_MAX, -INT32_MAX, 0, 0]], np.int32)
    yield Example("extremes_and_halves", (edges, np.array([2])))
