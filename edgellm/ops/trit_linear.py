"""TritLinear: BitLinear whose ternary weights are packed five a byte."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellm.dtypes import (
    TRIT_BLOCK_BYTES,
    TRITS,
    TRITS_OF_BYTE,
    pack_trits,
    trit_bytes,
    unpack_trits,
)
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
    name="TritLinear",
    inputs=(Port("x", "int8", ("T", "K")), Port("packed", "uint8", ("N", "B"))),
    outputs=(Port("acc", "int32", ("T", "N")),),
)
work = product(1.6)


def demands(use: Use) -> Demands:
    """Demand as many columns as the activations have."""
    return packed_columns_fit(use, trit_bytes)


def reference(x: npt.NDArray[np.int8], packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """Return ``x @ W.T``; W is ``packed`` in the layout ``ternary-5trit/v1``.

    Args:
        x: (T, K), K <= 16,777,215 (127 * K fits in int32).
        packed: (N, B), B = trit_bytes(K).
    """
    return exact_matmul(x, unpack_trits(packed, x.shape[1]).T).astype(np.int32)


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators."""
    b = Body(SCHEMA)
    return b.function(product_body(b, *b.inputs))


def product_body(b: Body, x: Value, packed: Value) -> Value:
    """Return the accumulators: a byte chooses a row from a table of codes.

    The product is that of BitLinear's body.
    """
    table = b.constant(TRITS_OF_BYTE, "uint8")
    size = packed.size(1)
    whole = size // TRIT_BLOCK_BYTES * TRIT_BLOCK_BYTES
    blocks = table.take(packed.columns(whole).to("int32"))  # (N, B, 5)
    blocks = blocks.reshape(0, -1, TRIT_BLOCK_BYTES, TRITS).transpose(0, 1, 3, 2)
    last = b.node("Slice", [packed, whole, size, b.constant([1])], "uint8")
    last = table.take(last.to("int32")).transpose(0, 2, 1)
    parts = [b.node("Flatten", [part], "uint8", {"axis": 1}) for part in (blocks, last)]
    weight = b.concat(parts, axis=1).columns(x.size(1)).transpose(1, 0)
    zero_points = [b.constant(128, "uint8"), b.constant(1, "uint8")]
    return b.node("MatMulInteger", [x.to("uint8") ^ 128, weight, *zero_points], "int32")


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    rng = np.random.default_rng(5)

    def trits(rows: int, columns: int) -> npt.NDArray[np.uint8]:
        return pack_trits(rng.integers(-1, 1, (rows, columns), np.int8, endpoint=True))

    # Rows of one block and of several, whole ones and the four sizes of a last one.
    sizes = ((3, 320, 32), (1, 1, 1), (2, 79, 7), (1, 399, 33), (2, 401, 6), (5, 560, 65),
             (17, 1001, 9), (19, 1200, 67), (1, 640, 5))  # fmt: skip
    for tokens, k, n in sizes:
        yield Example(f"random_{tokens}x{k}x{n}", (draw.codes(rng, tokens, k), trits(n, k)))
    yield Example("zero_row", (np.zeros((1, 100), np.int8), trits(6, 100)))
    bytes_ = np.tile(np.arange(243, dtype=np.uint8), 4)[: 15 * 64].reshape(3, 320)
    yield Example("every_byte", (draw.codes(rng, 9, 1600), bytes_))
    ones = np.ones((1, 20_000), np.int8)
    signs = pack_trits(np.concatenate([ones, -ones]))
    yield Example("longest_row", (np.concatenate([127 * ones, -127 * ones]), signs))
