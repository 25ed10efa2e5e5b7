"""LogitsHead on a vector unit: an int8 product whose sums are scaled where they lie."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._scalar import (
    INT32_MAX,
    clamp,
    round_shift,
    share,
    token_multiplier,
    token_shift,
)
from edgellm.runtime.kernels.simd._unit import VectorUnit
from edgellm.runtime.kernels.vector._products import int8_product


def run_length(rows: npt.NDArray[np.int64], first: int) -> int:
    """Return how many rows from ``first`` follow each other."""
    count = 1
    while first + count < rows.shape[0] and rows[first + count] == rows[first] + count:
        count += 1
    return count


def build(unit: VectorUnit) -> Callable[..., None]:
    """Return the kernel."""
    product = int8_product(unit)

    def logits_head(
        thread: int,
        threads: int,
        x: npt.NDArray[np.int8],  # (T, K)
        scale: npt.NDArray[np.int32],  # (T, 2)
        weight: npt.NDArray[np.int8],  # (V, K)
        multiplier: npt.NDArray[np.int32],  # (V,)
        rows: npt.NDArray[np.int64],  # (R,)
        logits: npt.NDArray[np.int32],  # (R, V)
        shift: int,
    ) -> None:
        begin, end = share(weight.shape[0], thread, threads)
        first = 0
        while first < rows.shape[0]:
            t = rows[first]
            count = run_length(rows, first)
            out = logits[first : first + count, begin:end]
            product(x[t : t + count], weight[begin:end], out)
            first += count
        for r in range(rows.shape[0]):
            t = rows[r]
            total = token_shift(np.int64(scale[t, 1]), shift)
            for v in range(begin, end):
                combined = token_multiplier(np.int64(scale[t, 0]), multiplier[v])
                wide = np.int64(logits[r, v]) * combined
                logits[r, v] = clamp(round_shift(wide, total), -INT32_MAX, INT32_MAX)

    return logits_head
