"""Alphas of sums of binary matrices as integers, from the layout shift-alphas/v2."""

import numpy as np
import numpy.typing as npt

from edgellm.ops._shift_alphas import GAP_BITS, MINUS
from edgellm.runtime.kernels._bit_planes import ROWS
from edgellm.runtime.kernels._scalar import Int, flat, stack_int32

Alphas = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int32]


def fill_alphas(
    packed: Alphas, group: Int, shape: tuple[Int, Int], rows: tuple[Int, Int], alphas: Numbers
) -> None:
    """Write the alphas of rows of a group, those of a plane after 64.

    Args:
        packed: (N, A).
        group: which.
        shape: planes, and the most terms of an alpha.
        rows: the first, and where they end, in the same block.
        alphas: (P * 64,).
    """
    (planes, terms), (first, last) = shape, rows
    block = first // ROWS * ROWS
    width, at = min(ROWS, packed.shape[0] - block), first - block
    size = (planes * terms + 1) // 2
    bytes_ = flat(packed)[block * packed.shape[1] + group * size * width :]
    exponents = stack_int32(ROWS)  # each + 1
    for plane in range(planes):
        out = alphas[plane * ROWS : plane * ROWS + last - first]
        begin = plane * terms
        own, half = bytes_[begin // 2 * width + at :], np.int32(begin % 2 * 4)
        for row in range(last - first):
            exponent = (np.int32(own[row]) >> half) & np.int32(15)
            exponents[row] = exponent
            out[row] = (np.int32(1) << exponent) >> np.int32(1)
        for nibble in range(begin + 1, begin + terms):
            own, half = bytes_[nibble // 2 * width + at :], np.int32(nibble % 2 * 4)
            for row in range(last - first):
                code = np.int32(own[row]) >> half
                gap = code & np.int32(GAP_BITS)
                exponent = exponents[row] - gap - np.int32(1) if gap > 0 else np.int32(0)
                exponent = max(exponent, np.int32(0))
                exponents[row] = exponent
                power = (np.int32(1) << exponent) >> np.int32(1)
                out[row] += -power if code & np.int32(MINUS) else power


def add_alphas(
    sums: Numbers,
    whole: np.int32,
    planes: Int,
    alphas: Numbers,
    totals: npt.NDArray[np.int64],
) -> None:
    """Add what the planes of a group chose, times its alphas, to the rows' totals.

    Args:
        sums: (P * 64,) what each plane chose of the group, from the first of the rows on.
        whole: the sum of the group's activations.
        planes: how many.
        alphas: (P * 64,) of the rows.
        totals: of the rows.
    """
    for plane in range(planes):
        chosen, own = sums[plane * ROWS :], alphas[plane * ROWS :]
        for row in range(totals.shape[0]):
            signed = np.int64(2 * chosen[row] - whole)  # the bits mean +1 and -1
            totals[row] += signed * np.int64(own[row])
