"""SiluGate: silu(gate) * up in fixed point, element by element (SwiGLU of Llama).

The sigmoid is the two-branch form 1/(1+e) or e/(1+e) with e = 2^-(|x| log2 e) from a table of 256
entries, so it saturates nowhere and depends on no other element of the row.
"""

import numpy as np
import numpy.typing as npt

from edgellm.ops._integers import exp2_table, round_shift
from edgellm.ops._schema import OpSchema, Port

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
