"""GroupLinear on a vector unit."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._bit_planes import (
    ROWS,
    SUMS,
    add_group,
    first_row,
    last_row,
    sum_of,
    write_rounded,
)
from edgellm.runtime.kernels._scalar import share, stack_int8, stack_int32, stack_int64
from edgellm.runtime.kernels.simd._unit import VectorUnit
from edgellm.runtime.kernels.vector._look_ups import SHUFFLES, fill_shuffles, group_chooser


def build(unit: VectorUnit) -> Callable[..., None]:
    """Return the kernel."""
    choose = group_chooser(unit)

    def group_linear(
        thread: int,
        threads: int,
        x: npt.NDArray[np.int8],  # (T, K)
        planes: npt.NDArray[np.uint8],  # (B, C, P, 64)
        scale: npt.NDArray[np.int16],  # (G, N)
        zero: npt.NDArray[np.uint8],  # (G, N)
        acc: npt.NDArray[np.int32],  # (T, N)
        group_size: int,
        shift: int,
    ) -> None:
        begin, end = share(scale.shape[1], thread, threads)
        sums, totals = stack_int32(SUMS), stack_int64(ROWS)
        shuffles = stack_int8(SHUFFLES)
        for t in range(x.shape[0]):
            fill_shuffles(x[t], shuffles)
            for block in range(begin // ROWS, (end + ROWS - 1) // ROWS):
                first, last = first_row(block, begin), last_row(block, end)
                skipped = first % ROWS
                totals[:] = 0
                for group in range(scale.shape[0]):
                    start, stop = group * group_size, (group + 1) * group_size
                    octets = planes[block][start // 8 : stop // 8]
                    choose(octets, shuffles[start * 8 :], sums)
                    whole = sum_of(x[t][start:stop])
                    add_group(
                        sums[skipped:],
                        planes.shape[2],
                        (scale[group][first:last], zero[group][first:last], whole),
                        totals[skipped:],
                    )
                write_rounded(totals[skipped:], shift, acc[t][first:last])

    return group_linear
