"""ShiftAddLinear on a vector unit."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._bit_planes import (
    ROWS,
    SUMS,
    first_row,
    last_row,
    sum_of,
    write_rounded,
)
from edgellm.runtime.kernels._scalar import share, stack_int8, stack_int32, stack_int64
from edgellm.runtime.kernels.simd._unit import VectorUnit
from edgellm.runtime.kernels.vector._code_products import LEAST_TOKENS
from edgellm.runtime.kernels.vector._code_sums import MAX_GROUPS
from edgellm.runtime.kernels.vector._level_products import fits_levels, level_products
from edgellm.runtime.kernels.vector._look_ups import SHUFFLES, fill_shuffles, group_chooser
from edgellm.runtime.kernels.vector._shift_terms import add_group_terms
from edgellm.runtime.kernels.vector._views import fetch


def build(unit: VectorUnit) -> Callable[..., None]:
    """Return the kernel."""
    choose, products = group_chooser(unit), level_products(unit)

    def shift_add_linear(
        thread: int,
        threads: int,
        x: npt.NDArray[np.int8],  # (T, K)
        planes: npt.NDArray[np.uint8],  # (B, C, P, 64)
        terms: npt.NDArray[np.uint8],  # (G, P, S, N)
        acc: npt.NDArray[np.int32],  # (T, N)
        group_size: int,
        shift: int,
    ) -> None:
        begin, end = share(terms.shape[3], thread, threads)
        many, groups = x.shape[0] >= LEAST_TOKENS, terms.shape[0]
        for block in range(begin // ROWS, (end + ROWS - 1) // ROWS):
            place = (first_row(block, begin), last_row(block, end))
            many = many and fits_levels(terms, place[0], place[1])
        if many:
            products(x, planes, terms, acc, (begin, end), (group_size, shift))
        sums, totals = stack_int32(SUMS), stack_int64(ROWS)
        shuffles, whole = stack_int8(SHUFFLES), stack_int32(MAX_GROUPS)
        for t in range(0 if many else x.shape[0]):
            fill_shuffles(x[t], shuffles)
            for group in range(groups):
                whole[group] = sum_of(x[t][group * group_size : (group + 1) * group_size])
            for block in range(begin // ROWS, (end + ROWS - 1) // ROWS):
                first, last = first_row(block, begin), last_row(block, end)
                totals[:] = 0
                for group in range(groups):
                    for plane in range(terms.shape[1]):
                        for term in range(terms.shape[2]):
                            fetch(terms[min(group + 2, groups - 1), plane, term][first:last])
                    start, stop = group * group_size, (group + 1) * group_size
                    choose(planes[block][start // 8 : stop // 8], shuffles[start * 8 :], sums)
                    add_group_terms(
                        sums[first % ROWS :],
                        (whole[group], group_size),
                        terms[group],
                        (first, last),
                        totals[first % ROWS :],
                    )
                write_rounded(totals[first % ROWS :], shift, acc[t][first:last])

    return shift_add_linear
