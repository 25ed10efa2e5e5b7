"""The levels of sums of binary matrices: the 2^P weights that the bits of P planes stand for."""

# mypy: disable-error-code="untyped-decorator"

import numpy as np
import numpy.typing as npt
from numba.extending import register_jitable

from edgellm.runtime.kernels._bit_planes import ROWS
from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._scalar import Int, stack_int32
from edgellm.runtime.kernels._shift_alphas import fill_alphas

MOST_PLANES = 4
LEVELS = 1 << MOST_PLANES
LARGEST_LEVEL = 32_639
"""So that a level is 256 * upper + lower, both int8."""
ALPHA_WORDS = MOST_PLANES * ROWS

Codes = npt.NDArray[np.int8]
Alphas = npt.NDArray[np.uint8]
Sums = npt.NDArray[np.int32]


@register_jitable(**PART_POLICY)
def fits_levels(packed: Alphas, groups: Int, shape: tuple[Int, Int], first: Int, last: Int) -> bool:
    """Tell whether the levels of rows of a block are two int8 each.

    packed are (N, A), of so many groups; shape is planes and terms.
    """
    planes = shape[0]
    if planes > MOST_PLANES:
        return False
    alphas = stack_int32(ALPHA_WORDS)
    for group in range(groups):
        fill_alphas(packed, group, shape, (first, last), alphas)
        for row in range(last - first):
            peak = np.int32(0)
            for plane in range(planes):
                peak = np.int32(peak + alphas[plane * ROWS + row])
            if peak > LARGEST_LEVEL:
                return False
    return True


@register_jitable(**PART_POLICY)
def fill_levels(alphas: Sums, planes: Int, carry: Int, low: Codes, high: Codes) -> None:
    """Write the lower and the upper bytes of a row's levels; alphas has one in 64 elements.

    carry is what is added before the upper byte is taken: 128, if the lower one is signed.
    """
    levels = stack_int32(LEVELS)
    levels[:] = 0
    for plane in range(planes):
        alpha = alphas[plane * ROWS]
        for code in range(LEVELS):
            levels[code] += alpha if (code >> plane) & 1 else -alpha
    for code in range(LEVELS):
        low[code] = np.int8(levels[code])
        high[code] = np.int8((levels[code] + np.int32(carry)) >> np.int32(8))
