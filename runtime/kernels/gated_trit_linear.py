"""GatedTritLinear: rows of weights are visited if the gate is open for one of the tokens."""

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._jit import kernel
from edgellm.runtime.kernels._scalar import Int, share, stack_int16
from edgellm.runtime.kernels.trit_linear import TILE, multiply_row


def is_open(gate: npt.NDArray[np.int32], n: Int) -> np.bool_:
    """Tell whether a row is wanted by one of the tokens."""
    most = gate[0, n]
    for t in range(1, gate.shape[0]):
        most = max(most, gate[t, n])
    return most > 0


@kernel("GatedTritLinear", split="columns")
def gated_trit_linear(
    thread: int,
    threads: int,
    x: npt.NDArray[np.int8],  # (T, K)
    packed: npt.NDArray[np.uint8],  # (N, B)
    gate: npt.NDArray[np.int32],  # (T, N)
    acc: npt.NDArray[np.int32],  # (T, N)
) -> None:
    """Split by output features."""
    begin, end = share(packed.shape[0], thread, threads)
    weights = stack_int16(TILE)
    for n in range(begin, end):
        if is_open(gate, n):
            multiply_row(x, packed, n, weights, acc)
        for t in range(x.shape[0]):
            acc[t, n] = acc[t, n] if gate[t, n] > 0 else 0
