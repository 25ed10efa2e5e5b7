"""Int4LogitsHead: LogitsHead on weights of 4 bits."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellm.dtypes import PLANES_BLOCK
from edgellm.int4 import BLOCK, pack_int4, unpack_int4
from edgellm.ops import _body_integers as graph
from edgellm.ops import _examples as draw
from edgellm.ops._body import Body
from edgellm.ops._integers import INT32_MAX, exact_matmul, requantize, saturate
from edgellm.ops._planes import MAX_COLUMNS
from edgellm.ops._ranges import SHIFT
from edgellm.ops._schema import Example, OpSchema, Port
from edgellm.ops._use import Demands, Use, columns_at_most, divides, scored_rows
from edgellm.ops._work import product

if TYPE_CHECKING:
    from onnx import FunctionProto

SCHEMA = OpSchema(
    name="Int4LogitsHead",
    inputs=(
        Port("x", "int8", ("T", "K")),
        Port("scale", "int32", ("T", "2")),
        Port("weight", "uint8", ("V", "H")),
        Port("multiplier", "int32", ("V",)),
        Port("rows", "int64", ("R",)),
    ),
    outputs=(Port("logits", "int32", ("R", "V")),),
    attributes={"shift": SHIFT},
)
work = product(4, "R", "V")


def demands(use: Use) -> Demands:
    """Demand whole blocks of columns, and the rows that are asked for."""
    columns, half = use.sizes["K"], use.sizes["H"]
    fits = isinstance(half, int) and columns == 2 * half
    return [
        *columns_at_most(use, "K", MAX_COLUMNS),
        (divides(PLANES_BLOCK, columns), f"its columns are a multiple of {PLANES_BLOCK}"),
        (fits, "its weights have as many columns as the codes"),
        *scored_rows(use, use.inputs[4]),
    ]


def reference(
    x: npt.NDArray[np.int8],
    scale: npt.NDArray[np.int32],
    weight: npt.NDArray[np.uint8],
    multiplier: npt.NDArray[np.int32],
    rows: npt.NDArray[np.int64],
    *,
    shift: int,
) -> npt.NDArray[np.int32]:
    """Return the logits of x[rows], as LogitsHead does on the same weights in int8.

    Args:
        x: (T, K) codes, K a multiple of 64.
        scale: (T, 2).
        weight: (V, K / 2), weights of -8 to 7 in ``int4/v1``, a row for each token of the
            vocabulary.
        multiplier: (V,).
        rows: (R,) which rows of x to score, 0 <= row < T.
        shift: exponent that goes with the multiplier.
    """
    acc = exact_matmul(x[rows], unpack_int4(weight).T)
    wide = requantize(acc, scale[rows], multiplier.astype(np.int64), shift)
    return saturate(wide, INT32_MAX).astype(np.int32)


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators."""
    b = Body(SCHEMA)
    x, scale, weight, multiplier, rows = b.inputs
    blocks = weight.reshape(weight.size(0), -1, 1, BLOCK // 2)
    halves = b.concat([blocks & 15, blocks.shift_right(4)], axis=2)
    codes = halves.reshape(weight.size(0), -1).transpose(1, 0)
    offsets = b.constant(128, "uint8"), b.constant(8, "uint8")
    operands = [x.take(rows).to("uint8") ^ 128, codes, *offsets]
    acc = b.node("MatMulInteger", operands, "int32").to("int64")
    wide = graph.requantize(acc, scale.take(rows), multiplier.to("int64"), b.attribute("shift"))
    return b.function(graph.saturate(wide, INT32_MAX).to("int32"))


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    rng = np.random.default_rng(9)
    chosen: tuple[tuple[int, int, int, list[int]], ...] = (
        (3, 64, 32, [2]),
        (1, 64, 1, [0]),
        (3, 64, 33, []),
        (2, 128, 63, [0, 1]),
        (5, 192, 65, [4, 0, 0, 2, 1, 3, 4]),
        (20, 192, 67, [7, *range(1, 20)]),
    )
    for tokens, k, vocabulary, rows in chosen:
        inputs = (
            draw.codes(rng, tokens, k),
            draw.scales(rng, tokens, 40),
            pack_int4(rng.integers(-8, 8, (vocabulary, k), np.int8)),
            draw.multipliers(rng, vocabulary),
            np.array(rows, dtype=np.int64),
        )
        yield Example(f"random_{tokens}x{k}x{vocabulary}_{len(rows)}_rows", inputs, {"shift": 21})
    x = np.concatenate([np.full((1, 4096), 127, np.int8), np.zeros((1, 4096), np.int8)])
    weight = np.stack([np.full(4096, value, np.int8) for value in (7, -8, 0)])
    rest = (draw.multipliers(rng, 3), np.array([1, 0]))
    inputs = (x, draw.scales(rng, 2, 40), pack_int4(weight), *rest)
    for shift in (21, -40, 60):
        yield Example(f"extremes_shift_{shift}", inputs, {"shift": shift})
