"""ColumnBitLinear: BitLinear with the weights by input, so that zero inputs are never read."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellm.device import MatMul, Work
from edgellm.dtypes import TERNARY_BLOCK, pack_ternary_columns, unpack_ternary_columns
from edgellm.ops import _examples as draw
from edgellm.ops._body import Body
from edgellm.ops._integers import exact_matmul
from edgellm.ops._schema import Example, OpSchema, Port
from edgellm.ops._ternary import MAX_COLUMNS
from edgellm.ops._use import Demands, Use, columns_at_most, divides
from edgellm.ops._work import Sizes

if TYPE_CHECKING:
    from onnx import FunctionProto

SCHEMA = OpSchema(
    name="ColumnBitLinear",
    inputs=(Port("x", "int8", ("T", "K")), Port("packed", "uint8", ("S", "K", "W"))),
    outputs=(Port("acc", "int32", ("T", "4*S*W")),),
)


def work(sizes: Sizes) -> Work:
    """Return what a call amounts to."""
    outputs = 4 * sizes["S"] * sizes["W"]
    return MatMul(m=sizes["T"], k=sizes["K"], n=outputs, weight_bits=2)


def demands(use: Use) -> Demands:
    """Demand a weight of whole slabs."""
    fixed = all(isinstance(use.sizes[letter], int) for letter in "SKW")
    return [
        (fixed, "its packed weight has a fixed size"),
        *columns_at_most(use, "K", MAX_COLUMNS),
        (divides(16, use.sizes["W"]), "an input has 16 bytes for every 64 outputs"),
    ]


def reference(x: npt.NDArray[np.int8], packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """Return ``x @ W.T``; W is ``packed`` in the layout ``ternary-2bit-columns/v1``.

    Args:
        x: (T, K), K <= 16,777,215 (127 * K fits in int32); where it is zero nothing need be read.
        packed: (S, K, W), W is a multiple of 16.
    """
    return exact_matmul(x, unpack_ternary_columns(packed).T).astype(np.int32)


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators; on activations and codes as BitLinear's."""
    b = Body(SCHEMA)
    x, packed = b.inputs
    blocks = packed.reshape(0, 0, -1, 1, TERNARY_BLOCK // 4)
    shifts = b.constant([0, 2, 4, 6], "uint8").reshape(1, 1, 1, 4, 1)
    fields = blocks.shift_right(shifts) & 3  # (S, K, W / 16, 4, 16)
    weight = fields.transpose(1, 0, 2, 3, 4).reshape(packed.size(1), -1)
    zero_points = [b.constant(128, "uint8"), b.constant(1, "uint8")]
    acc = b.node("MatMulInteger", [x.to("uint8") ^ 128, weight, *zero_points], "int32")
    return b.function(acc)


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    rng = np.random.default_rng(17)
    sizes = (
        (1, 32, 64, 1),
        (3, 5, 128, 2),
        (1, 1, 64, 1),
        (2, 7, 192, 1),
        (1, 70, 512, 2),
        (4, 131, 320, 1),
        (13, 200, 1024, 2),
        (3, 90, 5440, 1),
    )
    for tokens, k, n, strips in sizes:
        x = _sparse(rng, 0.6, tokens, k)
        yield Example(f"sparse_{tokens}x{k}x{n}_{strips}", (x, _weights(rng, n, k, strips)))
    x = draw.codes(rng, 2, 96)
    yield Example("dense", (x, _weights(rng, 256, 96, 1)))
    yield Example("zero_row", (np.zeros((1, 40), np.int8), _weights(rng, 64, 40, 1)))
    one = np.zeros((2, 90), np.int8)
    one[1, 89] = -127
    yield Example("one_input", (one, _weights(rng, 128, 90, 2)))
    ones = np.ones((1, 20_000), np.int8)
    signs = np.concatenate([ones] * 32 + [-ones] * 32)
    extremes = np.concatenate([127 * ones, -127 * ones])
    yield Example("longest_row", (extremes, pack_ternary_columns(signs, 1)))
    x = _sparse(rng, 0.8, 19, 1100)
    yield Example("sparse_19x1100x2560_2", (x, _weights(rng, 2560, 1100, 2)))


def _sparse(rng: np.random.Generator, zeros: float, *shape: int) -> npt.NDArray[np.int8]:
    """Return codes of which the given share is zero."""
    return np.where(rng.random(shape) < zeros, 0, draw.codes(rng, *shape)).astype(np.int8)


def _weights(rng: np.random.Generator, n: int, k: int, strips: int) -> npt.NDArray[np.uint8]:
    return pack_ternary_columns(rng.integers(-1, 1, (n, k), np.int8, endpoint=True), strips)
