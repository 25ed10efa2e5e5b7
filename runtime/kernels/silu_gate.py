"""SiluGate: silu(gate) * up in fixed point, element by element."""

import numpy as np
import numpy.typing as npt

from edgellm.ops.silu_gate import EXP2_TABLE, LOG2_E, LOGIT_BITS, SIGMOID_BITS
from edgellm.runtime.kernels._jit import kernel
from edgellm.runtime.kernels._scalar import Int, round_shift, share

ONE = 1 << SIGMOID_BITS
FRACTION = (1 << LOGIT_BITS) - 1


def sigmoid(x: Int, shift: Int) -> Int:
    """Return the sigmoid of ``x``, SIGMOID_BITS fraction bits; ``shift`` leaves LOGIT_BITS of x."""
    halvings = round_shift(max(x, -x) * LOG2_E, shift)
    whole = min(halvings >> LOGIT_BITS, 62)
    entry: Int = EXP2_TABLE[(halvings & FRACTION) >> 4]
    e = (entry + ((1 << whole) >> 1)) >> whole
    upper: Int = ((ONE << SIGMOID_BITS) + ((ONE + e) >> 1)) // (ONE + e)
    return upper if x >= 0 else ONE - upper


@kernel("SiluGate")
def silu_gate(
    thread: int,
    threads: int,
    gate: npt.NDArray[np.int32],  # (T, N)
    up: npt.NDArray[np.int32],  # (T, N)
    y: npt.NDArray[np.int64],  # (T, N)
    frame: int,
) -> None:
    """Split by columns."""
    begin, end = share(gate.shape[1], thread, threads)
    shift = 30 + frame - LOGIT_BITS
    for t in range(gate.shape[0]):
        gates = gate[t][begin:end]
        ups = up[t][begin:end]
        out = y[t][begin:end]
        for n in range(gates.shape[0]):
            x = np.int64(gates[n])
            out[n] = round_shift(x * sigmoid(x, shift), SIGMOID_BITS) * ups[n]
