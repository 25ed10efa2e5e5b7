"""Weights as real numbers that stand for the nearest of their levels, moved along gradients."""

import math

import numpy as np
import numpy.typing as npt

from edgellm.exporters.quantizers import stored_codes
from edgellm.exporters.quantizers.cholesky import Singles
from edgellm.exporters.quantizers.grid_columns import GridColumns
from edgellm.exporters.quantizers.low_bit import LowBitLinear
from edgellm.exporters.quantizers.row_classes import JoinedLinear, QuantizedWeight
from edgellm.exporters.quantizers.stored_codes import StoredCodes

MEAN_DECAY = 0.9
SQUARE_DECAY = 0.99
DAMPING = 0.1
"""Share of the mean of a class of rows that is added to the mean square of each weight's gradients.
By these is divided, not by their root as in Adam (arXiv 1412.6980): large gradients tell also where
errors cost much, such as in the columns of outlier channels, whose weights would all move at once.
"""
MARGIN = np.float32(0.02)
"""Of the cell of a level, at either end: there no weight begins, or rounding might change it."""
TINY = 1e-30


class LatentWeight:
    """All rows of a weight (N, K), each class of rows with levels of its own."""

    def __init__(self, weight: QuantizedWeight, original: Singles) -> None:
        """Begin with the codes that a weight has, near the original (N, K)."""
        self._weight = weight
        self._columns = original.shape[1]
        if isinstance(weight, JoinedLinear):
            rows = [np.flatnonzero(weight.classes == i) for i in range(len(weight.parts))]
            pairs = zip(rows, weight.parts, strict=True)
        else:
            pairs = zip([np.arange(len(weight.unit))], [weight], strict=True)
        self._classes = [(rows, self._begin(part, original[rows])) for rows, part in pairs]

    def _begin(self, part: LowBitLinear, original: Singles) -> "LatentRows | FixedRows":
        if part.op_type == "TrellisLinear":
            return FixedRows(part, self._columns)
        return LatentRows(stored_codes.read(part, self._columns), original)

    def rounded(self) -> Singles:
        """Return the levels that are the nearest now, (K, N)."""
        levels = np.empty((self._columns, len(self._weight.unit)), np.float32)
        for rows, latent in self._classes:
            levels[:, rows] = latent.rounded()
        return levels

    def move(self, gradient: Singles, rate: float, count: int) -> None:
        """Take a step against a gradient.

        Args:
            gradient: (K, N).
            rate: how far a weight with a usual gradient moves, as a share of the distance of its
                levels.
            count: of the steps so far, with this one.
        """
        for rows, latent in self._classes:
            latent.move(gradient[:, rows], rate, count)

    def codes(self) -> list[npt.NDArray[np.uint8]]:
        """Return the codes of each class of rows; those of a trellis stay, and have none."""
        return [latent.codes() for _, latent in self._classes]

    def with_codes(self, codes: list[npt.NDArray[np.uint8]]) -> QuantizedWeight:
        """Return the weight with what ``codes`` returned."""
        if isinstance(self._weight, LowBitLinear):
            return _with_codes(self._weight, codes[0])
        parts = zip(self._weight.parts, codes, strict=True)
        return JoinedLinear(tuple(_with_codes(*pair) for pair in parts), self._weight.classes)


def _with_codes(part: LowBitLinear, codes: npt.NDArray[np.uint8]) -> LowBitLinear:
    return stored_codes.with_codes(part, codes) if codes.size else part


class FixedRows:
    """Rows whose codes overlap: none can be moved for itself, so all stay."""

    def __init__(self, part: LowBitLinear, columns: int) -> None:
        self._levels = part.real(columns).T.astype(np.float32)

    def rounded(self) -> Singles:
        """Return the weights, (K, N)."""
        return self._levels

    def move(self, _gradient: Singles, _rate: float, _count: int) -> None:
        """Stay."""

    def codes(self) -> npt.NDArray[np.uint8]:
        """Return none."""
        return np.zeros((0, 0), np.uint8)


class LatentRows:
    """The rows of one scheme; columns lie together in memory."""

    def __init__(self, stored: StoredCodes, original: Singles) -> None:
        """Begin as near to the original (N, K) as the stored codes allow."""
        self._table = GridColumns(stored.grid)
        self._size = stored.size
        self._apart = None if stored.apart is None else stored.apart.T.astype(np.float32)
        levels = self._table.levels  # (G, L, N)
        self._steps = (levels[:, -1] - levels[:, 0]) / np.float32(levels.shape[1] - 1)
        self._ranks = self._table.ranks_of(stored.codes, self._size)
        apart = 0 if self._apart is None else self._apart
        self._values = (original.T - apart).astype(np.float32)
        for group, part in self._groups():
            low, high = self._cells(group)
            ranks = self._ranks[part].astype(np.intp)
            low, high = (np.take_along_axis(ends, ranks, axis=0) for ends in (low, high))
            np.clip(self._values[part], low, high, out=self._values[part])
        self._mean = np.zeros_like(self._values)
        self._square = np.zeros_like(self._values)

    def rounded(self) -> Singles:
        """Return the nearest levels, and what is stored apart, (K, N)."""
        levels = np.empty_like(self._values)
        for group, part in self._groups():
            self._ranks[part], levels[part] = self._table.round(self._values[part], group)
        return levels if self._apart is None else levels + self._apart

    def move(self, gradient: Singles, rate: float, count: int) -> None:
        """See ``LatentWeight.move``."""
        for group, part in self._groups():
            slope = gradient[part] * self._steps[group]
            mean, square = self._mean[part], self._square[part]
            mean += np.float32(1 - MEAN_DECAY) * (slope - mean)
            slope *= slope
            square += np.float32(1 - SQUARE_DECAY) * (slope - square)
        typical = float(self._square.mean(dtype=np.float64)) + TINY
        # What both sums lack at first cancels out in part.
        unbiased = math.sqrt(typical * (1 - SQUARE_DECAY**count)) / (1 - MEAN_DECAY**count)
        for group, part in self._groups():
            factor = np.float32(rate * unbiased) * self._steps[group]
            self._values[part] -= (
                factor * self._mean[part] / (self._square[part] + np.float32(DAMPING * typical))
            )

    def codes(self) -> npt.NDArray[np.uint8]:
        """Return the codes (N, K) of what ``rounded`` returned last."""
        return self._table.codes_of(self._ranks, self._size)

    def _cells(self, group: int) -> tuple[Singles, Singles]:
        """Return (L, N) twice: between which values a level is the nearest, less a margin."""
        levels, middles = self._table.levels[group], self._table.middles[group]
        step = self._steps[group]
        low = np.concatenate([levels[:1] - step, middles])
        high = np.concatenate([middles, levels[-1:] + step])
        margin = MARGIN * (high - low)
        return low + margin, high - margin

    def _groups(self) -> list[tuple[int, slice]]:
        starts = range(0, len(self._values), self._size)
        return [(group, slice(at, at + self._size)) for group, at in enumerate(starts)]
