"""Attention on a vector unit, over a cache of int8: see ``_causal_attention``."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels.attention import run
from edgellm.runtime.kernels.simd._unit import VectorUnit
from edgellm.runtime.kernels.vector._cache_codes import INT8
from edgellm.runtime.kernels.vector._causal_attention import attention_over


def build(unit: VectorUnit) -> Callable[..., None]:
    """Return the kernel."""
    attend = attention_over(unit, INT8, run)

    def attention(
        thread: int,
        threads: int,
        query: npt.NDArray[np.int32],  # (T, M)
        key: npt.NDArray[np.int8],  # (L, H, D)
        key_absmax: npt.NDArray[np.int32],  # (L, H)
        value: npt.NDArray[np.int8],  # (L, H, D)
        value_absmax: npt.NDArray[np.int32],  # (L, H)
        y: npt.NDArray[np.int64],  # (T, M)
        scaling_mantissa: int,
        scaling_exponent: int,
        window: int,
        stage: int,
        notes: npt.NDArray[np.int64],
    ) -> None:
        cache, scaling = (
            (key, key_absmax, value, value_absmax),
            (scaling_mantissa, scaling_exponent),
        )
        attend((thread, threads, stage), query, cache, y, (scaling, window), notes)

    return attention
