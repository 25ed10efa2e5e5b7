"""LookUpBitLinear: BitLinear with the weights in planes of bits, for look-ups by rows."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellm.device import MatMul, Work
from edgellm.dtypes import PLANE_COLUMNS
from edgellm.ops import _examples as draw
from edgellm.ops._body import Body
from edgellm.ops._integers import exact_matmul
from edgellm.ops._schema import Example, OpSchema, Port
from edgellm.ops._ternary import MAX_COLUMNS
from edgellm.ops._use import Demands, Use, columns_at_most
from edgellm.ops._work import Sizes
from edgellm.ternary_planes import COLUMNS, pack_ternary_planes, unpack_ternary_planes

if TYPE_CHECKING:
    from onnx import FunctionProto

SCHEMA = OpSchema(
    name="LookUpBitLinear",
    inputs=(Port("x", "int8", ("T", "K")), Port("packed", "uint8", ("B", "C", "64", "2"))),
    outputs=(Port("acc", "int32", ("T", "64*B")),),
)


def work(sizes: Sizes) -> Work:
    """Return what a call amounts to."""
    return MatMul(m=sizes["T"], k=sizes["K"], n=64 * sizes["B"], weight_bits=2)


def demands(use: Use) -> Demands:
    """Demand as many columns as the activations have."""
    columns, octets = use.sizes["K"], use.sizes["C"]
    fits = isinstance(columns, int) and octets == -(-columns // PLANE_COLUMNS)
    return [
        (isinstance(use.sizes["B"], int), "its packed weight has a fixed size"),
        *columns_at_most(use, "K", MAX_COLUMNS),
        (fits, "the packed weight has another number of columns than the activations"),
    ]


def reference(x: npt.NDArray[np.int8], packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """Return ``x @ W.T``; W is ``packed`` in the layout ``ternary-planes/v1``.

    Args:
        x: (T, K) in [-127, 127], K <= 16,777,215 (127 * K fits in int32).
        packed: (B, C, 64, 2), C = ceil(K / 8).
    """
    return exact_matmul(x, unpack_ternary_planes(packed, x.shape[1]).T).astype(np.int32)


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators; on activations and codes as BitLinear's."""
    b = Body(SCHEMA)
    x, packed = b.inputs
    shifts = b.constant(list(range(COLUMNS)), "uint8").reshape(1, 1, 1, 1, -1)
    bits = packed.unsqueeze(4).shift_right(shifts) & 1  # (B, C, 64, 2, 8)
    codes = (bits.take(0, axis=3) + bits.take(1, axis=3)).transpose(0, 2, 1, 3)
    rows = packed.size(0) * 64
    flat = codes.reshape(rows, packed.size(1) * COLUMNS)
    weight = flat.columns(x.size(1)).transpose(1, 0)
    zero_points = [b.constant(128, "uint8"), b.constant(1, "uint8")]
    acc = b.node("MatMulInteger", [x.to("uint8") ^ 128, weight, *zero_points], "int32")
    return b.function(acc)


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    rng = np.random.default_rng(29)

    def planes(n: int, k: int) -> npt.NDArray[np.uint8]:
        return pack_ternary_planes(rng.integers(-1, 1, (n, k), np.int8, endpoint=True))

    sizes = ((3, 64, 64), (1, 1, 64), (2, 7, 128), (1, 63, 64), (2, 65, 192), (17, 256, 64),
             (1, 1100, 320), (5, 520, 64))  # fmt: skip
    for tokens, k, n in sizes:
        yield Example(f"random_{tokens}x{k}x{n}", (draw.codes(rng, tokens, k), planes(n, k)))
    small = rng.normal(0, 30, (3, 600)).clip(-127, 127).astype(np.int8)
    yield Example("mostly_small", (small, planes(128, 600)))
    yield Example("zero_row", (np.zeros((1, 100), np.int8), planes(64, 100)))
    ones = np.ones((1, 20_000), np.int8)
    signs = pack_ternary_planes(np.concatenate([ones] * 32 + [-ones] * 32))
    yield Example("longest_row", (np.concatenate([127 * ones, -127 * ones]), signs))
    long = draw.codes(rng, 2, 33_000)
    yield Example("random_2x33000x64", (long, planes(64, 33_000)))
    packed = planes(64, 61)
    packed[:, -1] |= 0b11100000  # columns that are not there
    yield Example("bits_behind_the_last_column", (draw.codes(rng, 2, 61), packed))
