"""Int8Linear: int8 activations times int8 weights, exact int32 accumulators."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellm.ops import _body_integers as graph
from edgellm.ops import _examples as draw
from edgellm.ops._body import Body
from edgellm.ops._integers import exact_matmul
from edgellm.ops._schema import Example, OpSchema, Port
from edgellm.ops._use import MAX_INT8_COLUMNS, Demands, Use, columns_at_most
from edgellm.ops._work import product

if TYPE_CHECKING:
    from onnx import FunctionProto

SCHEMA = OpSchema(
    name="Int8Linear",
    inputs=(Port("x", "int8", ("T", "K")), Port("weight", "int8", ("N", "K"))),
    outputs=(Port("acc", "int32", ("T", "N")),),
)
work = product(8)


def demands(use: Use) -> Demands:
    """Demand sums that fit an int32."""
    return columns_at_most(use, "K", MAX_INT8_COLUMNS)


def reference(x: npt.NDArray[np.int8], weight: npt.NDArray[np.int8]) -> npt.NDArray[np.int32]:
    """Return ``x @ weight.T``; codes in [-127, 127], K <= 133,144 (127 * 127 * K fits in int32)."""
    return exact_matmul(x, weight.T).astype(np.int32)


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators."""
    b = Body(SCHEMA)
    x, weight = b.inputs
    return b.function(graph.exact_matmul(x, weight.transpose(1, 0)))


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    rng = np.random.default_rng(2)
    sizes = ((3, 64, 32), (1, 1, 1), (2, 7, 63), (1, 65, 5), (5, 172, 65), (17, 33, 9))
    for tokens, k, n in (*sizes, (16, 64, 32), (37, 192, 64), (70, 130, 40), (18, 2240, 21)):
        x, weight = draw.codes(rng, tokens, k), draw.codes(rng, n, k)
        yield Example(f"random_{tokens}x{k}x{n}", (x, weight))
    yield Example("zero_row", (np.zeros((1, 40), np.int8), draw.codes(rng, 6, 40)))
    top = np.full((1, 4096), 127, np.int8)
    yield Example("extremes", (np.concatenate([top, -top]), np.concatenate([top, -top])))
    longest = np.full((1, 133_144), 127, np.int8)
    yield Example("longest_row", (longest, longest))
    yield Example("longest_row_negative", (longest, -longest))
    x, weight = draw.codes(rng, 29, 1100), draw.codes(rng, 67, 1100)
    yield Example("random_29x1100x67", (x, weight))
    x, weight = draw.codes(rng, 259, 64), draw.codes(rng, 19, 64)
    yield Example("random_259x64x19", (x, weight))
