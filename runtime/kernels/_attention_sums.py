"""The two inner sums of attention, for two queries at once over rows of the key/value cache.

What two queries share is read and widened once. Four rows at a time: in vectors of 16 sums where
the head dimension is a multiple of 32, of 4 sums where it is one of 8; plain loops for other
dimensions, and for the rows left over.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._dot import dot_wide
from edgellm.runtime.kernels._scalar import Int
from edgellm.runtime.kernels._vectors import (
    vector_add_pair,
    vector_add_products,
    vector_add_to,
    vector_store_totals,
    vector_zeros,
)

Cache = npt.NDArray[np.int8]
Codes = tuple[npt.NDArray[np.int16], npt.NDArray[np.int16]]
Dots = tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]
Totals = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


def dot_rows(codes: Codes, key: Cache, group: Int, begin: Int, end: Int, dots: Dots) -> None:
    """Write ``codes . key[j, group]`` of both queries to ``dots[j]``, begin <= j < end."""
    dim = key.shape[2]
    left = end - begin if dim % 8 else (end - begin) % 4
    for j in range(begin, end - left, 4):
        if dim % 32 == 0:
            dot_four_wide(codes, key, group, j, dots)
        else:
            dot_four_narrow(codes, key, group, j, dots)
    for j in range(end - left, end):
        dots[0][j] = dot_wide(key[j, group], codes[0])
        dots[1][j] = dot_wide(key[j, group], codes[1])


def make_dot_four(lanes: int) -> Callable[..., None]:
    """Return what does ``dot_rows`` for four rows; dimension a multiple of ``2 * lanes``."""

    def dot_four(codes: Codes, key: Cache, group: Int, j: Int, dots: Dots) -> None:
        stride = key.shape[1] * key.shape[2]
        first = j * stride + group * key.shape[2]
        second, third, fourth = first + stride, first + 2 * stride, first + 3 * stride
        a = b = c = d = e = f = g = h = vector_zeros(lanes)
        for at in range(0, key.shape[2], 2 * lanes):
            a = vector_add_products(a, codes[0], at, key, first + at)
            b = vector_add_products(b, codes[0], at, key, second + at)
            c = vector_add_products(c, codes[0], at, key, third + at)
            d = vector_add_products(d, codes[0], at, key, fourth + at)
            e = vector_add_products(e, codes[1], at, key, first + at)
            f = vector_add_products(f, codes[1], at, key, second + at)
            g = vector_add_products(g, codes[1], at, key, third + at)
            h = vector_add_products(h, codes[1], at, key, fourth + at)
        vector_store_totals(dots[0], j, a, b, c, d)
        vector_store_totals(dots[1], j, e, f, g, h)

    return dot_four


dot_four_wide = make_dot_four(16)
dot_four_narrow = make_dot_four(4)


def add_rows(
    weights: Codes, value: Cache, group: Int, begin: Int, end: Int, totals: Totals
) -> None:
    """Add ``weights[j - begin] * value[j, group]`` to both totals, begin <= j < end."""
    dim = value.shape[2]
    left = end - begin if dim % 8 else (end - begin) % 4
    stop = end - left
    for at in range(0, dim if stop > begin else 0, 32 if dim % 32 == 0 else 8):
        if dim % 32 == 0:
            add_columns_wide(weights, value, (begin, stop), (group, at), totals)
        else:
            add_columns_narrow(weights, value, (begin, stop), (group, at), totals)
    for j in range(stop, end):
        row = value[j, group]
        first, second = np.int32(weights[0][j - begin]), np.int32(weights[1][j - begin])
        for d in range(dim):
            totals[0][d] += np.int32(row[d]) * first
            totals[1][d] += np.int32(row[d]) * second


def make_add_columns(lanes: int) -> Callable[..., None]:
    """Return what does ``add_rows`` for ``2 * lanes`` columns and a multiple of four rows."""

    def add_columns(
        weights: Codes,
        value: Cache,
        rows: tuple[Int, Int],
        column: tuple[Int, Int],
        totals: Totals,
    ) -> None:
        group, at = column
        stride = value.shape[1] * value.shape[2]
        place = rows[0] * stride + group * value.shape[2] + at
        a = b = c = d = e = f = g = h = vector_zeros(lanes)
        for j in range(0, rows[1] - rows[0], 4):
            first = place + j * stride, place + (j + 1) * stride
            second = place + (j + 2) * stride, place + (j + 3) * stride
            a = vector_add_pair(a, 0, weights[0], j, value, first)
            b = vector_add_pair(b, 1, weights[0], j, value, first)
            c = vector_add_pair(c, 0, weights[1], j, value, first)
            d = vector_add_pair(d, 1, weights[1], j, value, first)
            e = vector_add_pair(e, 0, weights[0], j + 2, value, second)
            f = vector_add_pair(f, 1, weights[0], j + 2, value, second)
            g = vector_add_pair(g, 0, weights[1], j + 2, value, second)
            h = vector_add_pair(h, 1, weights[1], j + 2, value, second)
        vector_add_to(totals[0], at, a, b)
        vector_add_to(totals[0], at, e, f)
        vector_add_to(totals[1], at, c, d)
        vector_add_to(totals[1], at, g, h)

    return add_columns


add_columns_wide = make_add_columns(16)
add_columns_narrow = make_add_columns(4)
