"""LogitsHead on a vector unit: an int8 product whose sums are scaled where they lie."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._scalar import share
from edgellm.runtime.kernels.simd._unit import VectorUnit
from edgellm.runtime.kernels.vector._logits import of_rows, scale_sums
from edgellm.runtime.kernels.vector._products import int8_product


def build(unit: VectorUnit) -> Callable[..., None]:
    """Return the kernel."""
    multiply = of_rows(int8_product(unit))

    def logits_head(
        thread: int,
        threads: int,
        x: npt.NDArray[np.int8],  # (T, K)
        scale: npt.NDArray[np.int32],  # (T, 2)
        weight: npt.NDArray[np.int8],  # (V, K)
        multiplier: npt.NDArray[np.int32],  # (V,)
        rows: npt.NDArray[np.int64],  # (R,)
        logits: npt.NDArray[np.int32],  # (R, V)
        shift: int,
    ) -> None:
        begin, end = share(weight.shape[0], thread, threads)
        multiply(x, weight[begin:end], logits[:, begin:end], rows)
        scale_sums(logits[:, begin:end], scale, multiplier[begin:end], rows, shift)

    return logits_head
