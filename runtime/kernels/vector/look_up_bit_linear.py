"""LookUpBitLinear on a vector unit: 16 rows or more, four columns each, an instruction."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._bit_planes import sum_of_magnitudes
from edgellm.runtime.kernels._scalar import share, stack_int32, stack_uint8
from edgellm.runtime.kernels.simd._unit import VectorUnit
from edgellm.runtime.kernels.vector._ternary_look_ups import (
    STEP_TABLES,
    STEPS,
    fill_steps,
    look_up,
)
from edgellm.ternary_planes import ROWS

SPAN = 16_384
"""Columns of a token whose tables are made at once."""
MOST_STEPS = SPAN // 4 + 1
"""Steps that there is room for, two an octet: 128 KiB of tables."""
TABLES = MOST_STEPS * STEP_TABLES
MAX_TOKENS = 64


def build(unit: VectorUnit) -> Callable[..., None]:
    """Return the kernel."""
    add = look_up(unit)

    def look_up_bit_linear(
        thread: int,
        threads: int,
        x: npt.NDArray[np.int8],  # (T, K)
        packed: npt.NDArray[np.uint8],  # (B, C, 64, 2)
        acc: npt.NDArray[np.int32],  # (T, 64 * B)
    ) -> None:
        begin, end = share(packed.shape[0], thread, threads)
        tables, octets = stack_uint8(TABLES), stack_int32(MOST_STEPS)
        counts, starts = stack_int32(MAX_TOKENS), stack_int32(MAX_TOKENS)
        for column in range(0, x.shape[1], SPAN):
            part = x[:, column : column + SPAN]
            # Of a token; the table behind its last step is begun, but not used.
            room = 2 * ((part.shape[1] + 7) // 8)
            at_once = min((MOST_STEPS - 1) // room, MAX_TOKENS)
            for first in range(0, x.shape[0], at_once):
                tokens = min(at_once, x.shape[0] - first)
                for i in range(tokens):
                    row, place = part[first + i], i * room
                    starts[i] = -sum_of_magnitudes(row)
                    counts[i] = fill_steps(row, tables[place * STEP_TABLES :], octets[place:])
                for block in range(begin, end):
                    weights = packed[block, column // 8 :]
                    for i in range(tokens):
                        sums = acc[first + i, block * ROWS : block * ROWS + ROWS]
                        for n in range(ROWS):
                            sums[n] = starts[i] + (sums[n] if column > 0 else np.int32(0))
                        for step in range(0, counts[i], STEPS):
                            place = i * room + step
                            steps = min(STEPS, counts[i] - step)
                            table = tables[place * STEP_TABLES :]
                            add(weights, table, octets[place:], steps, sums)

    return look_up_bit_linear
