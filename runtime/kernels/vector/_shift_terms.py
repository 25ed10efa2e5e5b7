"""Sums of signed powers of two on a vector unit: in 32 bits, where the numbers are small enough."""

# mypy: disable-error-code="untyped-decorator"

import numpy as np
import numpy.typing as npt
from numba.extending import register_jitable

from edgellm.runtime.kernels._bit_planes import ROWS, add_terms
from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._scalar import Int, stack_int32

Terms = npt.NDArray[np.uint8]
Sums = npt.NDArray[np.int32]

LARGEST_BYTE = 16
"""2^15; with more, sums of 32 bits do not suffice anyway."""


@register_jitable(**PART_POLICY)
def largest(terms: Terms, first: Int, last: Int) -> Int:
    """Return the largest byte of rows of terms (P, S, N), signs aside."""
    most = np.uint8(0)
    for plane in range(terms.shape[0]):
        for term in range(terms.shape[1]):
            for byte in terms[plane, term][first:last]:
                most = max(most, np.uint8(byte & np.uint8(127)))
    return np.int64(most)


@register_jitable(**PART_POLICY)
def add_group_terms(
    sums: Sums,
    group: tuple[np.int32, Int],
    terms: Terms,
    rows: tuple[Int, Int],
    totals: npt.NDArray[np.int64],
) -> None:
    """Add what the planes of a group chose, times its scales, to the rows' totals.

    Args:
        sums: (P * 64,) what each plane chose, from the first of the rows on.
        group: the sum of the group's activations, and their number.
        terms: (P, S, N) in the layout shift-terms/v1.
        rows: the first, and where they end.
        totals: of the rows.
    """
    (whole, columns), (first, last) = group, rows
    most = largest(terms, first, last)
    count = terms.shape[0] * terms.shape[1]
    # |scale| <= S * 2^(most - 1), |sum of +-x| <= 128 * columns
    if most > LARGEST_BYTE or (count * columns << (most + 6)) >= 1 << 31:
        add_terms(sums, whole, terms, rows, totals)
        return
    products, scales = stack_int32(ROWS), stack_int32(ROWS)
    products[:] = 0
    for plane in range(terms.shape[0]):
        add_up(terms[plane], first, last, scales)
        chosen = sums[plane * ROWS :]
        for row in range(last - first):
            products[row] += scales[row] * np.int32(2 * chosen[row] - whole)
    for row in range(last - first):
        totals[row] += np.int64(products[row])


@register_jitable(**PART_POLICY)
def add_up(terms: Terms, first: Int, last: Int, scales: Sums) -> None:
    """Write the sums of small terms (S, N): bytes of at most LARGEST_BYTE, signs aside."""
    for row in range(last - first):
        scales[row] = 0
    for term in range(terms.shape[0]):
        bytes_ = terms[term][first:last]
        for row in range(last - first):
            byte = np.int32(bytes_[row])
            power = np.int32((np.int32(1) << (byte & np.int32(31))) >> np.int32(1))
            sign = -(byte >> np.int32(7))
            scales[row] += (power ^ sign) - sign
