"""TritLinear on a vector unit."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._scalar import share
from edgellm.runtime.kernels.simd._unit import VectorUnit
from edgellm.runtime.kernels.vector._products import trit_product


def build(unit: VectorUnit) -> Callable[..., None]:
    """Return the kernel."""
    product = trit_product(unit)

    def trit_linear(
        thread: int,
        threads: int,
        x: npt.NDArray[np.int8],  # (T, K)
        packed: npt.NDArray[np.uint8],  # (N, B)
        acc: npt.NDArray[np.int32],  # (T, N)
    ) -> None:
        begin, end = share(packed.shape[0], thread, threads)
        product(x, packed[begin:end], acc[:, begin:end])

    return trit_linear
