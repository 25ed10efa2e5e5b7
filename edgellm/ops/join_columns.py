"""JoinColumns: the accumulators of a linear whose outputs two products compute, in their order."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellm.device import Move, Work
from edgellm.ops import _examples as draw
from edgellm.ops._body import Body
from edgellm.ops._schema import Example, OpSchema, Port
from edgellm.ops._use import Demands, Use
from edgellm.ops._work import Sizes

if TYPE_CHECKING:
    from onnx import FunctionProto

SCHEMA = OpSchema(
    name="JoinColumns",
    inputs=(
        Port("first", "int32", ("T", "A")),
        Port("second", "int32", ("T", "B")),
        Port("places", "uint8", ("P",)),
    ),
    outputs=(Port("acc", "int32", ("T", "A+B")),),
)


def work(sizes: Sizes) -> Work:
    """Return the bytes of the result."""
    return Move(bytes=4 * sizes["T"] * (sizes["A"] + sizes["B"]))


def demands(use: Use) -> Demands:
    """Demand columns of both parts, and a bit for each."""
    first, second = use.sizes["A"], use.sizes["B"]
    if not isinstance(first, int) or not isinstance(second, int):
        return [(False, "its parts have fixed sizes")]
    return [
        (first >= 1 and second >= 1, "both of its parts have columns"),
        (use.sizes["P"] == -(-(first + second) // 8), "it has a bit for every column"),
    ]


def reference(
    first: npt.NDArray[np.int32], second: npt.NDArray[np.int32], places: npt.NDArray[np.uint8]
) -> npt.NDArray[np.int32]:
    """Return the columns of both, each in their order, at the places that bits say.

    Rows of a weight that have other bits than the rest, or another kind of code, are a product of
    their own. Where there are more places than columns, the last column is taken again.

    Args:
        first: (T, A), A >= 1.
        second: (T, B), B >= 1.
        places: (P,), P = ceil((A + B) / 8): bit n & 7 of byte n >> 3 is 1 where column n of the
            result comes from ``second``.
    """
    count = first.shape[1] + second.shape[1]
    bits = np.unpackbits(places, bitorder="little")[:count].astype(np.int64)
    seen = np.cumsum(bits)
    from_first = np.minimum(np.arange(count) - seen, first.shape[1] - 1)
    from_second = np.minimum(seen - 1, second.shape[1] - 1)
    return np.where(bits, second[:, from_second], first[:, from_first])


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators."""
    b = Body(SCHEMA)
    first, second, places = b.inputs
    widths = first.size(1), second.size(1)
    shifts = b.constant(list(range(8)), "uint8").reshape(1, -1)
    flat = (places.unsqueeze(1).shift_right(shifts) & 1).to("int64").reshape(-1)
    ends = [b.constant([0]), widths[0] + widths[1]]
    bits = b.node("Slice", [flat, *ends], "int64")
    seen = b.node("CumSum", [bits, b.constant(0)], "int64")
    number = b.range(b.constant(0), bits.count(0))
    # a column of both that lie side by side
    from_first = (number - seen).at_least(0).at_most(widths[0] - 1)
    from_second = widths[0] + (seen - 1).at_most(widths[1] - 1)
    chosen = b.where(bits.equals(1), from_second, from_first)
    return b.function(b.concat([first, second], axis=1).take(chosen, axis=1))


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    rng = np.random.default_rng(51)
    for tokens, *widths in ((1, 1, 1), (1, 64, 128), (3, 65, 7), (19, 2, 131)):
        parts = [draw.narrow(rng, 31, tokens, width) for width in widths]
        bits = rng.permutation(np.repeat(np.arange(2, dtype=np.uint8), widths))
        places = np.packbits(bits, bitorder="little")
        yield Example(f"random_{tokens}x{widths[0]}+{widths[1]}", (*parts, places))
    parts = [draw.narrow(rng, 31, 2, width) for width in (13, 4)]
    for byte in (0, 0x5A, 0xFF):
        yield Example(f"places_{byte}", (*parts, np.full(3, byte, np.uint8)))
