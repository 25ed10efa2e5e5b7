"""Outliers: the few weights that are stored apart from the others."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgellm.exporters.quantizers.grids import Floats
from edgellm.ops import _outliers

VALUE_LIMIT = 32_767
OUTLIER_BITS = 16 + 16
OFFSET_BITS = 32

Mask = npt.NDArray[np.bool_]


def sparse_bits(rows: int, count: int) -> int:
    """Return the bits that so many outliers of a weight with so many rows take."""
    return OUTLIER_BITS * count + OFFSET_BITS * (rows + 1) if count else 0


@dataclass(frozen=True)
class Sparse:
    """Outliers of a matrix.

    Attributes:
        mask: (N, K): where they are.
        values: (N, K): what they add to the levels, 0 elsewhere.
    """

    mask: Mask
    values: Floats

    @classmethod
    def none(cls, shape: tuple[int, ...]) -> "Sparse":
        """Return no outliers."""
        return cls(np.zeros(shape, np.bool_), np.zeros(shape))

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, npt.NDArray[np.generic]], shape: tuple[int, int]
    ) -> "Sparse":
        """Return what ``tensors`` was made of, of a weight (N, K)."""
        sparse, offsets = cls.none(shape), tensors["offsets"].astype(np.int64)
        counts = np.diff(offsets)
        places = np.repeat(np.arange(len(counts)), counts), tensors["columns"][: offsets[-1]]
        sparse.mask[places] = True
        sparse.values[places] = tensors["values"][: offsets[-1]]
        return sparse

    def tensors(self) -> Mapping[str, npt.NDArray[np.generic]]:
        """Return them as operators take them; the values are integers."""
        rows, columns = np.nonzero(self.mask)
        if not len(columns):
            return dict(zip(_NAMES, _outliers.none(), strict=True))
        offsets = np.concatenate([[0], self.mask.sum(axis=1).cumsum()]).astype(np.int32)
        values = self.values[rows, columns].astype(np.int16)
        return dict(zip(_NAMES, (offsets, columns.astype(np.int16), values), strict=True))


_NAMES = tuple(port.name for port in _outliers.PORTS)
