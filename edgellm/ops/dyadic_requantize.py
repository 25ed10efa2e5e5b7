"""DyadicRequantize: sums to int8 codes of a scale that is known, with one multiplier a channel.

A multiplier is the dyadic number m * 2^-shift nearest to scale of the sums / scale of the codes, as
in I-ViT and I-BERT. There the product is a float64 and rounded half to even; here it is an exact
int64 and rounded half up, which differs on ties only.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellm.ops import _body_integers as graph
from edgellm.ops import _examples as draw
from edgellm.ops._body import Body
from edgellm.ops._integers import INT32_MAX, Int64, round_shift
from edgellm.ops._ranges import RIGHT_SHIFT
from edgellm.ops._schema import Example, OpSchema, Port
from edgellm.ops._work import elements

if TYPE_CHECKING:
    from onnx import FunctionProto

SCHEMA = OpSchema(
    name="DyadicRequantize",
    inputs=(
        Port("acc", "int32", ("T", "N")),
        Port("multiplier", "int32", ("N",)),
        Port("offset", "int64", ("N",)),
    ),
    outputs=(Port("codes", "int8", ("T", "N")),),
    attributes={"shift": RIGHT_SHIFT, "low": (-127, 0)},
)
work = elements("requantize")

CODE_LIMIT = 127
OFFSET_LIMIT = 2**61


def reference(
    acc: npt.NDArray[np.int32],
    multiplier: npt.NDArray[np.int32],
    offset: npt.NDArray[np.int64],
    *,
    shift: int,
    low: int,
) -> npt.NDArray[np.int8]:
    """Return ``(acc * multiplier + offset) * 2^-shift``, rounded once, clamped to [low, 127].

    Args:
        acc: (T, N) int32.
        multiplier: (N,) of either sign: a norm weight may be negative.
        offset: (N,) a bias times the multiplier; |offset| <= 2^61, so the sum is below 2^63.
        shift: 1 to 62.
        low: -127, or 0 for ReLU.
    """
    return dyadic(acc, multiplier, offset, shift).clip(low, CODE_LIMIT).astype(np.int8)


def dyadic(
    acc: npt.NDArray[np.int32],
    multiplier: npt.NDArray[np.int32],
    offset: npt.NDArray[np.int64],
    shift: int,
) -> Int64:
    """Return the result before it is clamped."""
    return round_shift(acc.astype(np.int64) * multiplier + offset, shift)


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators."""
    b = Body(SCHEMA)
    acc, multiplier, offset = b.inputs
    wide = acc.to("int64") * multiplier.to("int64") + offset
    codes = graph.round_shift(wide, b.attribute("shift"))
    return b.function(codes.at_most(CODE_LIMIT).at_least(b.attribute("low")).to("int8"))


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    rng = np.random.default_rng(44)
    for tokens, columns in ((3, 64), (1, 1), (2, 7), (1, 65), (5, 172)):
        for low in (-CODE_LIMIT, 0):
            attributes = {"shift": 45, "low": low}
            yield Example(
                f"random_{tokens}x{columns}_{low}", random(rng, tokens, columns), attributes
            )
    golden = np.array([[1000], [-1000], [20000], [-33784], [135]], np.int32)
    one = np.array([2034096511], np.int32)
    attributes = {"shift": 39, "low": -CODE_LIMIT}
    yield Example("golden", (golden, one, np.zeros(1, np.int64)), attributes)
    ties = np.array([[-6], [-2], [2], [6]], np.int32)
    inputs = (ties, np.array([1], np.int32), np.zeros(1, np.int64))
    yield Example("ties", inputs, {"shift": 2, "low": -CODE_LIMIT})
    for shift in (1, 62):
        yield Example(f"extremes_shift_{shift}", extremes(), {"shift": shift, "low": -CODE_LIMIT})


def random(
    rng: np.random.Generator, tokens: int, columns: int
) -> tuple[npt.NDArray[np.generic], ...]:
    """Return sums, multipliers of either sign, and offsets of some codes of shift 45."""
    sign = rng.choice(np.array([-1, 1], np.int32), columns)
    return (
        draw.narrow(rng, 20, tokens, columns),
        draw.multipliers(rng, columns) * sign,
        draw.wide(rng, 50, columns),
    )


def extremes() -> tuple[npt.NDArray[np.generic], ...]:
    """Return the largest magnitudes."""
    acc = np.array([[-INT32_MAX - 1, -INT32_MAX, -1, 0, 1, INT32_MAX]] * 2, np.int32)
    multiplier = draw.alternating(6, INT32_MAX, np.int32)
    return acc, multiplier, draw.alternating(6, OFFSET_LIMIT, np.int64)
