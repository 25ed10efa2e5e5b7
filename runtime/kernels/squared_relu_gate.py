"""SquaredReluGate: relu(gate)^2 * up from raw accumulators, exact in int64."""

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._jit import kernel
from edgellm.runtime.kernels._scalar import clamp, product, share, write_scale

INPUT_LIMIT = 2_080_000


@kernel("SquaredReluGate", split="columns")
def squared_relu_gate(
    thread: int,
    threads: int,
    gate: npt.NDArray[np.int32],  # (T, N)
    up: npt.NDArray[np.int32],  # (T, N)
    scale: npt.NDArray[np.int32],  # (T, 2)
    y: npt.NDArray[np.int64],  # (T, N)
    out_scale: npt.NDArray[np.int32],  # (T, 2)
    multiplier_mantissa: int,
    multiplier_exponent: int,
) -> None:
    """Split by columns; thread 0 also computes the scales."""
    begin, end = share(gate.shape[1], thread, threads)
    for t in range(gate.shape[0]):
        gates = gate[t][begin:end]
        ups = up[t][begin:end]
        out = y[t][begin:end]
        for n in range(gates.shape[0]):
            positive = clamp(np.int64(gates[n]), 0, INPUT_LIMIT)
            out[n] = positive * positive * clamp(np.int64(ups[n]), -INPUT_LIMIT, INPUT_LIMIT)
        if thread == 0:
            mantissa, exponent = np.int64(scale[t, 0]), np.int64(scale[t, 1])
            square = product(mantissa, exponent, mantissa, exponent)
            cube = product(square[0], square[1], mantissa, exponent)
            out_pair = product(cube[0], cube[1], multiplier_mantissa, multiplier_exponent)
            write_scale(out_scale, t, out_pair[0], out_pair[1])
