"""Report how much of a model has been lowered."""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from edgellm.exporters.weights import FloatMatrix, TernaryMatrix, WeightSource

Progress = Callable[[int, int], object]
"""Called with the parameters asked for so far and the total."""


def part_of(progress: Progress | None, before: int, after: int) -> Progress | None:
    """Return what one part of the work calls, so that done and total are those of the whole.

    Args:
        progress: of the whole, if there is one.
        before: what the parts before this one report.
        after: what those behind it will.
    """
    if progress is None:
        return None
    return lambda done, total: progress(before + done, before + total + after)


class ReportingWeights:
    """Passes requests on to ``weights`` and reports each parameter once."""

    def __init__(self, weights: WeightSource, progress: Progress, total: int) -> None:
        self.weights = weights
        self.progress = progress
        self.total = total
        self.done = 0
        self._tables: set[str] = set()

    def vector(self, name: str, size: int) -> npt.NDArray[np.float32]:
        """Return what ``weights`` returns."""
        self._report((size,))
        return self.weights.vector(name, size)

    def tensor(self, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """Return what ``weights`` returns."""
        self._report(shape)
        return self.weights.tensor(name, shape)

    def matrix(self, name: str, shape: tuple[int, int]) -> FloatMatrix:
        """Return what ``weights`` returns; a tied table may be asked for twice."""
        if name not in self._tables:
            self._tables.add(name)
            self._report(shape)
        return self.weights.matrix(name, shape)

    def linear(self, path: str, shape: tuple[int, int]) -> FloatMatrix | TernaryMatrix:
        """Return what ``weights`` returns."""
        self._report(shape)
        return self.weights.linear(path, shape)

    def _report(self, shape: tuple[int, ...]) -> None:
        self.done += math.prod(shape)
        self.progress(self.done, self.total)
