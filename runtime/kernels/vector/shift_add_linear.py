"""ShiftAddLinear on a vector unit."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._scalar import share
from edgellm.runtime.kernels.simd._unit import VectorUnit
from edgellm.runtime.kernels.vector._level_products import level_products
from edgellm.runtime.kernels.vector._shift_products import look_up_products
from edgellm.runtime.kernels.vector._word_look_ups import has_word_look_ups, word_products


def build(unit: VectorUnit) -> Callable[..., None]:
    """Return the kernel."""
    products, look_up = level_products(unit), look_up_products(unit)
    look_up_words = word_products(unit) if has_word_look_ups(unit) else None

    def shift_add_linear(
        thread: int,
        threads: int,
        x: npt.NDArray[np.int8],  # (T, K)
        planes: npt.NDArray[np.uint8],  # (B, C, P, 64)
        alphas: npt.NDArray[np.uint8],  # (N, A)
        acc: npt.NDArray[np.int32],  # (T, N)
        group_size: int,
        shift: int,
        terms: int,
    ) -> None:
        rows, numbers = share(alphas.shape[0], thread, threads), (group_size, shift, terms)
        if products(x, planes, alphas, acc, rows, numbers):
            return
        begin, end = rows
        if look_up_words is not None:
            begin = look_up_words(x, planes, alphas, acc, rows, numbers)
        if begin < end:
            look_up(x, planes, alphas, acc, (begin, end), numbers)

    return shift_add_linear
