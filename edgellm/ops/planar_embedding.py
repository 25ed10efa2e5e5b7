"""PlanarEmbedding: Embedding from the table in planes that a PlanarLogitsHead shares with it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellm.dtypes import pack_planes, unpack_planes
from edgellm.ops import _body_integers as graph
from edgellm.ops import _examples as draw
from edgellm.ops import _planes as planes
from edgellm.ops._body import Body
from edgellm.ops._integers import INT32_MAX, round_shift
from edgellm.ops._planes import planes_fit
from edgellm.ops._ranges import RIGHT_SHIFT
from edgellm.ops._schema import Example, OpSchema, Port
from edgellm.ops._use import Demands, Use, vocabulary
from edgellm.ops._work import moved

if TYPE_CHECKING:
    from onnx import FunctionProto

SCHEMA = OpSchema(
    name="PlanarEmbedding",
    inputs=(
        Port("ids", "int64", ("T",)),
        Port("high", "uint8", ("V", "H")),
        Port("low", "uint8", ("4", "V", "B")),
        Port("multiplier", "int32", ("V",)),
    ),
    outputs=(Port("hidden", "int64", ("T", "H+H")),),
    attributes={"shift": RIGHT_SHIFT},
    tables=("V",),
)
work = moved("T", "H", size=2)


def demands(use: Use) -> Demands:
    """Demand planes that fit together, and ids that the engine has checked."""
    high = use.sizes["H"]
    columns = 2 * high if isinstance(high, int) else high
    return [*planes_fit(use, columns), *vocabulary(use)]


def reference(
    ids: npt.NDArray[np.int64],
    high: npt.NDArray[np.uint8],
    low: npt.NDArray[np.uint8],
    multiplier: npt.NDArray[np.int32],
    *,
    shift: int,
) -> npt.NDArray[np.int64]:
    """Return ``(table[id] * multiplier[id] + half) >> shift``; 1 <= shift <= 62.

    The int8 table is ``high`` (V, N / 2) and ``low`` (4, V, N / 8) in ``int8-planes/v1``.
    """
    codes = unpack_planes(high[ids], np.ascontiguousarray(low[:, ids]))
    return round_shift(codes.astype(np.int64) * multiplier[ids].astype(np.int64)[:, None], shift)


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators."""
    b = Body(SCHEMA)
    ids, high, low, multiplier = b.inputs
    codes = planes.recombine(high.take(ids), low.take(ids, axis=1), ids.size(0))
    wide = (codes.to("int64") - 128) * multiplier.take(ids).to("int64").unsqueeze(1)
    return b.function(graph.round_shift(wide, b.attribute("shift")))


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    rng = np.random.default_rng(9)
    for tokens, rows, columns in ((5, 11, 64), (1, 1, 64), (3, 4, 192)):
        ids = rng.integers(0, rows, tokens)
        table = pack_planes(draw.codes(rng, rows, columns))
        inputs = (ids, *table, draw.multipliers(rng, rows))
        yield Example(f"random_{tokens}x{rows}x{columns}", inputs, {"shift": 14})
    edges = np.stack([draw.alternating(64, 127, np.int8), np.zeros(64, np.int8)])
    multiplier = np.array([INT32_MAX, 2**30], np.int32)
    inputs = (np.array([1, 0, 0, 1]), *pack_planes(edges), multiplier)
    for shift in (1, 37, 62):
        yield Example(f"extremes_and_zero_row_shift_{shift}", inputs, {"shift": shift})
