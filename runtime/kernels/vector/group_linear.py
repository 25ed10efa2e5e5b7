"""GroupLinear on a vector unit."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._bit_planes import (
    ROWS,
    add_group,
    first_row,
    last_row,
    sum_of,
    write_rounded,
)
from edgellm.runtime.kernels._scalar import share, stack_int8, stack_int32, stack_int64
from edgellm.runtime.kernels.simd._unit import VectorUnit
from edgellm.runtime.kernels.vector._code_products import LEAST_TOKENS, fits_bytes, group_products
from edgellm.runtime.kernels.vector._code_sums import MAX_GROUPS, code_sums
from edgellm.runtime.kernels.vector._views import fetch


def build(unit: VectorUnit) -> Callable[..., None]:
    """Return the kernel."""
    sums, products = code_sums(unit), group_products(unit)
    prepare, multiply, whole_block = sums.prepare, sums.multiply, sums.whole_block
    room, column_bytes = sums.room, sums.column_bytes

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
        groups = scale.shape[0]
        if x.shape[0] >= LEAST_TOKENS and fits_bytes(planes.shape[2], zero, begin, end):
            products(x, planes, (scale, zero), acc, (begin, end), (group_size, shift))
            return
        codes, totals = stack_int32(ROWS), stack_int64(ROWS)
        prepared, whole = stack_int8(room), stack_int32(MAX_GROUPS)
        for t in range(x.shape[0]):
            prepare(x[t], prepared)
            for group in range(groups):
                whole[group] = sum_of(x[t][group * group_size : (group + 1) * group_size])
            for block in range(begin // ROWS, (end + ROWS - 1) // ROWS):
                first, last = first_row(block, begin), last_row(block, end)
                numbers = (group_size // 8, block * ROWS)
                if whole_block(planes[block], prepared, whole, (scale, zero), numbers, totals):
                    write_rounded(totals[first % ROWS :], shift, acc[t][first:last])
                    continue
                totals[:] = 0
                for group in range(groups):
                    ahead = min(group + 2, groups - 1)
                    fetch(scale[ahead][first:last])
                    fetch(scale[ahead][first + ROWS // 2 : last])
                    fetch(zero[ahead][first:last])
                    start, stop = group * group_size, (group + 1) * group_size
                    octets = planes[block][start // 8 : stop // 8]
                    multiply(octets, prepared[start * column_bytes :], codes)
                    add_group(
                        codes[first % ROWS :],
                        (scale[group][first:last], zero[group][first:last], whole[group]),
                        totals[first % ROWS :],
                    )
                write_rounded(totals[first % ROWS :], shift, acc[t][first:last])

    return group_linear
