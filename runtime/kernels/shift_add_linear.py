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
)
from edgellm.runtime.kernels._jit import kernel
from edgellm.runtime.kernels._scalar import (
    INT32_MAX,
    clamp,
    round_shift,
    share,
    stack_int16,
    stack_int32,
    stack_int64,
)

MAX_EXPONENT = 31


def shifted(value: np.int64, term: np.uint8) -> np.int64:
    """Return ``value`` times a byte of the layout shift-terms/v1."""
    exponent = np.int64(term & 127) - 1
    if exponent < 0 or exponent > MAX_EXPONENT:
        return np.int64(0)
    return -(value << exponent) if term >> 7 else value << exponent


@kernel("ShiftAddLinear", split="columns")
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
    """Split by output features."""
    begin, end = share(terms.shape[3], thread, threads)
    tables = stack_int16(TABLES)
    sums = stack_int32(SUMS)
    totals = stack_int64(ROWS)
    for block in range(begin // ROWS, (end + ROWS - 1) // ROWS):
        first, last = first_row(block, begin), last_row(block, end)
        for t in range(x.shape[0]):
            totals[:] = 0
            for group in range(terms.shape[0]):
                columns = x[t][group * group_size : (group + 1) * group_size]
                octets = planes[block][group * group_size // 8 : (group + 1) * group_size // 8]
                whole = choose_group(columns, octets, tables, sums)
                for plane in range(planes.shape[2]):
                    for n in range(first, last):
                        chosen = np.int64(sums[plane * ROWS + n % ROWS])
                        signed = 2 * chosen - whole  # the bits mean +1 and -1
                        for term in range(terms.shape[2]):
                            byte = terms[group, plane, term, n]
                            totals[n % ROWS] += shifted(signed, byte)
            for n in range(first, last):
                value = round_shift(totals[n % ROWS], shift)
                acc[t, n] = clamp(value, -INT32_MAX, INT32_MAX)
