"""RequantizeBias on a vector unit."""

# mypy: disable-error-code="call-arg"
# An intrinsic is declared with the typing context as its first argument, and called without.

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._scalar import Int, share, token_shift
from edgellm.runtime.kernels.requantize_bias import requantize_columns
from edgellm.runtime.kernels.simd._unit import VectorUnit
from edgellm.runtime.kernels.vector._requantized_rows import (
    fits,
    largest_magnitude,
    requantize_row,
)


def build(_unit: VectorUnit) -> Callable[..., None]:
    """Return the kernel."""

    def requantize_bias(
        thread: int,
        threads: int,
        acc: npt.NDArray[np.int32],  # (T, N)
        scale: npt.NDArray[np.int32],  # (T, 2)
        multiplier: npt.NDArray[np.int32],  # (N,)
        bias: npt.NDArray[np.int32],  # (N,)
        y: npt.NDArray[np.int32],  # (T, N)
        shift: int,
    ) -> None:
        begin, end = share(multiplier.shape[0], thread, threads)
        channel, offset = multiplier[begin:end], bias[begin:end]
        added: Int = largest_magnitude(offset)
        for t in range(acc.shape[0]):
            mantissa, total = np.int64(scale[t, 0]), token_shift(np.int64(scale[t, 1]), shift)
            row, out = acc[t][begin:end], y[t][begin:end]
            most = requantize_row(row, channel, offset, out, mantissa, total)
            if not fits(most, total, added):
                requantize_columns(row, channel, offset, out, (mantissa, total))

    return requantize_bias
