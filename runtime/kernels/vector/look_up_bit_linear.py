"""LookUpBitLinear on a vector unit: 16 rows or more, four columns each, an instruction."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._bit_planes import sum_of_magnitudes
from edgellm.runtime.kernels._scalar import share, stack_int32, stack_uint8
from edgellm.runtime.kernels.simd._unit import VectorUnit
from edgellm.runtime.kernels.vector._look_up_products import (
    ENDS,
    LEAST_SPAN,
    MAX_TOKENS,
    MORE,
    MORE_STEPS,
    TABLES,
    Tables,
    add_token,
    block_product,
    columns_at_once,
    has_room,
    tokens_beside,
)
from edgellm.ternary_planes import COLUMNS, ROWS


def build(unit: VectorUnit) -> Callable[..., None]:
    """Return the kernel."""
    multiply = block_product(unit)

    def look_up_bit_linear(
        thread: int,
        threads: int,
        x: npt.NDArray[np.int8],  # (T, K)
        packed: npt.NDArray[np.uint8],  # (B, C, 64, 2)
        acc: npt.NDArray[np.int32],  # (T, 64 * B)
    ) -> None:
        begin, end = share(packed.shape[0], thread, threads)
        tables = Tables(
            stack_uint8(TABLES),
            stack_uint8(MORE),
            stack_int32(MORE_STEPS),
            stack_int32(ENDS),
            stack_int32(MAX_TOKENS),
            tokens_beside(x.shape[0]),
        )
        span = columns_at_once(x.shape[0], 2 * LEAST_SPAN)
        for column in range(0, x.shape[1], span):
            part = x[:, column : column + span]
            octets = (part.shape[1] + COLUMNS - 1) // COLUMNS
            first = 0
            while first < x.shape[0]:
                count = 0
                while first + count < x.shape[0] and has_room(tables, count, octets):
                    add_token(tables, part[first + count], count)
                    if column == 0:
                        tables.starts[count] = -sum_of_magnitudes(x[first + count])
                    count += 1
                rows = acc[first : first + count]
                for block in range(begin, end):
                    keys = packed[block, column // COLUMNS :][:octets]
                    sums = rows[:, block * ROWS : block * ROWS + ROWS]
                    multiply(keys, tables, column == 0, sums)
                first += count

    return look_up_bit_linear
