"""LookUpBitLinear: sums of four activations are looked up instead of multiplied (T-MAC)."""

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._bit_planes import SPAN, TABLES, fill_tables, sum_of
from edgellm.runtime.kernels._jit import kernel
from edgellm.runtime.kernels._scalar import share, stack_int16
from edgellm.ternary_planes import ROWS


def add_chosen(
    packed: npt.NDArray[np.uint8], tables: npt.NDArray[np.int16], sums: npt.NDArray[np.int32]
) -> None:
    """Add what both planes of some octets, (C, 64, 2), choose to the sums of 64 rows."""
    for octet in range(packed.shape[0]):
        low = tables[octet * 32 : octet * 32 + 16]
        high = tables[octet * 32 + 16 : octet * 32 + 32]
        for row in range(ROWS):
            first, second = packed[octet, row, 0], packed[octet, row, 1]
            lower = low[first & 15] + low[second & 15]
            sums[row] += np.int32(lower) + np.int32(high[first >> 4] + high[second >> 4])


@kernel("LookUpBitLinear")
def look_up_bit_linear(
    thread: int,
    threads: int,
    x: npt.NDArray[np.int8],  # (T, K)
    packed: npt.NDArray[np.uint8],  # (B, C, 64, 2)
    acc: npt.NDArray[np.int32],  # (T, 64 * B)
) -> None:
    """Split by blocks of 64 outputs; ``w . x`` is what both planes choose less the sum of x."""
    begin, end = share(packed.shape[0], thread, threads)
    tables = stack_int16(TABLES)
    for t in range(x.shape[0]):
        for first in range(0, x.shape[1], SPAN):
            part = x[t][first : first + SPAN]
            fill_tables(part, tables)
            total = sum_of(part)
            for block in range(begin, end):
                sums = acc[t][block * ROWS : block * ROWS + ROWS]
                for row in range(ROWS):
                    sums[row] = (sums[row] if first > 0 else np.int32(0)) - total
                octets = packed[block][first // 8 : (first + part.shape[0] + 7) // 8]
                add_chosen(octets, tables, sums)
