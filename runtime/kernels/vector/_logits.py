"""What the logits heads share: products with chosen tokens, and the scaling of their sums."""

# mypy: disable-error-code="untyped-decorator"

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from numba.extending import register_jitable

from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._scalar import (
    INT32_MAX,
    Int,
    clamp,
    round_shift,
    token_multiplier,
    token_shift,
)
from edgellm.runtime.kernels.vector._products import Accumulators, Codes, Product, Weights

Rows = npt.NDArray[np.int64]
MultiplyRows = Callable[[Codes, Weights, Accumulators, Rows], None]


def run_length(rows: Rows, first: int) -> int:
    """Return how many rows from ``first`` follow each other."""
    count = 1
    while first + count < rows.shape[0] and rows[first + count] == rows[first] + count:
        count += 1
    return count


def of_rows(product: Product) -> MultiplyRows:
    """Return ``multiply(x, weight, acc, rows)``: the product of ``x[rows]``."""

    @register_jitable(**PART_POLICY)
    def multiply(x: Codes, weight: Weights, acc: Accumulators, rows: Rows) -> None:
        first = 0
        while first < rows.shape[0]:
            t = rows[first]
            count = run_length(rows, first)
            product(x[t : t + count], weight, acc[first : first + count])
            first += count

    return multiply


def scale_sums(
    sums: Accumulators,
    scale: npt.NDArray[np.int32],
    multiplier: npt.NDArray[np.int32],
    rows: Rows,
    shift: Int,
) -> None:
    """Turn the sums of ``x[rows]``, (R, n), into logits where they lie."""
    for r in range(rows.shape[0]):
        t = rows[r]
        total = token_shift(np.int64(scale[t, 1]), shift)
        for v in range(sums.shape[1]):
            combined = token_multiplier(np.int64(scale[t, 0]), multiplier[v])
            wide = np.int64(sums[r, v]) * combined
            sums[r, v] = clamp(round_shift(wide, total), -INT32_MAX, INT32_MAX)
