"""HeadRmsNorm: RMSNorm of each attention head, fixed point in and out (query/key norm of Qwen3)."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellm.ops import _body_integers as graph
from edgellm.ops import _examples as draw
from edgellm.ops._body import Body
from edgellm.ops._body_norms import norm_scale as norm_scale_nodes
from edgellm.ops._integers import INT32_MAX, bit_length, round_shift, saturate
from edgellm.ops._norms import norm_scale, row_sum_of_squares
from edgellm.ops._ranges import FRAME, NORM
from edgellm.ops._schema import Example, OpSchema, Port
from edgellm.ops._use import Demands, Use, divides
from edgellm.ops._work import elements

if TYPE_CHECKING:
    from onnx import FunctionProto

SCHEMA = OpSchema(
    name="HeadRmsNorm",
    inputs=(Port("x", "int32", ("T", "M")), Port("weight", "int16", ("D",))),
    outputs=(Port("y", "int32", ("T", "M")),),
    attributes={"frame": FRAME, **NORM},
)
work = elements("norm", "T", "M")


def demands(use: Use) -> Demands:
    """Demand rows of whole heads."""
    return [(divides(use.sizes["D"], use.sizes["M"]), "a row is whole heads")]


ROW_BITS = 16
"""Heads are shifted to 16 bits: x*weight <= 2^31 then, and its product with a mantissa <= 2^62."""


def reference(
    x: npt.NDArray[np.int32],
    weight: npt.NDArray[np.int16],
    *,
    frame: int,
    epsilon_mantissa: int,
    epsilon_exponent: int,
    gain_mantissa: int,
    gain_exponent: int,
) -> npt.NDArray[np.int32]:
    """Return ``x * weight / rms`` of each head, saturated to +-(2^31 - 1).

    Args:
        x: (T, M) with M a multiple of D; its real value is x * 2^-frame.
        weight: (D,) the norm weights in a fixed point of their own.
        frame: fixed point of x.
        epsilon_mantissa: with its exponent, ``eps * D`` as a dyadic scale.
        epsilon_exponent: see there.
        gain_mantissa: with its exponent, ``sqrt(D) * weight_unit * 2^(fixed point of y)``.
        gain_exponent: see there.
    """
    heads = x.astype(np.int64).reshape(-1, weight.shape[0])
    peak = np.abs(heads).max(axis=1, keepdims=True)
    shift = np.maximum(bit_length(peak) - ROW_BITS, 0)
    rows = round_shift(heads, shift)
    squares = row_sum_of_squares(rows)
    one = np.ones_like(peak)
    unit = (one << 30, one * (30 + frame))
    epsilon = (epsilon_mantissa, epsilon_exponent)
    gain = (gain_mantissa, gain_exponent)
    mantissa, exponent = norm_scale(one, squares, unit, shift, epsilon, gain)
    weighted = rows * weight.astype(np.int64)
    y = round_shift(weighted * mantissa, np.clip(exponent, 1, 62))
    return saturate(y, INT32_MAX).astype(np.int32).reshape(x.shape)


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators."""
    b = Body(SCHEMA)
    x, weight = b.inputs
    heads = x.to("int64").reshape(-1, weight.size(0))
    shift = (graph.bit_length(heads.abs().row_max()) - ROW_BITS).at_least(0)
    rows = graph.round_shift(heads, shift)
    squares = (rows * rows).row_sum()
    unit = (b.constant(1 << 30), b.attribute("frame") + 30)
    epsilon = (b.attribute("epsilon_mantissa"), b.attribute("epsilon_exponent"))
    gain = (b.attribute("gain_mantissa"), b.attribute("gain_exponent"))
    one = b.constant([[1]])
    mantissa, exponent = norm_scale_nodes(one, squares, unit, shift, epsilon, gain)
    weighted = rows * weight.to("int64")
    y = graph.round_shift(weighted * mantissa, exponent.clip(1, 62))
    wide = graph.saturate(y, INT32_MAX).reshape(x.size(0), x.size(1))
    return b.function(wide.to("int32"))


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    rng = np.random.default_rng(10)
    for tokens, heads, dim in ((3, 2, 8), (1, 1, 1), (2, 3, 7), (1, 4, 80), (1, 1, 65)):
        inputs = (draw.narrow(rng, 22, tokens, heads * dim), draw.norm_weights(rng, dim))
        yield Example(f"random_{tokens}x{heads}x{dim}", inputs, _attributes(dim))
    x = draw.narrow(rng, 22, 2, 24)
    x[0, 8:16] = 0
    yield Example("zero_head", (x, draw.norm_weights(rng, 8)), _attributes(8))
    tiny = np.array([[1, 0, -1, 0, 3, -2, 1, 0, 0, 1, -40, 3]], np.int32)
    yield Example("epsilon_beside_tiny_heads", (tiny, draw.norm_weights(rng, 4)), _attributes(4))
    yield Example("no_epsilon", (tiny, draw.norm_weights(rng, 4)), _attributes(4, epsilon=0.0))
    ends = np.array([[-INT32_MAX - 1, INT32_MAX, -INT32_MAX, 0, INT32_MAX, 1, 2, 3]], np.int32)
    weight = np.array([-(2**15), 2**15 - 1, 2**12, 1], np.int16)
    for frame in (12, 26, 40, 50, -40):
        yield Example(f"saturation_frame_{frame}", (ends, weight), _attributes(4, frame=frame))


def _attributes(dim: int, *, epsilon: float = 1e-6, frame: int = 18) -> dict[str, int]:
    """Return the attributes for weights in Q12, x in frame 18 and y in ``frame``."""
    gain = math.sqrt(dim) * 2.0**-12 * 2.0**frame
    return {"frame": 18, **draw.norm_attributes(epsilon * dim, gain)}
