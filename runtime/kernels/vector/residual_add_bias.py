"""ResidualAddBias on a vector unit."""

# mypy: disable-error-code="call-arg"
# An intrinsic is declared with the typing context as its first argument, and called without.

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._scalar import Int, token_shift
from edgellm.runtime.kernels.residual_add_bias import add_columns
from edgellm.runtime.kernels.simd._unit import VectorUnit
from edgellm.runtime.kernels.vector._requantized_rows import add_row, fits, largest_magnitude


def build(_unit: VectorUnit) -> Callable[..., None]:
    """Return the kernel."""

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
        added: Int = largest_magnitude(bias)
        for t in range(thread, acc.shape[0], threads):
            mantissa, total = np.int64(scale[t, 0]), token_shift(np.int64(scale[t, 1]), shift)
            most, most_x = add_row(x[t], acc[t], multiplier, bias, y[t], mantissa, total)
            if not fits(most, total, added + most_x):
                add_columns((x[t], acc[t]), multiplier, bias, y[t], (mantissa, total))

    return residual_add_bias
