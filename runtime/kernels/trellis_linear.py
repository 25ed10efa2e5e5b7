"""TrellisLinear: each row of weights is unpacked once for all tokens."""

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._dot import dot
from edgellm.runtime.kernels._jit import kernel
from edgellm.runtime.kernels._row_codes import MAX_COLUMNS, add_outliers
from edgellm.runtime.kernels._scalar import share, stack_int8, stack_int32
from edgellm.runtime.kernels._trellis_rows import fill_levels, unpack_row


@kernel("TrellisLinear", split="columns")
def trellis_linear(
    thread: int,
    threads: int,
    x: npt.NDArray[np.int8],  # (T, K)
    codes: npt.NDArray[np.uint8],  # (N, B)
    offsets: npt.NDArray[np.int32],  # (R,)
    columns: npt.NDArray[np.int16],  # (Z,)
    values: npt.NDArray[np.int16],  # (Z,)
    acc: npt.NDArray[np.int32],  # (T, N)
) -> None:
    """Split by output features."""
    begin, end = share(codes.shape[0], thread, threads)
    states, row = stack_int32(MAX_COLUMNS), stack_int8(MAX_COLUMNS)
    width, levels = x.shape[1], stack_int8(256)
    fill_levels(levels)
    for n in range(begin, end):
        unpack_row(codes, n, levels, states[:width], row[:width])
        for t in range(x.shape[0]):
            acc[t, n] = dot(x[t], row)
    if offsets.shape[0] > 1:
        add_outliers(x, (offsets, columns, values), acc, (begin, end))
