"""SquaredReluGate: relu(gate)^2 * up from raw accumulators, exact in int64 (BitNet b1.58 2B4T)."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellm.ops import _body_integers as graph
from edgellm.ops import _examples as draw
from edgellm.ops._body import Body
from edgellm.ops._integers import INT32_MAX, join_scale, product, split_scale
from edgellm.ops._ranges import EXPONENT, MANTISSA
from edgellm.ops._schema import Example, OpSchema, Port
from edgellm.ops._work import elements

if TYPE_CHECKING:
    from onnx import FunctionProto

SCHEMA = OpSchema(
    name="SquaredReluGate",
    inputs=(
        Port("gate", "int32", ("T", "N")),
        Port("up", "int32", ("T", "N")),
        Port("scale", "int32", ("T", "2")),
    ),
    outputs=(Port("y", "int64", ("T", "N")), Port("out_scale", "int32", ("T", "2"))),
    attributes={"multiplier_mantissa": MANTISSA, "multiplier_exponent": EXPONENT},
)
work = elements("activation", binary=True)

INPUT_LIMIT = 2_080_000
"""The largest input whose cube fits in int64; 127 * K is below it for K <= 16,377."""


def reference(
    gate: npt.NDArray[np.int32],
    up: npt.NDArray[np.int32],
    scale: npt.NDArray[np.int32],
    *,
    multiplier_mantissa: int,
    multiplier_exponent: int,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Return ``relu(gate)^2 * up`` and its scale ``scale^3 * multiplier``.

    Args:
        gate: (T, N) accumulators, clamped to +-2,080,000.
        up: (T, N) likewise.
        scale: (T, 2) of the activations that both were computed from.
        multiplier_mantissa: with its exponent, ``gate weight scale^2 * up weight scale``.
        multiplier_exponent: see there.
    """
    positive = np.clip(gate.astype(np.int64), 0, INPUT_LIMIT)
    y = positive * positive * np.clip(up.astype(np.int64), -INPUT_LIMIT, INPUT_LIMIT)
    token = split_scale(scale)
    cube = product(product(token, token), token)
    return y, join_scale(*product(cube, (multiplier_mantissa, multiplier_exponent)))


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators."""
    b = Body(SCHEMA)
    gate, up, scale = b.inputs
    positive = gate.to("int64").clip(0, INPUT_LIMIT)
    y = positive * positive * up.to("int64").clip(-INPUT_LIMIT, INPUT_LIMIT)
    token = graph.split_scale(scale)
    constant = (b.attribute("multiplier_mantissa"), b.attribute("multiplier_exponent"))
    cube = graph.product(graph.product(token, token), token)
    return b.function(y, graph.join_scale(*graph.product(cube, constant)))


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    rng = np.random.default_rng(11)
    attributes = {"multiplier_mantissa": 1_234_567_891, "multiplier_exponent": 44}
    for tokens, columns in ((3, 64), (1, 1), (2, 7), (1, 65), (2, 172)):
        inputs = (
            draw.narrow(rng, 18, tokens, columns),
            draw.narrow(rng, 18, tokens, columns),
            draw.scales(rng, tokens, 38),
        )
        yield Example(f"random_{tokens}x{columns}", inputs, attributes)
    zero = np.zeros((1, 9), np.int32)
    yield Example("zero_row", (zero, zero, draw.scales(rng, 1, 38)), attributes)
    limits = [-INT32_MAX - 1, -INPUT_LIMIT, -1, 0, 1, INPUT_LIMIT - 1, INPUT_LIMIT, INT32_MAX]
    gate, up = (grid.ravel() for grid in np.meshgrid(limits, limits))
    inputs = (gate.astype(np.int32)[None], up.astype(np.int32)[None], draw.scales(rng, 1, 38))
    yield Example("saturation", inputs, attributes)
    scale = np.array([[2**30, 30], [INT32_MAX, 61], [INT32_MAX, 31], [2**30 + 1, 90]], np.int32)
    ones = np.ones((4, 3), np.int32)
    for mantissa in (2**30, INT32_MAX):
        largest = {"multiplier_mantissa": mantissa, "multiplier_exponent": 31}
        yield Example(f"scale_times_{mantissa}", (ones, ones, scale), largest)
