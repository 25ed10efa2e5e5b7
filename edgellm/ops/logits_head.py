"""LogitsHead: int32 logits of the chosen rows, in one fixed point for the whole vocabulary."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellm.ops import _body_integers as graph
from edgellm.ops import _examples as draw
from edgellm.ops._body import Body
from edgellm.ops._integers import INT32_MAX, exact_matmul, requantize, saturate
from edgellm.ops._ranges import SHIFT
from edgellm.ops._schema import Example, OpSchema, Port
from edgellm.ops._use import MAX_INT8_COLUMNS, Demands, Use, columns_at_most, scored_rows
from edgellm.ops._work import product

if TYPE_CHECKING:
    from onnx import FunctionProto

SCHEMA = OpSchema(
    name="LogitsHead",
    inputs=(
        Port("x", "int8", ("T", "K")),
        Port("scale", "int32", ("T", "2")),
        Port("weight", "int8", ("V", "K")),
        Port("multiplier", "int32", ("V",)),
        Port("rows", "int64", ("R",)),
    ),
    outputs=(Port("logits", "int32", ("R", "V")),),
    attributes={"shift": SHIFT},
)
work = product(8, "R", "V")


def demands(use: Use) -> Demands:
    """Demand sums that fit an int32, and the rows that are asked for."""
    return [*columns_at_most(use, "K", MAX_INT8_COLUMNS), *scored_rows(use, use.inputs[4])]


def reference(
    x: npt.NDArray[np.int8],
    scale: npt.NDArray[np.int32],
    weight: npt.NDArray[np.int8],
    multiplier: npt.NDArray[np.int32],
    rows: npt.NDArray[np.int64],
    *,
    shift: int,
) -> npt.NDArray[np.int32]:
    """Return the logits of x[rows].

    Args:
        x: (T, K) codes.
        scale: (T, 2).
        weight: (V, K) codes, a row for each token of the vocabulary.
        multiplier: (V,).
        rows: (R,) which rows of x to score, 0 <= row < T.
        shift: exponent that goes with the multiplier.
    """
    acc = exact_matmul(x[rows], weight.T)
    wide = requantize(acc, scale[rows], multiplier.astype(np.int64), shift)
    return saturate(wide, INT32_MAX).astype(np.int32)


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators."""
    b = Body(SCHEMA)
    x, scale, weight, multiplier, rows = b.inputs
    shift = b.attribute("shift")
    acc = graph.exact_matmul(x.take(rows), weight.transpose(1, 0)).to("int64")
    wide = graph.requantize(acc, scale.take(rows), multiplier.to("int64"), shift)
    return b.function(graph.saturate(wide, INT32_MAX).to("int32"))


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    rng = np.random.default_rng(7)
    chosen: tuple[tuple[int, int, int, list[int]], ...] = (
        (3, 64, 32, [2]),
        (1, 1, 1, [0]),
        (3, 64, 33, []),
        (2, 7, 63, [0, 1]),
        (5, 172, 65, [4, 0, 0, 2, 1, 3, 4]),
    )
    for tokens, k, vocabulary, rows in chosen:
        inputs = (
            draw.codes(rng, tokens, k),
            draw.scales(rng, tokens, 40),
            draw.codes(rng, vocabulary, k),
            draw.multipliers(rng, vocabulary),
            np.array(rows, dtype=np.int64),
        )
        yield Example(f"random_{tokens}x{k}x{vocabulary}_{len(rows)}_rows", inputs, {"shift": 21})
    x = np.concatenate([np.full((1, 4096), 127, np.int8), np.zeros((1, 4096), np.int8)])
    weight = np.concatenate([x[:1], -x[:1], x[1:]])
    inputs = (x, draw.scales(rng, 2, 40), weight, draw.multipliers(rng, 3), np.array([1, 0]))
    yield Example("zero_row_and_extremes", inputs, {"shift": 21})
    inputs_many = (
        draw.codes(rng, 20, 192),
        draw.scales(rng, 20, 40),
        draw.codes(rng, 67, 192),
        draw.multipliers(rng, 67),
        np.array([7, *range(1, 20)]),
    )
    yield Example("random_20x192x67_20_rows", inputs_many, {"shift": 21})
    for shift in (-40, 60):
        yield Example(f"saturation_and_clamped_shift_{shift}", inputs, {"shift": shift})
