"""A grid as rounding goes through it: a column of weights at a time, all rows of it at once."""

import numpy as np
import numpy.typing as npt

from edgellm.exporters.quantizers.cholesky import Singles
from edgellm.exporters.quantizers.grids import Codes, Grid

FEW = 16
"""Levels that are compared one after the other, which takes no look-up."""
Ranks = npt.NDArray[np.uint8]


class GridColumns:
    """The levels of a grid in ascending order; a weight's rank is its place among them."""

    def __init__(self, grid: Grid) -> None:
        """Turn the tables so that what all rows need at once lies together."""
        groups, count = grid.levels.shape[1:]
        rows = len(grid.levels)
        self.levels = np.empty((groups, count, rows), np.float32)
        self.middles = np.empty((groups, count - 1, rows), np.float32)
        self.order = np.empty((groups, count, rows), np.uint8)
        self._rows = np.arange(rows)
        for group in range(groups):
            self.put(group, grid, group)

    def put(self, group: int, grid: Grid, source: int) -> None:
        """Take the levels of a group from a group of another grid."""
        order = grid.order[:, source]
        self.order[group] = order.T
        self.levels[group] = np.take_along_axis(grid.levels[:, source], order, axis=1).T
        self.middles[group] = grid.middles[:, source].T

    def round(self, values: Singles, group: int) -> tuple[Ranks, Singles]:
        """Return ranks and levels nearest to a column (N,), or to several (n, N) of a group.

        Of two levels as near it is the lower.
        """
        middles = self.middles[group]
        if len(middles) < FEW:
            rank = np.zeros(values.shape, np.uint8)
            for middle in middles:
                rank += values > middle
        else:
            rank = self._search(values, middles)
        return rank, self.real(rank, group)

    def _search(self, values: Singles, middles: Singles) -> Ranks:
        rank = np.zeros(values.shape, np.intp)
        step = (len(middles) + 1) // 2
        while step:
            middle = np.take(middles, (rank + (step - 1)) * len(self._rows) + self._rows)
            rank += np.where(values > middle, step, 0)
            step //= 2
        return rank.astype(np.uint8)

    def real(self, rank: Ranks, group: int) -> Singles:
        """Return the levels of a column of ranks (N,), or of several (n, N)."""
        values: Singles = np.take(self.levels[group], rank * np.intp(len(self._rows)) + self._rows)
        return values

    def weights(self, ranks: Ranks, size: int) -> Singles:
        """Return what ranks (K, N) stand for."""
        values = np.empty(ranks.shape, np.float32)
        for group, levels in enumerate(self.levels):
            part = slice(group * size, (group + 1) * size)
            values[part] = np.take_along_axis(levels, ranks[part].astype(np.intp), axis=0)
        return values

    def ranks_of(self, codes: Codes, size: int) -> Ranks:
        """Return codes (N, K) as ranks (K, N)."""
        ranks = np.empty(codes.shape[::-1], np.uint8)
        for group, order in enumerate(self.order):
            part = slice(group * size, (group + 1) * size)
            inverse = np.argsort(order, axis=0).astype(np.uint8)
            ranks[part] = np.take_along_axis(inverse, codes[:, part].T.astype(np.intp), axis=0)
        return ranks

    def codes_of(self, ranks: Ranks, size: int) -> Codes:
        """Return ranks (K, N) as codes (N, K)."""
        codes = np.empty(ranks.shape[::-1], np.uint8)
        for group, order in enumerate(self.order):
            part = slice(group * size, (group + 1) * size)
            codes[:, part] = np.take_along_axis(order, ranks[part].astype(np.intp), axis=0).T
        return codes
