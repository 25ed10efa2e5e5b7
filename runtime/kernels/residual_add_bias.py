"""ResidualAddBias: requantise accumulators, add a bias and an int32 residual stream."""

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._jit import kernel
from edgellm.runtime.kernels._scalar import (
    Pair,
    round_shift,
    saturate,
    token_multiplier,
    token_shift,
)

Ints = npt.NDArray[np.int32]


def add_columns(
    terms: tuple[Ints, Ints], multiplier: Ints, bias: Ints, out: Ints, scale: Pair
) -> None:
    """Write a row of results.

    Args:
        terms: the rows of the stream and of the accumulators.
        multiplier: (N,).
        bias: (N,).
        out: (N,).
        scale: mantissa of the row, and the shift of its results.
    """
    (stream, row), (mantissa, total) = terms, scale
    for n in range(row.shape[0]):
        term = round_shift(np.int64(row[n]) * token_multiplier(mantissa, multiplier[n]), total)
        added = term + np.int64(bias[n]) + np.int64(stream[n])
        out[n] = saturate(added)


@kernel("ResidualAddBias", split="rows")
def residual_add_bias(
    thread: int,
    threads: int,
    x: npt.NDArray[np.int32],  # (T, N)
    acc: npt.NDArray[np.int32],  # (T, N)
    scale: npt.NDArray[np.int32],  # (T, 2)
    multiplier: npt.NDArray[np.int32],  # (N,)
    bias: npt.NDArray[np.int32],  # (N,)
    y: npt.NDArray[np.int32],  # (T, N)
    shift: int,
) -> None:
    """Split by rows."""
    for t in range(thread, acc.shape[0], threads):
        total = token_shift(np.int64(scale[t, 1]), shift)
        add_columns((x[t], acc[t]), multiplier, bias, y[t], (np.int64(scale[t, 0]), total))
