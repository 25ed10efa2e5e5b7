"""GatedBitLinear: one token visits only the rows of weights whose gate is open."""

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._jit import kernel
from edgellm.runtime.kernels._scalar import share, stack_int16
from edgellm.runtime.kernels._ternary_rows import (
    PLANE,
    TILE,
    dot_planes,
    multiply_many,
    split_planes,
)


def multiply_open(
    x: npt.NDArray[np.int8],
    packed: npt.NDArray[np.uint8],
    gate: npt.NDArray[np.int32],
    acc: npt.NDArray[np.int32],
    scratch: npt.NDArray[np.int16],
) -> None:
    """Multiply one token with the open rows: ``w . x`` is ``(w + 1) . x`` less the sum of x."""
    acc[:] = 0
    for column in range(0, x.shape[0], TILE):
        total = split_planes(x[column : column + TILE], scratch)
        for n in range(packed.shape[0]):
            if gate[n] > 0:
                row = packed[n][column // 4 : column // 4 + PLANE]
                acc[n] += np.int32(dot_planes(row, scratch) - total)


def close(gate: npt.NDArray[np.int32], acc: npt.NDArray[np.int32]) -> None:
    """Set to 0 the accumulators of one token whose gate is closed."""
    for n in range(gate.shape[0]):
        acc[n] = acc[n] if gate[n] > 0 else np.int32(0)


@kernel("GatedBitLinear", split="columns")
def gated_bit_linear(
    thread: int,
    threads: int,
    x: npt.NDArray[np.int8],  # (T, K)
    packed: npt.NDArray[np.uint8],  # (N, B)
    gate: npt.NDArray[np.int32],  # (T, N)
    acc: npt.NDArray[np.int32],  # (T, N)
) -> None:
    """Split by output features."""
    begin, end = share(packed.shape[0], thread, threads)
    scratch = stack_int16(TILE)
    if x.shape[0] == 1:
        multiply_open(x[0], packed[begin:end], gate[0][begin:end], acc[0][begin:end], scratch)
        return
    multiply_many(x, packed[begin:end], acc, begin, scratch)
    for t in range(x.shape[0]):
        close(gate[t][begin:end], acc[t][begin:end])
