"""TakeRows: the rows of codes and of their scales that a linear head is to score."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellm.ops import _examples as draw
from edgellm.ops._body import Body
from edgellm.ops._schema import Example, OpSchema, Port
from edgellm.ops._use import Demands, Use, scored_rows
from edgellm.ops._work import moved

if TYPE_CHECKING:
    from onnx import FunctionProto

SCHEMA = OpSchema(
    name="TakeRows",
    inputs=(
        Port("x", "int8", ("T", "N")),
        Port("scale", "int32", ("T", "2")),
        Port("rows", "int64", ("L",)),
    ),
    outputs=(Port("codes", "int8", ("L", "N")), Port("out_scale", "int32", ("L", "2"))),
)
work = moved("L", "N")


def demands(use: Use) -> Demands:
    """Demand the rows that are asked for."""
    return scored_rows(use, use.inputs[2])


def reference(
    x: npt.NDArray[np.int8], scale: npt.NDArray[np.int32], rows: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int32]]:
    """Return x[rows] (L, N) and scale[rows] (L, 2), rows from 0 to T - 1 in any order."""
    return x[rows], scale[rows]


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators."""
    b = Body(SCHEMA)
    x, scale, rows = b.inputs
    return b.function(x.take(rows), scale.take(rows))


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    rng = np.random.default_rng(42)
    lists: list[tuple[int, int, list[int]]] = [
        (1, 64, [0]),
        (5, 7, [4, 0, 2]),
        (3, 1, []),
        (2, 65, [1, 1, 0, 1]),
        (4, 3, [3]),
    ]
    for tokens, columns, rows in lists:
        inputs = (
            draw.codes(rng, tokens, columns),
            draw.scales(rng, tokens, 40),
            np.array(rows, np.int64),
        )
        yield Example(f"{len(rows)}_of_{tokens}x{columns}", inputs)
