"""CodebookLinear: each row of codes is looked up once for all tokens, then its outliers."""

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._dot import dot
from edgellm.runtime.kernels._jit import kernel
from edgellm.runtime.kernels._row_codes import MAX_COLUMNS, add_outliers, unpack_row
from edgellm.runtime.kernels._scalar import share, stack_int8


@kernel("CodebookLinear", split="columns")
def codebook_linear(
    thread: int,
    threads: int,
    x: npt.NDArray[np.int8],  # (T, K)
    codes: npt.NDArray[np.uint8],  # (N, B)
    levels: npt.NDArray[np.int8],  # (N, G, L)
    offsets: npt.NDArray[np.int32],  # (R,)
    columns: npt.NDArray[np.int16],  # (Z,)
    values: npt.NDArray[np.int16],  # (Z,)
    acc: npt.NDArray[np.int32],  # (T, N)
    group_size: int,
) -> None:
    """Split by output features."""
    begin, end = share(codes.shape[0], thread, threads)
    row = stack_int8(MAX_COLUMNS)
    for n in range(begin, end):
        unpack_row(codes[n], levels[n], group_size, row)
        for t in range(x.shape[0]):
            acc[t, n] = dot(x[t], row)
    if offsets.shape[0] > 1:
        add_outliers(x, (offsets, columns, values), acc, (begin, end))
