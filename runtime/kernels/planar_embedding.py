"""PlanarEmbedding: widen rows of an int8 table in planes, each with its own multiplier."""

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._jit import kernel
from edgellm.runtime.kernels._planes import recombine
from edgellm.runtime.kernels._scalar import round_shift, stack_int8

MAX_COLUMNS = 32_768


@kernel("PlanarEmbedding", split="rows")
def planar_embedding(
    thread: int,
    threads: int,
    ids: npt.NDArray[np.int64],  # (T,)
    high: npt.NDArray[np.uint8],  # (V, N / 2)
    low: npt.NDArray[np.uint8],  # (4, V, N / 8)
    multiplier: npt.NDArray[np.int32],  # (V,)
    hidden: npt.NDArray[np.int64],  # (T, N)
    shift: int,
) -> None:
    """Split by rows."""
    codes = stack_int8(MAX_COLUMNS)
    for t in range(thread, ids.shape[0], threads):
        factor = np.int64(multiplier[ids[t]])
        recombine(high[ids[t]], low, ids[t], codes)
        out = hidden[t]
        for n in range(out.shape[0]):
            out[n] = round_shift(codes[n] * factor, shift)
