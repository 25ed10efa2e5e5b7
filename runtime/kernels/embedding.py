"""Embedding: widen rows of an int8 table, each with its own multiplier."""

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._jit import kernel
from edgellm.runtime.kernels._scalar import round_shift


@kernel("Embedding", split="rows")
def embedding(
    thread: int,
    threads: int,
    ids: npt.NDArray[np.int64],  # (T,)
    table: npt.NDArray[np.int8],  # (V, N)
    multiplier: npt.NDArray[np.int32],  # (V,)
    hidden: npt.NDArray[np.int64],  # (T, N)
    shift: int,
) -> None:
    """Split by rows."""
    for t in range(thread, ids.shape[0], threads):
        factor = np.int64(multiplier[ids[t]])
        codes, out = table[ids[t]], hidden[t]
        for n in range(codes.shape[0]):
            out[n] = round_shift(codes[n] * factor, shift)
