"""ActivationQuantize: accumulators to ReLU or GELU of them, as int8 codes of each row."""

import numpy as np
import numpy.typing as npt

from edgellm.ops._gelu import BUMP_BITS, ENTRIES, FRAME, GELU, GELU_TANH, STEP_BITS, bump_table
from edgellm.runtime.kernels._jit import kernel
from edgellm.runtime.kernels._rows import quantize_row
from edgellm.runtime.kernels._scalar import (
    INT32_MAX,
    Int,
    round_shift,
    saturate,
    stack_int32,
    token_multiplier,
    token_shift,
)

# As the result needs them, and of 32 bits, which vector units gather.
BUMP, BUMP_TANH = (
    bump_table(kind).astype(np.int32) << (FRAME - BUMP_BITS) for kind in (GELU, GELU_TANH)
)
HALF_STEP = 1 << (FRAME - STEP_BITS - 1)
MAX_COLUMNS = 65_536

Ints = npt.NDArray[np.int32]


def subtract_bump(row: Ints, table: Ints) -> None:
    """Replace each x of a row by ``relu(x) - bump(|x|)``."""
    for n in range(row.shape[0]):
        x = row[n]
        size = np.uint32(np.uint32(abs(x)) + np.uint32(HALF_STEP)) >> np.uint32(FRAME - STEP_BITS)
        index = np.int32(min(np.uint32(size), np.uint32(ENTRIES - 1)))
        row[n] = np.int32(max(x, np.int32(0)) - table[index])


def activate_columns(
    row: Ints, multiplier: Ints, bias: Ints, out: Ints, scale: tuple[Int, Int, Int]
) -> None:
    """Write the activations of a row; ``scale`` is its mantissa, a shift, and which activation."""
    mantissa, total, activation = scale
    lowest = np.int32(0) if activation == 0 else np.int32(-INT32_MAX)
    for n in range(row.shape[0]):
        wide = round_shift(np.int64(row[n]) * token_multiplier(mantissa, multiplier[n]), total)
        out[n] = max(saturate(wide + np.int64(bias[n])), lowest)
    if activation == 1:
        subtract_bump(out, BUMP)
    elif activation == 2:
        subtract_bump(out, BUMP_TANH)


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
        row_scale = np.int64(scale[t, 0]), token_shift(np.int64(scale[t, 1]), shift), activation
        out = scratch[: acc.shape[1]]
        activate_columns(acc[t], multiplier, bias, out, row_scale)
        quantize_row(out, codes[t], out_scale, t, FRAME)
