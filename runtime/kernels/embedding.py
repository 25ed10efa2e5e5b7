"""Embedding: widen rows of an int8 table, each with its own multiplier."""

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._jit import kernel
from edgellm.runtime.kernels._scalar import round_shift, share


@kernel("Embedding")
def embedding(
    thread: int,
    threads: int,
    ids: npt.NDArray[np.int64],  # (T,)
    table: npt.NDArray[np.int8],  # (V, N)
    multiplier: npt.NDArray[np.int32],  # (V,)
    hidden: npt.NDArray[np.int64],  # (T, N)
    shift: int,
) -> None:
    """Split by columns."""
    begin, end = share(table.shape[1], thread, threads)
    for t in range(ids.shape[0]):
        factor = np.int64(multiplier[ids[t]])
        codes = table[ids[t]][begin:end]
        out = hidden[t][begin:end]
        for n in range(codes.shape[0]):
            out[n] = round_shift(codes[n] * factor, shift)
