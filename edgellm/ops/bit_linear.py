"""BitLinear: int8 activations times ternary weights, exact int32 accumulators (BitNet b1.58)."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellm.dtypes import TERNARY_BLOCK, pack_ternary, packed_columns, unpack_ternary
from edgellm.ops import _examples as draw
from edgellm.ops._body import Body, Value
from edgellm.ops._integers import exact_matmul
from edgellm.ops._schema import Example, OpSchema, Port
from edgellm.ops._ternary import packed_columns_fit
from edgellm.ops._use import Demands, Use
from edgellm.ops._work import product

if TYPE_CHECKING:
    from onnx import FunctionProto

SCHEMA = OpSchema(
    name="BitLinear",
    inputs=(Port("x", "int8", ("T", "K")), Port("packed", "uint8", ("N", "B"))),
    outputs=(Port("acc", "int32", ("T", "N")),),
)
work = product(2)


def demands(use: Use) -> Demands:
    """Demand as many columns as the activations have."""
    return packed_columns_fit(use, packed_columns)


def reference(x: npt.NDArray[np.int8], packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """Return ``x @ W.T``; W is ``packed`` in the layout ``ternary-2bit/v1``.

    Args:
        x: (T, K), K <= 16,777,215 (127 * K fits in int32).
        packed: (N, B), B = packed_columns(K).
    """
    return exact_matmul(x, unpack_ternary(packed, x.shape[1]).T).astype(np.int32)


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators."""
    b = Body(SCHEMA)
    return b.function(product_body(b, *b.inputs))


def product_body(b: Body, x: Value, packed: Value) -> Value:
    """Return the accumulators in standard ONNX operators.

    The activations go in as uint8 with the zero point 128, the codes 0, 1, 2 with the zero point 1:
    uint8 by uint8 is exact on every CPU.
    """
    blocks = packed.reshape(0, -1, 1, TERNARY_BLOCK // 4)
    shifts = b.constant([0, 2, 4, 6], "uint8").reshape(1, 1, 4, 1)
    fields = blocks.shift_right(shifts) & 3  # (N, B / 16, 4, 16)
    weight = fields.reshape(packed.size(0), -1).columns(x.size(1)).transpose(1, 0)
    zero_points = [b.constant(128, "uint8"), b.constant(1, "uint8")]
    return b.node("MatMulInteger", [x.to("uint8") ^ 128, weight, *zero_points], "int32")


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    rng = np.random.default_rng(3)
    sizes = ((3, 64, 32), (1, 1, 1), (2, 7, 63), (1, 63, 5), (2, 65, 7), (5, 172, 65), (17, 256, 9))
    for tokens, k, n in sizes:
        x, packed = draw.codes(rng, tokens, k), draw.ternary(rng, n, k)
        yield Example(f"random_{tokens}x{k}x{n}", (x, packed))
    yield Example("zero_row", (np.zeros((1, 100), np.int8), draw.ternary(rng, 6, 100)))
    yield Example(
        "zero_weights", (draw.codes(rng, 2, 70), pack_ternary(np.zeros((3, 70), np.int8)))
    )
    ones = np.ones((1, 20_000), np.int8)
    signs = pack_ternary(np.concatenate([ones, -ones]))
    yield Example("longest_row", (np.concatenate([127 * ones, -127 * ones]), signs))
    x, packed = draw.codes(rng, 29, 1100), draw.ternary(rng, 67, 1100)
    yield Example("random_29x1100x67", (x, packed))
