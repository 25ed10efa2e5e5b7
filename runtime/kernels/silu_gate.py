"""SiluGate: silu(gate) * up in fixed point, element by element."""

import numpy as np
import numpy.typing as npt

from edgellm.ops._sigmoid import LOGIT_BITS, SIGMOID_BITS
from edgellm.runtime.kernels._jit import kernel
from edgellm.runtime.kernels._scalar import round_shift, share
from edgellm.runtime.kernels._sigmoid import sigmoid


@kernel("SiluGate", split="columns")
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
            activated = np.int32(round_shift(x * sigmoid(x, shift), SIGMOID_BITS))
            out[n] = np.int64(activated) * np.int64(ups[n])
