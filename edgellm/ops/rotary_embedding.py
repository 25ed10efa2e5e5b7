"""RotaryEmbedding: rotate the halves of each head by the position (Hugging Face half-rotation)."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellm.graph_names import POSITIONS
from edgellm.ops import _body_integers as graph
from edgellm.ops import _examples as draw
from edgellm.ops._body import Body
from edgellm.ops._integers import INT32_MAX, round_shift, saturate
from edgellm.ops._schema import Example, OpSchema, Port
from edgellm.ops._use import Demands, Use, divides
from edgellm.ops._work import elements

if TYPE_CHECKING:
    from onnx import FunctionProto

SCHEMA = OpSchema(
    name="RotaryEmbedding",
    inputs=(
        Port("x", "int32", ("T", "M")),
        Port("position_ids", "int64", ("T",)),
        Port("cos", "int16", ("C", "P")),
        Port("sin", "int16", ("C", "P")),
    ),
    outputs=(Port("y", "int32", ("T", "M")),),
    tables=("C",),
)
work = elements("rotary", "T", "M")


def demands(use: Use) -> Demands:
    """Demand tables for all positions, and positions that the engine has checked."""
    rows, context = use.sizes["C"], use.context_length
    enough = isinstance(rows, int) and rows >= context
    return [
        (use.inputs[1] == POSITIONS, f"its positions are the input {POSITIONS}"),
        (enough, f"its tables have {context} positions or more"),
        (divides(use.sizes["P"], use.sizes["M"], 2), "a row is whole heads of two halves"),
    ]


TABLE_BITS = 14
"""cos and sin are Q14: Q15 could not hold cos 0 = 1."""


def reference(
    x: npt.NDArray[np.int32],
    position_ids: npt.NDArray[np.int64],
    cos: npt.NDArray[np.int16],
    sin: npt.NDArray[np.int16],
) -> npt.NDArray[np.int32]:
    """Return ``(x1*cos - x2*sin, x2*cos + x1*sin)``, one rounding after the sum, saturated.

    Args:
        x: (T, M), M a multiple of the head dimension 2 * P; x1 is the first half of a head.
        position_ids: (T,) rows of the tables, 0 <= position < C.
        cos: (C, P) Q14.
        sin: (C, P) Q14.
    """
    half = cos.shape[1]
    heads = x.astype(np.int64).reshape(x.shape[0], -1, 2, half)
    first, second = heads[:, :, 0], heads[:, :, 1]
    c = cos[position_ids].astype(np.int64)[:, None]
    s = sin[position_ids].astype(np.int64)[:, None]
    turned = np.stack([first * c - second * s, second * c + first * s], axis=2)
    return saturate(round_shift(turned, TABLE_BITS), INT32_MAX).astype(np.int32).reshape(x.shape)


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators."""
    b = Body(SCHEMA)
    x, position_ids, cos, sin = b.inputs
    heads = x.to("int64").reshape(x.size(0), -1, 2, cos.size(1))
    first, second = heads.take(0, axis=2), heads.take(1, axis=2)
    c = cos.take(position_ids).to("int64").unsqueeze(1)
    s = sin.take(position_ids).to("int64").unsqueeze(1)
    halves = [first * c - second * s, second * c + first * s]
    turned = b.concat([half.unsqueeze(2) for half in halves], axis=2)
    y = graph.saturate(graph.round_shift(turned, TABLE_BITS), INT32_MAX)
    return b.function(y.to("int32").reshape(x.size(0), x.size(1)))


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    rng = np.random.default_rng(13)
    for tokens, heads, half in ((3, 2, 4), (1, 1, 1), (2, 3, 40), (1, 5, 32), (5, 1, 3)):
        cos, sin = _tables(64, half)
        position_ids = rng.integers(0, 64, tokens)
        x = draw.narrow(rng, 22, tokens, heads * half * 2)
        yield Example(f"random_{tokens}x{heads}x{2 * half}", (x, position_ids, cos, sin))
    cos, sin = _tables(300, 4)
    first_and_last = np.array([0, 299])
    yield Example(
        "first_and_last_position", (draw.narrow(rng, 22, 2, 16), first_and_last, cos, sin)
    )
    yield Example("zero_row", (np.zeros((2, 8), np.int32), first_and_last, cos, sin))
    # An eighth of a turn makes the largest sum, sqrt(2) times its terms; below it, exact ties.
    eighth = np.array([[11_585, 11_585, 2**13, -(2**14)]], np.int16)
    corners = [[a, a, a, a, b, b, b, b] for a in _ENDS for b in _ENDS]
    rows = np.zeros(len(corners), np.int64)
    yield Example("saturation", (np.array(corners, np.int32), rows, eighth, eighth))


_ENDS = (-INT32_MAX - 1, -INT32_MAX, -1, 0, 1, INT32_MAX)


def _tables(positions: int, half: int) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int16]]:
    """Return cos and sin (positions, half) Q14 of the angles position * 10000^(-i / half)."""
    angles = np.arange(positions)[:, None] * 10_000.0 ** (-np.arange(half) / half)
    one = 2**TABLE_BITS
    return np.rint(np.cos(angles) * one).astype(np.int16), np.rint(np.sin(angles) * one).astype(
        np.int16
    )
