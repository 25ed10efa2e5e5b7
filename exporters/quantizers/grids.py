"""Grids: for every row and group of columns, the few numbers that its weights may become.

A grid is what all group-wise quantisers have in common, so that rounding (``rounding.py``) is
written once. Level l of a grid is the weight that the code l stands for.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgellm.ops._bit_planes import split_groups

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.uint8]

BLOCK_WEIGHTS = 1 << 21
"""Weights fitted at once: their temporaries take some 200 MB."""


@dataclass(frozen=True)
class Grid:
    """The levels of a matrix: ``levels = sum over F of features * parameters``.

    Attributes:
        features: (N or 1, G or 1, L, F), L = 2^bits.
        parameters: (N, G, F) float64.
        levels: (N, G, L) float64.
        order: (N, G, L): the codes by ascending level.
        middles: (N, G, L - 1): the numbers between which the codes in that order are the nearest.
    """

    features: Floats
    parameters: Floats
    levels: Floats
    order: npt.NDArray[np.uint8]
    middles: Floats

    @classmethod
    def make(cls, features: Floats, parameters: Floats) -> "Grid":
        """Return the grid of so many features and parameters."""
        levels = np.einsum("...lf,...f->...l", features, parameters)
        order = np.argsort(levels, axis=-1, kind="stable")
        ascending = np.take_along_axis(levels, order, axis=-1)
        middles = (ascending[..., 1:] + ascending[..., :-1]) / 2
        return cls(features, parameters, levels, order.astype(np.uint8), middles)


Fit = Callable[[Floats, Floats], Grid]
"""(weights (N, G, size), importance of each column (G, size)) -> their grid."""


def nearest(values: Floats, order: npt.NDArray[np.uint8], middles: Floats) -> Codes:
    """Return the code of the level nearest to each value; of two as near, the lower level.

    Args:
        values: (..., n).
        order: (..., L), as ``Grid.order``.
        middles: (..., L - 1).
    """
    rank = np.zeros(values.shape, np.intp)
    step = order.shape[-1] // 2
    while step:
        above = values > np.take_along_axis(middles, rank + (step - 1), axis=-1)
        rank += np.where(above, step, 0)
        step //= 2
    return np.take_along_axis(order, rank, axis=-1)


def decode(codes: Codes, levels: Floats) -> Floats:
    """Return the levels that codes (..., n) stand for."""
    return np.take_along_axis(levels, codes.astype(np.intp), axis=-1)


def quantize(weight: Floats, grid: Grid, size: int) -> Codes:
    """Round every weight to the nearest level of its group, (N, K)."""
    codes = nearest(split_groups(weight, size), grid.order, grid.middles)
    return codes.reshape(len(weight), -1)[:, : weight.shape[1]]


def dequantize(codes: Codes, grid: Grid, size: int) -> Floats:
    """Return the weights (N, K) that codes stand for."""
    split = split_groups(codes.astype(np.float64), size).astype(np.uint8)
    return decode(split, grid.levels).reshape(len(codes), -1)[:, : codes.shape[1]]
