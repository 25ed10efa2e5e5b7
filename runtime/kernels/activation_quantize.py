"""ActivationQuantize: accumulators to ReLU or GELU of them, as int8 codes of each row."""

import numpy as np
import numpy.typing as npt

from edgellm.ops._gelu import BUMP_BITS, ENTRIES, FRAME, GELU, GELU_TANH, STEP_BITS, bump_table
from edgellm.runtime.kernels._jit import kernel
from edgellm.runtime.kernels._rows import quantize_row
from edgellm.runtime.kernels._scalar import (
    INT32_MAX,
    clamp,
    round_shift,
    stack_int32,
    token_multiplier,
    token_shift,
)

BUMP = bump_table(GELU)
BUMP_TANH = bump_table(GELU_TANH)
MAX_COLUMNS = 65_536

Ints = npt.NDArray[np.int32]


def subtract_bump(row: Ints, table: npt.NDArray[np.int16]) -> None:
    """Replace each x of a row by ``relu(x) - bump(|x|)``."""
    for n in range(row.shape[0]):
        x = np.int64(row[n])
        index = min(round_shift(abs(x), FRAME - STEP_BITS), ENTRIES - 1)
        row[n] = max(x, 0) - (np.int64(table[index]) << (FRAME - BUMP_BITS))


@kernel("ActivationQuantize", split="rows")
def activation_quantize(
    thread: int,
    threads: int,
    acc: Ints,  # (T, N)
    scale: Ints,  # (T, 2)
    multiplier: Ints,  # (N,)
    bias: Ints,  # (N,)
    codes: npt.NDArray[np.int8],  # (T, N)
    out_scale: Ints,  # (T, 2)
    shift: int,
    activation: int,
) -> None:
    """Split by rows."""
    scratch = stack_int32(MAX_COLUMNS)
    for t in range(thread, acc.shape[0], threads):
        mantissa = np.int64(scale[t, 0])
        total = token_shift(np.int64(scale[t, 1]), shift)
        lowest = 0 if activation == 0 else -INT32_MAX
        row, out = acc[t], scratch[: acc.shape[1]]
        for n in range(row.shape[0]):
            wide = round_shift(np.int64(row[n]) * token_multiplier(mantissa, multiplier[n]), total)
            out[n] = clamp(wide + np.int64(bias[n]), lowest, INT32_MAX)
        if activation == 1:
            subtract_bump(out, BUMP)
        elif activation == 2:
            subtract_bump(out, BUMP_TANH)
        quantize_row(out, codes[t], out_scale, t, FRAME)
