"""DyadicAdd: the sum of two tensors of known scales in a third one."""

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._jit import kernel
from edgellm.runtime.kernels._scalar import clamp, round_shift

Ints = npt.NDArray[np.int32]


@kernel("DyadicAdd", split="rows")
def dyadic_add(
    thread: int,
    threads: int,
    x: Ints,  # (T, N)
    y: Ints,  # (T, N)
    out: Ints,  # (T, N)
    x_mantissa: int,
    x_shift: int,
    y_mantissa: int,
    y_shift: int,
    bits: int,
) -> None:
    """Split by rows."""
    limit = (1 << (bits - 1)) - 1
    for t in range(thread, x.shape[0], threads):
        first, second, row = x[t], y[t], out[t]
        for n in range(row.shape[0]):
            total = round_shift(np.int64(first[n]) * x_mantissa, x_shift)
            total += round_shift(np.int64(second[n]) * y_mantissa, y_shift)
            row[n] = clamp(total, -limit, limit)
