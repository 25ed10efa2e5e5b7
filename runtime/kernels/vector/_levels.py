"""The levels of sums of binary matrices: the 2^P weights that the bits of P planes stand for."""

# mypy: disable-error-code="untyped-decorator"

import numpy as np
import numpy.typing as npt
from numba.extending import register_jitable

from edgellm.runtime.kernels._bit_planes import ROWS
from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._scalar import Int, stack_int32
from edgellm.runtime.kernels.vector._shift_terms import LARGEST_BYTE, add_up, largest

MOST_PLANES = 4
LEVELS = 1 << MOST_PLANES
LARGEST_LEVEL = 32_639
"""So that a level is 256 * upper + lower, both int8."""
SCALE_WORDS = MOST_PLANES * ROWS

Codes = npt.NDArray[np.int8]
Terms = npt.NDArray[np.uint8]
Sums = npt.NDArray[np.int32]


@register_jitable(**PART_POLICY)
def fits_levels(terms: Terms, first: Int, last: Int) -> bool:
    """Tell whether the levels of rows of a block, of terms (G, P, S, N), are two int8 each."""
    if terms.shape[1] > MOST_PLANES:
        return False
    scales, peaks = stack_int32(ROWS), stack_int32(ROWS)
    for group in range(terms.shape[0]):
        if largest(terms[group], first, last) > LARGEST_BYTE:
            return False
        peaks[:] = 0
        for plane in range(terms.shape[1]):
            add_up(terms[group, plane], first, last, scales)
            for row in range(last - first):
                peaks[row] += abs(scales[row])
        for row in range(last - first):
            if peaks[row] > LARGEST_LEVEL:
                return False
    return True


@register_jitable(**PART_POLICY)
def fill_scales(terms: Terms, first: Int, last: Int, scales: Sums) -> None:
    """Write the scales of rows of a group, of terms (P, S, N); those of a plane after 64."""
    for plane in range(terms.shape[0]):
        add_up(terms[plane], first, last, scales[plane * ROWS :])


@register_jitable(**PART_POLICY)
def fill_levels(scales: Sums, planes: Int, carry: Int, low: Codes, high: Codes) -> None:
    """Write the lower and the upper bytes of a row's levels; scales has one in 64 elements.

    carry is what is added before the upper byte is taken: 128, if the lower one is signed.
    """
    levels = stack_int32(LEVELS)
    levels[:] = 0
    for plane in range(planes):
        scale = scales[plane * ROWS]
        for code in range(LEVELS):
            levels[code] += scale if (code >> plane) & 1 else -scale
    for code in range(LEVELS):
        low[code] = np.int8(levels[code])
        high[code] = np.int8((levels[code] + np.int32(carry)) >> np.int32(8))
