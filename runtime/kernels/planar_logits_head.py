"""PlanarLogitsHead: int32 logits of the chosen rows from weights in planes; always all of them."""

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._dot import dot
from edgellm.runtime.kernels._jit import kernel
from edgellm.runtime.kernels._planes import recombine
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
MAX_PRUNED_ROWS = 8
"""Rows that are pruned; of more, all logits are computed."""


@kernel("PlanarLogitsHead", stages=2, notes=MAX_PRUNED_ROWS)
def planar_logits_head(
    thread: int,
    threads: int,
    x: npt.NDArray[np.int8],  # (T, K)
    scale: npt.NDArray[np.int32],  # (T, 2)
    high: npt.NDArray[np.uint8],  # (V, K / 2)
    low: npt.NDArray[np.uint8],  # (4, V, K / 8)
    norms: npt.NDArray[np.int16],  # (4, V)
    multiplier: npt.NDArray[np.int32],  # (V,)
    rows: npt.NDArray[np.int64],  # (R,)
    logits: npt.NDArray[np.int32],  # (R, V)
    shift: int,
    top: int,
    stage: int,
    notes: npt.NDArray[np.int64],
) -> None:
    """Split by vocabulary; all in the first stage."""
    if stage > 0:
        return
    begin, end = share(high.shape[0], thread, threads)
    weight = stack_int8(MAX_COLUMNS)
    for v in range(begin, end):
        recombine(high[v], low, v, weight)
        for r in range(rows.shape[0]):
            t = rows[r]
            combined = token_multiplier(np.int64(scale[t, 0]), multiplier[v])
            wide = np.int64(dot(x[t], weight)) * combined
            total = token_shift(np.int64(scale[t, 1]), shift)
            logits[r, v] = clamp(round_shift(wide, total), -INT32_MAX, INT32_MAX)
