"""TextEmbedding: the sum of the embeddings of a token, its type and its position (BERT)."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellm.graph_names import IDS, POSITIONS, TYPES
from edgellm.ops import _body_integers as graph
from edgellm.ops import _examples as draw
from edgellm.ops._body import Body
from edgellm.ops._integers import INT32_MAX, round_shift, saturate
from edgellm.ops._ranges import RIGHT_SHIFT
from edgellm.ops._schema import Example, OpSchema, Port
from edgellm.ops._use import Demands, Use
from edgellm.ops._work import moved

if TYPE_CHECKING:
    from onnx import FunctionProto

SCHEMA = OpSchema(
    name="TextEmbedding",
    inputs=(
        Port("ids", "int64", ("T",)),
        Port("type_ids", "int64", ("T",)),
        Port("position_ids", "int64", ("T",)),
        Port("table", "int8", ("V", "N")),
        Port("multiplier", "int32", ("V",)),
        Port("types", "int32", ("Y", "N")),
        Port("positions", "int32", ("C", "N")),
    ),
    outputs=(Port("hidden", "int32", ("T", "N")),),
    attributes={"shift": RIGHT_SHIFT},
    tables=("V", "Y", "C"),
)
work = moved("T", "N")


def demands(use: Use) -> Demands:
    """Demand fixed tables, and ids that the engine has checked."""
    positions, context = use.sizes["C"], use.context_length
    fixed = isinstance(use.sizes["V"], int) and isinstance(use.sizes["Y"], int)
    enough = isinstance(positions, int) and positions >= context
    return [
        (use.inputs[:3] == (IDS, TYPES, POSITIONS), f"it reads {IDS}, {TYPES}, {POSITIONS}"),
        (fixed, "its tables are fixed"),
        (enough, f"it has {context} positions"),
    ]


def reference(
    ids: npt.NDArray[np.int64],
    type_ids: npt.NDArray[np.int64],
    position_ids: npt.NDArray[np.int64],
    table: npt.NDArray[np.int8],
    multiplier: npt.NDArray[np.int32],
    types: npt.NDArray[np.int32],
    positions: npt.NDArray[np.int32],
    *,
    shift: int,
) -> npt.NDArray[np.int32]:
    """Return ``table[id] * multiplier[id] * 2^-shift + types[type] + positions[position]``.

    Args:
        ids: (T,) 0 <= id < V.
        type_ids: (T,) 0 <= id < Y.
        position_ids: (T,) 0 <= id < C.
        table: (V, N) codes.
        multiplier: (V,) 0 <= multiplier < 2^31, a row each.
        types: (Y, N) in the fixed point of the result.
        positions: (C, N) likewise.
        shift: 1 to 62.

    Returns:
        (T, N), saturated to +-(2^31 - 1).
    """
    factor = multiplier[ids].astype(np.int64)[:, None]
    word = round_shift(table[ids].astype(np.int64) * factor, shift)
    total = word + types[type_ids] + positions[position_ids]
    return saturate(total, INT32_MAX).astype(np.int32)


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators."""
    b = Body(SCHEMA)
    ids, type_ids, position_ids, table, multiplier, types, positions = b.inputs
    factor = multiplier.take(ids).to("int64").unsqueeze(1)
    word = graph.round_shift(table.take(ids).to("int64") * factor, b.attribute("shift"))
    total = word + types.take(type_ids).to("int64") + positions.take(position_ids).to("int64")
    return b.function(graph.saturate(total, INT32_MAX).to("int32"))


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    rng = np.random.default_rng(28)
    for tokens, rows, types, positions, columns in ((5, 11, 2, 9, 64), (1, 1, 1, 1, 1)):
        inputs = (
            rng.integers(0, rows, tokens),
            rng.integers(0, types, tokens),
            rng.integers(0, positions, tokens),
            draw.codes(rng, rows, columns),
            draw.multipliers(rng, rows),
            draw.narrow(rng, 16, types, columns),
            draw.narrow(rng, 16, positions, columns),
        )
        yield Example(f"random_{tokens}x{rows}x{columns}", inputs, {"shift": 20})
    top = np.full((1, 4), INT32_MAX, np.int32)
    table = np.concatenate([draw.alternating(4, 127, np.int8)[None], np.zeros((1, 4), np.int8)])
    zero = np.zeros(2, np.int64)
    factors = np.array([INT32_MAX, 2**30], np.int32)
    for shift in (1, 37, 62):
        edges = (np.array([0, 1]), zero, zero, table, factors, top, top)
        yield Example(f"extremes_shift_{shift}", edges, {"shift": shift})
