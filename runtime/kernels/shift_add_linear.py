"""ShiftAddLinear: look-ups in bit planes, then shifts and additions."""

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._bit_planes import (
    ROWS,
    SUMS,
    TABLES,
    choose_group,
    first_row,
    last_row,
    write_rounded,
)
from edgellm.runtime.kernels._jit import kernel
from edgellm.runtime.kernels._scalar import (
    share,
    stack_int16,
    stack_int32,
    stack_int64,
)
from edgellm.runtime.kernels._shift_alphas import add_alphas, fill_alphas


@kernel("ShiftAddLinear", split="cells")
def shift_add_linear(
    thread: int,
    threads: int,
    x: npt.NDArray[np.int8],  # (T, K)
    planes: npt.NDArray[np.uint8],  # (B, C, P, 64)
    alphas: npt.NDArray[np.uint8],  # (N, A)
    acc: npt.NDArray[np.int32],  # (T, N)
    group_size: int,
    shift: int,
    terms: int,
) -> None:
    """Split by output features."""
    begin, end = share(alphas.shape[0], thread, threads)
    groups = (x.shape[1] + group_size - 1) // group_size
    tables = stack_int16(TABLES)
    sums, scales = stack_int32(SUMS), stack_int32(SUMS)
    count = planes.shape[2]
    totals = stack_int64(ROWS)
    for block in range(begin // ROWS, (end + ROWS - 1) // ROWS):
        first, last = first_row(block, begin), last_row(block, end)
        for t in range(x.shape[0]):
            totals[:] = 0
            for group in range(groups):
                columns = x[t][group * group_size : (group + 1) * group_size]
                octets = planes[block][group * group_size // 8 : (group + 1) * group_size // 8]
                whole = choose_group(columns, octets, tables, sums)
                fill_alphas(alphas, group, (count, terms), (first, last), scales)
                own = totals[first % ROWS :][: last - first]
                add_alphas(sums[first % ROWS :], whole, count, scales, own)
            write_rounded(totals[first % ROWS :], shift, acc[t][first:last])
