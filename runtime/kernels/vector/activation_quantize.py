"""ActivationQuantize on a vector unit."""

# mypy: disable-error-code="call-arg"
# An intrinsic is declared with the typing context as its first argument, and called without.

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from edgellm.ops._gelu import FRAME
from edgellm.runtime.kernels._scalar import Int, stack_int32, token_shift
from edgellm.runtime.kernels.activation_quantize import (
    BUMP,
    BUMP_TANH,
    MAX_COLUMNS,
    activate_columns,
)
from edgellm.runtime.kernels.simd._unit import VectorUnit
from edgellm.runtime.kernels.vector._requantized_rows import (
    activate_row_with,
    fits,
    largest_magnitude,
    write_codes,
)


def build(unit: VectorUnit) -> Callable[..., None]:
    """Return the kernel. Vectors are for GELU; ReLU has no table, and runs as it did."""
    activate_row = activate_row_with(unit)

    def activation_quantize(
        thread: int,
        threads: int,
        acc: npt.NDArray[np.int32],  # (T, N)
        scale: npt.NDArray[np.int32],  # (T, 2)
        multiplier: npt.NDArray[np.int32],  # (N,)
        bias: npt.NDArray[np.int32],  # (N,)
        codes: npt.NDArray[np.int8],  # (T, N)
        out_scale: npt.NDArray[np.int32],  # (T, 2)
        shift: int,
        activation: int,
    ) -> None:
        y = stack_int32(MAX_COLUMNS)[: acc.shape[1]]
        table = BUMP if activation == 1 else BUMP_TANH
        added: Int = largest_magnitude(bias)
        for t in range(thread, acc.shape[0], threads):
            mantissa, total = np.int64(scale[t, 0]), token_shift(np.int64(scale[t, 1]), shift)
            most, peak = np.int64(0), np.int64(0)
            if activation != 0:
                most, peak = activate_row(acc[t], multiplier, bias, table, y, mantissa, total)
            if activation == 0 or not fits(most, total, added):
                activate_columns(acc[t], multiplier, bias, y, (mantissa, total, activation))
                peak = largest_magnitude(y)
            write_codes(y, peak, codes[t], out_scale, (t, FRAME))

    return activation_quantize
