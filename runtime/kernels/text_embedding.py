"""TextEmbedding: the sum of the embeddings of a token, its type and its position."""

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._jit import kernel
from edgellm.runtime.kernels._scalar import INT32_MAX, clamp, round_shift

Ids = npt.NDArray[np.int64]
Ints = npt.NDArray[np.int32]


@kernel("TextEmbedding", split="rows")
def text_embedding(
    thread: int,
    threads: int,
    ids: Ids,  # (T,)
    type_ids: Ids,  # (T,)
    position_ids: Ids,  # (T,)
    table: npt.NDArray[np.int8],  # (V, N)
    multiplier: Ints,  # (V,)
    types: Ints,  # (Y, N)
    positions: Ints,  # (C, N)
    hidden: Ints,  # (T, N)
    shift: int,
) -> None:
    """Split by rows."""
    for t in range(thread, ids.shape[0], threads):
        factor = np.int64(multiplier[ids[t]])
        codes, kind, place = table[ids[t]], types[type_ids[t]], positions[position_ids[t]]
        out = hidden[t]
        for n in range(codes.shape[0]):
            word = round_shift(np.int64(codes[n]) * factor, shift)
            total = word + np.int64(kind[n]) + np.int64(place[n])
            out[n] = clamp(total, -INT32_MAX, INT32_MAX)
