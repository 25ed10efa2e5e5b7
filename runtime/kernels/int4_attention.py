"""Int4Attention: attention over a key/value cache of 4 bits a number."""

import numpy as np
import numpy.typing as npt

from edgellm.int4 import INT4_LIMIT
from edgellm.runtime.kernels._attention import NOTES, attend_with, attention_of
from edgellm.runtime.kernels._int4_rows import add_rows, dot_rows
from edgellm.runtime.kernels._jit import kernel

run = attention_of(attend_with(dot_rows, add_rows, per_byte=2, limit=INT4_LIMIT), per_byte=2)


@kernel("Int4Attention", stages=3, notes=NOTES)
def int4_attention(
    thread: int,
    threads: int,
    query: npt.NDArray[np.int32],  # (T, M)
    key: npt.NDArray[np.uint8],  # (L, H, D / 2)
    key_absmax: npt.NDArray[np.int32],  # (L, H)
    value: npt.NDArray[np.uint8],  # (L, H, D / 2)
    value_absmax: npt.NDArray[np.int32],  # (L, H)
    y: npt.NDArray[np.int64],  # (T, M), M = query heads * D
    scaling_mantissa: int,
    scaling_exponent: int,
    window: int,
    stage: int,
    notes: npt.NDArray[np.int64],
) -> None:
    """All in the first stage."""
    if stage == 0:
        cache = key, key_absmax, value, value_absmax
        scaling = scaling_mantissa, scaling_exponent
        run((thread, threads), query, cache, y, scaling, window)
