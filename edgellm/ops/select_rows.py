"""SelectRows: one row of each sequence, counted from its beginning: the class token."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellm.graph_names import TOKENS
from edgellm.ops import _examples as draw
from edgellm.ops._body import Body
from edgellm.ops._schema import Example, OpSchema, Port
from edgellm.ops._use import Demands, Use, whole_sequences
from edgellm.ops._work import moved

if TYPE_CHECKING:
    from onnx import FunctionProto

SCHEMA = OpSchema(
    name="SelectRows",
    inputs=(Port("x", "int32", ("T", "N")), Port("ends", "int64", ("B",))),
    outputs=(Port("y", "int32", ("B", "N")),),
    attributes={"row": (0, 65_534)},
)
work = moved("B", "N", size=4)


def demands(use: Use) -> Demands:
    """Demand sequences that all have that row."""
    shortest = 1 if use.sizes["T"] == TOKENS else use.context_length
    inside = use.attributes["row"] < shortest
    return [*whole_sequences(use), (inside, f"every sequence has {shortest} rows")]


def reference(
    x: npt.NDArray[np.int32], ends: npt.NDArray[np.int64], *, row: int
) -> npt.NDArray[np.int32]:
    """Return row ``row`` of each sequence.

    Args:
        x: (T, N).
        ends: (B,) as EncoderAttention has them; every sequence has more than ``row`` rows.
        row: from 0.
    """
    begins = np.concatenate([[0], ends[:-1]])
    return x[begins + row]


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators."""
    b = Body(SCHEMA)
    x, ends = b.inputs
    every = b.concat([b.constant([0]), ends], axis=0)
    begins = every.take(b.range(b.constant(0), ends.count(0)))
    return b.function(x.take(begins + b.attribute("row")))


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    rng = np.random.default_rng(29)
    cases = (([1], 1, 0), ([3, 5, 12], 64, 1), ([3, 4], 7, 0), ([5], 3, 4), ([2, 4, 6, 8], 2, 1))
    for ends, columns, row in cases:
        inputs = (draw.narrow(rng, 30, ends[-1], columns), np.array(ends))
        yield Example(f"random_{len(ends)}x{columns}_row_{row}", inputs, {"row": row})
