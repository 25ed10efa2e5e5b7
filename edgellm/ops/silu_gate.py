"""SiluGate: silu(gate) * up in fixed point, element by element (SwiGLU of Llama).

The sigmoid is the two-branch form 1/(1+e) or e/(1+e) with e = 2^-(|x| log2 e) from a table of 256
entries, so it saturates nowhere and depends on no other element of the row.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellm.ops import _body_integers as graph
from edgellm.ops import _examples as draw
from edgellm.ops._body import Body
from edgellm.ops._integers import INT32_MAX, round_shift
from edgellm.ops._ranges import FRAME
from edgellm.ops._schema import Example, OpSchema, Port
from edgellm.ops._sigmoid import SIGMOID_BITS, sigmoid, sigmoid_nodes
from edgellm.ops._work import elements

if TYPE_CHECKING:
    from onnx import FunctionProto

SCHEMA = OpSchema(
    name="SiluGate",
    inputs=(Port("gate", "int32", ("T", "N")), Port("up", "int32", ("T", "N"))),
    outputs=(Port("y", "int64", ("T", "N")),),
    attributes={"frame": FRAME},
)
work = elements("activation", binary=True)


def reference(
    gate: npt.NDArray[np.int32], up: npt.NDArray[np.int32], *, frame: int
) -> npt.NDArray[np.int64]:
    """Return ``gate * sigmoid(gate) * up``, whose fixed point is 2 * frame.

    Args:
        gate: (T, N), real value gate * 2^-frame, |gate| <= 2^31 - 1; 1 <= frame <= 31.
        up: (T, N) likewise.
        frame: fixed point of both.
    """
    x = gate.astype(np.int64)
    return round_shift(x * sigmoid(x, frame), SIGMOID_BITS) * up.astype(np.int64)


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators."""
    b = Body(SCHEMA)
    gate, up = b.inputs
    x = gate.to("int64")
    gated = x * sigmoid_nodes(x, b.attribute("frame"))
    return b.function(graph.round_shift(gated, SIGMOID_BITS) * up.to("int64"))


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    rng = np.random.default_rng(12)
    for tokens, columns in ((3, 64), (1, 1), (2, 7), (1, 65), (2, 172)):
        inputs = (draw.narrow(rng, 21, tokens, columns), draw.narrow(rng, 21, tokens, columns))
        yield Example(f"random_{tokens}x{columns}", inputs, {"frame": 18})
    zero = np.zeros((1, 9), np.int32)
    yield Example("zero_row", (zero, draw.narrow(rng, 21, 1, 9)), {"frame": 18})
    powers = [sign * (2**bit + near) for bit in range(31) for near in (-1, 0) for sign in (1, -1)]
    limits = np.array([[*powers, INT32_MAX, -INT32_MAX]], np.int32)
    for frame in (1, 12, 18, 31):
        up = draw.alternating(limits.shape[1], INT32_MAX, np.int32)[None]
        yield Example(f"saturation_frame_{frame}", (limits, up), {"frame": frame})
