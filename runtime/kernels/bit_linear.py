"""BitLinear: int8 activations times ternary weights in the layout ternary-2bit/v1."""

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


def multiply_one(
    x: npt.NDArray[np.int8],
    packed: npt.NDArray[np.uint8],
    acc: npt.NDArray[np.int32],
    scratch: npt.NDArray[np.int16],
) -> None:
    """Multiply one token with all rows: ``w . x`` is ``(w + 1) . x`` less the sum of x."""
    for column in range(0, x.shape[0], TILE):
        total = split_planes(x[column : column + TILE], scratch)
        for n in range(packed.shape[0]):
            row = packed[n][column // 4 : column // 4 + PLANE]
            part = np.int32(dot_planes(row, scratch) - total)
            acc[n] = part if column == 0 else acc[n] + part


@kernel("BitLinear", split="columns")
def bit_linear(
    thread: int,
    threads: int,
    x: npt.NDArray[np.int8],  # (T, K)
    packed: npt.NDArray[np.uint8],  # (N, B)
    acc: npt.NDArray[np.int32],  # (T, N)
) -> None:
    """Split by output features."""
    begin, end = share(packed.shape[0], thread, threads)
    scratch = stack_int16(TILE)
    if x.shape[0] == 1:
        multiply_one(x[0], packed[begin:end], acc[0][begin:end], scratch)
    else:
        multiply_many(x, packed[begin:end], acc, begin, scratch)
