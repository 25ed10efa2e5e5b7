"""Embedding: rows of an int8 table, each with its own scale, widened to the residual stream."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellm.ops import _body_integers as graph
from edgellm.ops import _examples as draw
from edgellm.ops._body import Body
from edgellm.ops._integers import INT32_MAX, round_shift
from edgellm.ops._ranges import RIGHT_SHIFT
from edgellm.ops._schema import Example, OpSchema, Port
from edgellm.ops._use import Demands, Use, vocabulary
from edgellm.ops._work import moved

if TYPE_CHECKING:
    from onnx import FunctionProto

SCHEMA = OpSchema(
    name="Embedding",
    inputs=(
        Port("ids", "int64", ("T",)),
        Port("table", "int8", ("V", "N")),
        Port("multiplier", "int32", ("V",)),
    ),
    outputs=(Port("hidden", "int64", ("T", "N")),),
    attributes={"shift": RIGHT_SHIFT},
    tables=("V",),
)
work = moved("T", "N")


def demands(use: Use) -> Demands:
    """Demand a fixed table, and ids that the engine has checked."""
    return vocabulary(use)


def reference(
    ids: npt.NDArray[np.int64],
    table: npt.NDArray[np.int8],
    multiplier: npt.NDArray[np.int32],
    *,
    shift: int,
) -> npt.NDArray[np.int64]:
    """Return ``(table[id] * multiplier[id] + half) >> shift``; 1 <= shift <= 62."""
    return round_shift(
        table[ids].astype(np.int64) * multiplier[ids].astype(np.int64)[:, None], shift
    )


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators."""
    b = Body(SCHEMA)
    ids, table, multiplier = b.inputs
    row_scale = multiplier.take(ids).to("int64").unsqueeze(1)
    wide = table.take(ids).to("int64") * row_scale
    return b.function(graph.round_shift(wide, b.attribute("shift")))


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    rng = np.random.default_rng(4)
    for tokens, rows, columns in ((5, 11, 64), (1, 1, 1), (3, 4, 7), (2, 9, 172)):
        ids = rng.integers(0, rows, tokens)
        inputs = (ids, draw.codes(rng, rows, columns), draw.multipliers(rng, rows))
        yield Example(f"random_{tokens}x{rows}x{columns}", inputs, {"shift": 14})
    edges = np.concatenate([draw.alternating(8, 127, np.int8)[None], np.zeros((1, 8), np.int8)])
    inputs = (np.array([1, 0, 0, 1]), edges, np.array([INT32_MAX, 2**30], np.int32))
    for shift in (1, 37, 38, 62):
        yield Example(f"extremes_and_zero_row_shift_{shift}", inputs, {"shift": shift})
