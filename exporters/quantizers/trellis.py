"""Trellis-coded weights: the codes of a column overlap, and are found all together.

QTIP (arXiv 2406.11235): of 2^(bits * N) columns that codes of N rows can stand for, the nearest is
found by the Viterbi algorithm. The best levels for Gaussian weights (Max, 1960) leave 1.5 to 1.8
times the error at 2 to 4 bits. Here a code runs down a column, so that the error of each column can
be made good by those to come (GPTQ). A row has one scale. Weights so large that no level comes near
are stored apart. An error costs more in some rows than in others: as their codes overlap, the
nearest column by these costs is one whose bits serve such rows, as if more of them were theirs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

import numpy as np
import numpy.typing as npt

from edgellm.errors import ConfigError
from edgellm.exporters.quantizers import rounding
from edgellm.exporters.quantizers.cholesky import Singles
from edgellm.exporters.quantizers.grids import Floats
from edgellm.exporters.quantizers.sparse import VALUE_LIMIT, Sparse, sparse_bits
from edgellm.exporters.quantizers.trellis_search import TrellisSearch
from edgellm.ops._outliers import MAX_COLUMNS
from edgellm.trellis_codes import (
    LEVEL_RMS,
    States,
    num_planes,
    pack_trellis,
    state_levels,
    unpack_states,
)

PASSES = 2
"""Over all columns, for codes and scales."""
FAR = 4.5
"""Times the root of a row's mean square; the largest level is 2.7. all-MiniLM-L6-v2 has weights of
38, and loses 2.5 times as much at 2.5 bits if nothing is stored apart."""
SETTLING = 4
"""How often what is far is looked for anew, once what was far before no longer counts."""
HIT = 2.7
"""Times that root: the largest level."""
LEFT = 1.22
"""Times 4^-bits: the squared error of Gaussian weights (see ``trellis_codes.MULTIPLIER``)."""
LEAST_UNIT = 1 / VALUE_LIMIT
"""Of a row whose largest weight is 1: it can be stored apart then."""
LEAST_COST = 0.05
"""Of an error in a row, as a share of the mean of all rows: what is known of costs is less exact
than that. (stories260k at 2.5 bits loses 3 % more with a sixteenth of it, 6 % more with four times
as much.)"""
LEAST_PLANES = 4
"""Of 8 bits; a row has one at most. A ring of fewer than 12 bits does not hold every state."""
NOTHING = 2.0**-24
"""What rows of zeros get instead of the largest weight, as a share of the least of other rows."""


@dataclass(frozen=True)
class Trellis:
    """A weight as integers; real weight = (level of the state + outlier) * unit of the row.

    Attributes:
        states: (N, K).
        outliers: (N, K): their values are integers.
        unit: (N,).
        row_bytes: that the states of a row take.
    """

    states: States
    outliers: Sparse
    unit: Floats
    row_bytes: int

    def real(self) -> Floats:
        """Return the weights that the integers stand for, (N, K)."""
        return (state_levels()[self.states] + self.outliers.values) * self.unit[:, None]

    def tensors(self) -> Mapping[str, npt.NDArray[np.generic]]:
        """Return the weights as TrellisLinear takes them."""
        return {"codes": pack_trellis(self.states, self.row_bytes), **self.outliers.tensors()}


def from_tensors(
    tensors: Mapping[str, npt.NDArray[np.generic]], columns: int, unit: Floats
) -> Trellis:
    """Return what ``Trellis.tensors`` was made of."""
    codes = tensors["codes"].astype(np.uint8)
    sparse = Sparse.from_tensors(tensors, (len(unit), columns))
    return Trellis(unpack_states(codes, columns), sparse, unit, codes.shape[1])


def cost_together(costs: Floats) -> float:
    """Return what rows of a trellis cost that would cost so much (N,) if all lost the same share.

    Each then loses what makes its cost that of all others, without any more bits: the geometric
    mean (``TrellisSearch.nearest`` comes as near to it as to the least error of equal rows).
    """
    return float(costs.sum() * np.exp(np.log(_shares(costs)).mean()))


def _shares(costs: Floats) -> Floats:
    """Return what rows cost, (N,): shares of the mean, none below ``LEAST_COST``.

    All cost the same where costs are no numbers or nothing.
    """
    mean = float(costs.mean())
    known = 0 < mean < np.inf
    return np.maximum(costs / mean, LEAST_COST) if known else np.ones(len(costs))


def stored_bits(shape: tuple[int, int], bits: float) -> int:
    """Return the most bits that a weight (N, K) takes, outliers and all."""
    return 8 * shape[0] * _row_bytes(shape, bits, 0)


def _row_bytes(shape: tuple[int, int], bits: float, apart: int) -> int:
    """Return the bytes of a row beside so many bits that are stored apart."""
    rows, columns = shape
    most = ceil(bits * columns / 8) - ceil(apart / (8 * rows))
    return max(most, ceil(min(LEAST_PLANES, rows) * columns / rows))


def quantize(
    weight: Floats, curvature: Singles, bits: float, costs: Floats | None, *, calibrated: bool
) -> Trellis:
    """Quantise a weight (N, K).

    Args:
        weight: (N, K).
        curvature: (K, K) positive definite.
        bits: a weight, outliers and all.
        costs: (N,) what the square of an error costs in each row; None where it is not known: then
            all rows lose the same share of their squares.
        calibrated: make errors good in other columns.

    Raises:
        ConfigError: the weight has more columns than the operator allows.
    """
    if weight.shape[1] > MAX_COLUMNS:
        raise ConfigError(
            f"a linear has {weight.shape[1]} columns; trellis allows at most {MAX_COLUMNS}: "
            "choose another scheme"
        )
    run = _Run(weight, bits, costs)
    if not calibrated:
        for column, values in enumerate(run.columns):
            run.nearest(column, values)
        return run.result()
    rounding.in_turn(run.columns, curvature, run.nearest)
    for _ in range(PASSES):
        run.refit(curvature)
        rounding.once_more(run.columns, run.rounded, curvature, run.nearest)
    run.refit(curvature)
    return run.result()


class _Run:
    """A weight that is being rounded.

    Attributes:
        columns: (K, N), of a row at most 1.
        rounded: (K, N) what they are rounded to.
    """

    def __init__(self, weight: Floats, bits: float, costs: Floats | None) -> None:
        largest = np.abs(weight).max(axis=1)
        least = largest[largest > 0].min() if largest.any() else 1.0
        # Divided by these, all weights have squares that are numbers.
        self._gain = np.where(largest > 0, largest, NOTHING * least)
        self.columns = np.ascontiguousarray((weight / self._gain[:, None]).T, np.float32)
        self.rounded = np.zeros_like(self.columns)
        self._far, self._unit, apart = _find_far(self.columns, bits)
        rows, columns = weight.shape
        of_levels = np.ones(rows) if costs is None else costs * (self._gain * self._unit) ** 2
        self._costs = _shares(of_levels).astype(np.float32)
        self._row_bytes = _row_bytes((rows, columns), bits, apart)
        self._search = TrellisSearch(rows, num_planes(rows, columns, self._row_bytes))
        self._states = np.zeros(self.columns.shape, np.uint16)
        self._levels = state_levels().astype(np.float32)

    def nearest(self, column: int, values: Singles) -> Singles:
        """Round a column to values (N,); what is stored apart is hit."""
        states = self._search.nearest(values / self._unit, self._costs)
        self._states[column] = states
        found: Singles = np.where(self._far[column], values, self._levels[states] * self._unit)
        self.rounded[column] = found
        return found

    def refit(self, curvature: Singles) -> None:
        """Choose the units anew, given the codes: least squares of the outputs."""
        levels = np.where(self._far, 0, self._levels[self._states])
        wanted = self.columns - np.where(self._far, self.rounded, 0)
        weighed = curvature @ levels
        gain, size = (np.einsum("kn,kn->n", one, weighed) for one in (wanted, levels))
        found = np.maximum(gain / np.where(size > 0, size, 1), np.float32(LEAST_UNIT))
        self._unit = np.where((size > 0) & (gain > 0), found, self._unit)
        self.rounded = np.where(self._far, self.rounded, levels * self._unit)

    def result(self) -> Trellis:
        """Return the weight as integers."""
        unit, far = self._unit.astype(np.float64), self._far.T
        apart = np.rint(self.rounded.T / unit[:, None]) - state_levels()[self._states.T]
        values = np.where(far, np.clip(apart, -VALUE_LIMIT, VALUE_LIMIT), 0.0)
        states = np.ascontiguousarray(self._states.T)
        return Trellis(states, Sparse(far, values), unit * self._gain, self._row_bytes)


def _find_far(columns: Singles, bits: float) -> tuple[npt.NDArray[np.bool_], Singles, int]:
    """Return what is stored apart (K, N), the units (N,), and the bits that it takes.

    Nothing is, if the levels lost less by it than by the bits that it takes from the codes.
    """
    far = np.zeros(columns.shape, np.bool_)
    size = np.abs(columns)
    whole = np.sqrt((columns**2).mean(axis=0))
    root = whole
    for _ in range(SETTLING):
        far = size > FAR * root
        root = np.sqrt(np.where(far, 0, columns**2).sum(axis=0) / np.maximum((~far).sum(axis=0), 1))
    apart = sparse_bits(columns.shape[1], int(far.sum()))
    missed = np.where(far, size / np.maximum(root, LEVEL_RMS * LEAST_UNIT) - HIT, 0)
    saved = float((missed**2).sum()) / columns.size
    if saved < LEFT * (4.0 ** (apart / columns.size - bits) - 4.0**-bits):
        far, root, apart = np.zeros_like(far), whole, 0
    return far, np.maximum(root / np.float32(LEVEL_RMS), np.float32(LEAST_UNIT)), apart
