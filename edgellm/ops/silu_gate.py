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
from edgellm.ops._integers import INT32_MAX, exp2_table, round_shift
from edgellm.ops._schema import Example, OpSchema, Port

if TYPE_CHECKING:
    from onnx import FunctionProto

SCHEMA = OpSchema(
    name="SiluGate",
    inputs=(Port("gate", "int32", ("T", "N")), Port("up", "int32", ("T", "N"))),
    outputs=(Port("y", "int64", ("T", "N")),),
    attributes=("frame",),
)

SIGMOID_BITS = 20
EXP2_TABLE = exp2_table(256, SIGMOID_BITS)
LOG2_E = 1549082005
"""log2(e) * 2^30, rounded."""
LOGIT_BITS = 12


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
    halvings = round_shift(np.abs(x) * LOG2_E, 30 + frame - LOGIT_BITS)  # below 2^62
    whole = np.minimum(halvings >> LOGIT_BITS, 62)
    entry = EXP2_TABLE[(halvings & (2**LOGIT_BITS - 1)) >> 4]
    e = (entry + ((np.int64(1) << whole) >> 1)) >> whole
    one = 1 << SIGMOID_BITS
    upper = ((one << SIGMOID_BITS) + ((one + e) >> 1)) // (one + e)
    sigmoid = np.where(x >= 0, upper, one - upper)
    return round_shift(x * sigmoid, SIGMOID_BITS) * up.astype(np.int64)


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators."""
    b = Body(SCHEMA)
    gate, up = b.inputs
    x = gate.to("int64")
    bits = b.attribute("frame") + (30 - LOGIT_BITS)
    halvings = graph.round_shift_positive(x.abs() * LOG2_E, bits)
    whole = halvings.shift_right(LOGIT_BITS).at_most(62)
    entry = b.constant(EXP2_TABLE).take((halvings & (2**LOGIT_BITS - 1)).shift_right(4))
    e = graph.round_shift_positive(entry, whole)
    one = 1 << SIGMOID_BITS
    upper = ((e + one).shift_right(1) + (one << SIGMOID_BITS)) // (e + one)
    sigmoid = b.where(x >= 0, upper, one - upper)
    return b.function(graph.round_shift(x * sigmoid, SIGMOID_BITS) * up.to("int64"))


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
