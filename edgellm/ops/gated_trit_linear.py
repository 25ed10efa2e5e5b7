"""GatedTritLinear: GatedBitLinear whose ternary weights are packed five a byte."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellm.dtypes import pack_trits, trit_bytes
from edgellm.ops import _examples as draw
from edgellm.ops import trit_linear
from edgellm.ops._body import Body
from edgellm.ops._integers import INT32_MAX
from edgellm.ops._schema import Example, OpSchema, Port
from edgellm.ops._ternary import packed_columns_fit
from edgellm.ops._use import Demands, Use
from edgellm.ops._work import product

if TYPE_CHECKING:
    from onnx import FunctionProto

SCHEMA = OpSchema(
    name="GatedTritLinear",
    inputs=(
        Port("x", "int8", ("T", "K")),
        Port("packed", "uint8", ("N", "B")),
        Port("gate", "int32", ("T", "N")),
    ),
    outputs=(Port("acc", "int32", ("T", "N")),),
)
work = product(1.6)


def demands(use: Use) -> Demands:
    """Demand as many columns as the activations have."""
    return packed_columns_fit(use, trit_bytes)


def reference(
    x: npt.NDArray[np.int8], packed: npt.NDArray[np.uint8], gate: npt.NDArray[np.int32]
) -> npt.NDArray[np.int32]:
    """Return ``x @ W.T`` where ``gate > 0``, 0 elsewhere: relu(gate)^2 times it is the same.

    Args:
        x: (T, K), K <= 16,777,215 (127 * K fits in int32).
        packed: (N, B), B = trit_bytes(K): W in the layout ``ternary-5trit/v1``.
        gate: (T, N) accumulators of gate_proj.
    """
    return np.where(gate > 0, trit_linear.reference(x, packed), np.int32(0))


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators."""
    b = Body(SCHEMA)
    x, packed, gate = b.inputs
    acc = trit_linear.product_body(b, x, packed)
    return b.function(b.where(gate > 0, acc, b.constant(0, "int32")))


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    rng = np.random.default_rng(33)

    def trits(rows: int, columns: int) -> npt.NDArray[np.uint8]:
        return pack_trits(rng.integers(-1, 1, (rows, columns), np.int8, endpoint=True))

    # Rows of one block and of several, whole ones and the four sizes of a last one.
    sizes = ((3, 320, 32), (1, 1, 1), (2, 79, 7), (1, 399, 33), (1, 401, 6), (1, 560, 65),
             (17, 1001, 9), (1, 640, 5), (1, 1201, 43))  # fmt: skip
    for tokens, k, n in sizes:
        inputs = (draw.codes(rng, tokens, k), trits(n, k))
        yield Example(f"random_{tokens}x{k}x{n}", (*inputs, draw.narrow(rng, 18, tokens, n)))
    inputs = (draw.codes(rng, 1, 350), trits(9, 350))
    limits = np.array([[0, 1, -1, INT32_MAX, -INT32_MAX - 1, 0, 1, 1, 0]], np.int32)
    yield Example("limits", (*inputs, limits))
    for name, value in (("open", 1), ("closed", 0)):
        yield Example(name, (*inputs, np.full((1, 9), value, np.int32)))
    inputs = (draw.codes(rng, 1, 650), trits(5000, 650))
    yield Example("random_1x650x5000", (*inputs, draw.narrow(rng, 18, 1, 5000)))
