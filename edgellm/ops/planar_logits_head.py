"""PlanarLogitsHead: LogitsHead on weights in planes, of which the best few logits need a part."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellm.dtypes import pack_planes, unpack_planes
from edgellm.ops import _body_integers as graph
from edgellm.ops import _examples as draw
from edgellm.ops import _planes as planes
from edgellm.ops._body import Body
from edgellm.ops._integers import INT32_MAX, exact_matmul, requantize, saturate
from edgellm.ops._planes import planes_fit
from edgellm.ops._ranges import SHIFT
from edgellm.ops._schema import Example, OpSchema, Port
from edgellm.ops._use import Demands, Use, scored_rows
from edgellm.ops._work import product

if TYPE_CHECKING:
    from onnx import FunctionProto

SCHEMA = OpSchema(
    name="PlanarLogitsHead",
    inputs=(
        Port("x", "int8", ("T", "K")),
        Port("scale", "int32", ("T", "2")),
        Port("high", "uint8", ("V", "H")),
        Port("low", "uint8", ("4", "V", "B")),
        Port("norms", "int16", ("4", "V")),
        Port("multiplier", "int32", ("V",)),
        Port("rows", "int64", ("R",)),
    ),
    outputs=(Port("logits", "int32", ("R", "V")),),
    attributes={"shift": SHIFT, "top": (0, 0)},
)
work = product(8, "R", "V")


def demands(use: Use) -> Demands:
    """Demand planes that fit together, logits that ascend with sums, and the rows asked for."""
    ascends = _ascends(use), "its multipliers are stored in the bundle, and not negative"
    return [*planes_fit(use, use.sizes["K"]), ascends, *scored_rows(use, use.inputs[6])]


def _ascends(use: Use) -> bool:
    """Tell whether a larger sum has no smaller logit: bounds of sums are bounds of logits then."""
    multipliers = use.stored.get(use.inputs[5])
    return multipliers is not None and bool((multipliers.astype(np.int32) >= 0).all())


BLOCK_ROWS = 4096
"""Rows that the reference unpacks together: all of a large vocabulary would take gigabytes."""


def reference(
    x: npt.NDArray[np.int8],
    scale: npt.NDArray[np.int32],
    high: npt.NDArray[np.uint8],
    low: npt.NDArray[np.uint8],
    norms: npt.NDArray[np.int16],
    multiplier: npt.NDArray[np.int32],
    rows: npt.NDArray[np.int64],
    *,
    shift: int,
    top: int,
) -> npt.NDArray[np.int32]:
    """Return the logits of x[rows], as LogitsHead does on the int8 weights.

    With ``top`` above 0 an executor may give INT32_MIN, which is below all logits, for those that
    are smaller than the ``top`` best of their row; what it gives else is the same. In a bundle
    ``top`` is 0: who wants few logits asks when running.

    Args:
        x: (T, K) codes, K a multiple of 64.
        scale: (T, 2).
        high: (V, K / 2), with low a row for each token of the vocabulary in ``int8-planes/v1``.
        low: (4, V, K / 8).
        norms: (4, V) for m = 4, 3, 2, 1: the norm of twice a weight's last m bits less 2^m - 1,
            rounded up.
        multiplier: (V,).
        rows: (R,) which rows of x to score, 0 <= row < T.
        shift: exponent that goes with the multiplier.
        top: how many of the best logits are wanted; 0 for all.
    """
    del norms, top
    acc = np.concatenate(
        [
            exact_matmul(x[rows], unpack_planes(high[some], low[:, some]).T)
            for some in (slice(v, v + BLOCK_ROWS) for v in range(0, len(high), BLOCK_ROWS))
        ],
        axis=1,
    )
    wide = requantize(acc, scale[rows], multiplier.astype(np.int64), shift)
    return saturate(wide, INT32_MAX).astype(np.int32)


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators; all logits."""
    b = Body(SCHEMA)
    x, scale, high, low, _, multiplier, rows = b.inputs
    weight = planes.recombine(high, low, high.size(0)).transpose(1, 0)
    offset = b.constant(128, "uint8")
    operands = [x.take(rows).to("uint8") ^ 128, weight, offset, offset]
    acc = b.node("MatMulInteger", operands, "int32").to("int64")
    wide = graph.requantize(acc, scale.take(rows), multiplier.to("int64"), b.attribute("shift"))
    return b.function(graph.saturate(wide, INT32_MAX).to("int32"))


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    rng = np.random.default_rng(8)
    chosen: tuple[tuple[int, int, int, list[int]], ...] = (
        (3, 64, 32, [2]),
        (1, 64, 1, [0]),
        (3, 128, 32, []),
        (1, 256, 70, [0]),
        (2, 128, 63, [0, 1]),
        (1, 64, BLOCK_ROWS + 5, [0]),
        (5, 192, 65, [4, 0, 0, 2, 1, 3, 4]),
        (20, 192, 67, [7, *range(1, 20)]),
    )
    for tokens, k, vocabulary, rows in chosen:
        inputs = (
            draw.codes(rng, tokens, k),
            draw.scales(rng, tokens, 40),
            *planar(draw.codes(rng, vocabulary, k)),
            draw.multipliers(rng, vocabulary),
            np.array(rows, dtype=np.int64),
        )
        name = f"random_{tokens}x{k}x{vocabulary}_{len(rows)}_rows"
        yield Example(name, inputs, {"shift": 21, "top": 0})
    x = np.concatenate([np.full((1, 4096), 127, np.int8), np.zeros((1, 4096), np.int8)])
    weight = np.concatenate([x[:1], -x[:1], x[1:]])
    rest = (draw.multipliers(rng, 3), np.array([1, 0]))
    inputs = (x, draw.scales(rng, 2, 40), *planar(weight), *rest)
    for shift in (21, -40, 60):
        yield Example(f"extremes_shift_{shift}", inputs, {"shift": shift, "top": 0})


def planar(
    weight: npt.NDArray[np.int8],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.int16]]:
    """Return high, low and norms of int8 weights."""
    return *pack_planes(weight), planes.residual_norms(weight)
