"""Int8Linear on a vector unit."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._scalar import share
from edgellm.runtime.kernels.simd._unit import VectorUnit
from edgellm.runtime.kernels.vector._products import int8_product


def build(unit: VectorUnit) -> Callable[..., None]:
    """Return the kernel."""
    product = int8_product(unit)

    def int8_linear(
        thread: int,
        threads: int,
        x: npt.NDArray[np.int8],  # (T, K)
        weight: npt.NDArray[np.int8],  # (N, K)
        acc: npt.NDArray[np.int32],  # (T, N)
    ) -> None:
        begin, end = share(weight.shape[0], thread, threads)
        product(x, weight[begin:end], acc[:, begin:end])

    return int8_linear
