"""Vectors of int32 sums, for inner loops that LLVM does not turn into vector code by itself.

Plain NumPy; compiled, each function is a few vector instructions (see ``_vector_lowering``). The
number of lanes is a constant of the program text.
"""

import numpy as np
import numpy.typing as npt

Sums = npt.NDArray[np.int32]


def vector_zeros(lanes: int) -> Sums:
    """Return ``lanes`` sums of 0."""
    return np.zeros(lanes, np.int32)


def vector_add_products(
    sums: Sums, a: npt.NDArray[np.int16], at: int, b: npt.NDArray[np.int8], place: int
) -> Sums:
    """Return sums with products of elements of ``a`` and ``b`` added, neighbours to one lane.

    Args:
        sums: half as many as products.
        a: where products take their first factor.
        at: first element of a.
        b: an array of any rank, seen as one row.
        place: first element of b.
    """
    count = 2 * len(sums)
    products = a[at : at + count].astype(np.int32) * b.reshape(-1)[place : place + count]
    return sums + products.reshape(-1, 2).sum(axis=1)


def vector_store_totals(
    out: npt.NDArray[np.int32], at: int, a: Sums, b: Sums, c: Sums, d: Sums
) -> None:
    """Store the sum of all lanes of each of four vectors, one after the other."""
    out[at : at + 4] = a.sum(), b.sum(), c.sum(), d.sum()


def vector_add_pair(
    sums: Sums,
    half: int,
    weights: npt.NDArray[np.int16],
    at: int,
    rows: npt.NDArray[np.int8],
    place: tuple[int, int],
) -> Sums:
    """Return sums with two rows added, times ``weights[at]`` and ``weights[at + 1]``.

    Args:
        sums: of half of twice as many columns.
        half: 0 for the first four of each eight columns, 1 for the last four; a constant.
        weights: one a row.
        at: of the first row's weight.
        rows: an array of any rank, seen as one row.
        place: where in it the two rows begin.
    """
    flat, columns = rows.reshape(-1), np.arange(2 * len(sums)).reshape(-1, 2, 4)[:, half].ravel()
    first, second = flat[place[0] + columns], flat[place[1] + columns]
    return sums + first * np.int32(weights[at]) + second * np.int32(weights[at + 1])


def vector_add_to(totals: npt.NDArray[np.int64], at: int, low: Sums, high: Sums) -> None:
    """Add the sums of both halves of the columns to the totals from ``at`` on."""
    both = np.stack([low.reshape(-1, 4), high.reshape(-1, 4)], axis=1).ravel()
    totals[at : at + len(both)] += both
