"""Int4LogitsHead: int32 logits of the chosen rows, from weights of 4 bits."""

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._dot import dot
from edgellm.runtime.kernels._int4 import unpack_row
from edgellm.runtime.kernels._jit import kernel
from edgellm.runtime.kernels._scalar import (
    INT32_MAX,
    clamp,
    round_shift,
    share,
    stack_int8,
    token_multiplier,
    token_shift,
)

MAX_COLUMNS = 32_768


@kernel("Int4LogitsHead")
def int4_logits_head(
    thread: int,
    threads: int,
    x: npt.NDArray[np.int8],  # (T, K)
    scale: npt.NDArray[np.int32],  # (T, 2)
    weight: npt.NDArray[np.uint8],  # (V, K / 2)
    multiplier: npt.NDArray[np.int32],  # (V,)
    rows: npt.NDArray[np.int64],  # (R,)
    logits: npt.NDArray[np.int32],  # (R, V)
    shift: int,
) -> None:
    """Split by vocabulary."""
    begin, end = share(weight.shape[0], thread, threads)
    row = stack_int8(MAX_COLUMNS)
    for v in range(begin, end):
        unpack_row(weight[v], row)
        for r in range(rows.shape[0]):
            t = rows[r]
            combined = token_multiplier(np.int64(scale[t, 0]), multiplier[v])
            wide = np.int64(dot(x[t], row)) * combined
            total = token_shift(np.int64(scale[t, 1]), shift)
            logits[r, v] = clamp(round_shift(wide, total), -INT32_MAX, INT32_MAX)
