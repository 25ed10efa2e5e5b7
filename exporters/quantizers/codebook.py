"""Codebooks: any levels for each row and group, by k-means weighted by sensitivity, and outliers.

SqueezeLLM (arXiv 2306.07629): where a weight matters more, levels lie closer, and the few weights
that no level serves are stored apart.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgellm.errors import ConfigError
from edgellm.exporters.quantizers import kmeans, rounding
from edgellm.exporters.quantizers.cholesky import Singles
from edgellm.exporters.quantizers.grids import (
    Floats,
    Grid,
    dequantize,
)
from edgellm.exporters.quantizers.rounding import Rounded
from edgellm.exporters.quantizers.sparse import VALUE_LIMIT, Mask, Sparse
from edgellm.ops._bit_planes import split_groups
from edgellm.ops._outliers import MAX_COLUMNS
from edgellm.row_codes import pack_row_codes, unpack_row_codes

PASSES = 3
SETTLING = 2
"""Passes for levels that are integers: a third lowers the error by 0.3 %."""
LEVEL_LIMIT = 127
CODE_LIMIT = 127
"""Of activations."""
SUM_LIMIT = 2**31 - 1
LEVEL_BITS = 8


@dataclass(frozen=True)
class Shape:
    """How much a weight gets.

    Attributes:
        bits: of a code.
        size: columns of a group.
        outliers: share of the weights.
    """

    bits: int
    size: int
    outliers: float = 0.0


def from_levels(levels: Floats) -> Grid:
    """Return the grid of so many levels (N, G, L): each is a parameter of its own."""
    return Grid.make(np.eye(levels.shape[2])[None, None], levels)


@dataclass(frozen=True)
class Codebooks:
    """A weight as integers; real weight = (level of the code + outlier) * unit of the row.

    Attributes:
        codes: (N, K) uint8.
        levels: (N, G, L) int8.
        outliers: (N, K): their values are integers.
        unit: (N,).
    """

    codes: npt.NDArray[np.uint8]
    levels: npt.NDArray[np.int8]
    outliers: Sparse
    unit: Floats

    def real(self, size: int) -> Floats:
        """Return the weights that the integers stand for, (N, K); groups of so many columns."""
        grid = from_levels(self.levels.astype(np.float64))
        integers = dequantize(self.codes, grid, size) + self.outliers.values
        return integers * self.unit[:, None]

    def tensors(self) -> Mapping[str, npt.NDArray[np.generic]]:
        """Return the weights as CodebookLinear takes them."""
        bits = self.levels.shape[2].bit_length() - 1
        codes = pack_row_codes(self.codes, bits)
        return {"codes": codes, "levels": self.levels, **self.outliers.tensors()}


def from_tensors(
    tensors: Mapping[str, npt.NDArray[np.generic]], columns: int, unit: Floats
) -> Codebooks:
    """Return what ``Codebooks.tensors`` was made of."""
    levels = tensors["levels"].astype(np.int8)
    bits = levels.shape[2].bit_length() - 1
    codes = unpack_row_codes(tensors["codes"].astype(np.uint8), bits, columns)
    sparse = Sparse.from_tensors(tensors, (len(codes), columns))
    return Codebooks(codes, levels, sparse, unit)


def quantize(weight: Floats, curvature: Singles, shape: Shape, *, calibrated: bool) -> Codebooks:
    """Quantise a weight (N, K).

    Args:
        weight: (N, K).
        curvature: (K, K) positive definite.
        shape: how much it gets.
        calibrated: make errors good in other columns.

    Raises:
        ConfigError: the weight has more columns than the operator allows.
    """
    if weight.shape[1] > MAX_COLUMNS:
        raise ConfigError(
            f"a linear has {weight.shape[1]} columns; codebook allows at most {MAX_COLUMNS}: "
            "choose another scheme"
        )
    size = shape.size
    grid, sparse = _fit_dense(weight, rounding.importance(curvature), shape)
    plain = _to_integers(weight, rounding.plain(weight - sparse.values, grid, size), sparse, size)
    if not calibrated:
        return plain
    rounded = rounding.compensate(weight - sparse.values, grid, size, curvature)
    for _ in range(PASSES):
        dense = weight - sparse.values
        rounded = rounding.improve(dense, rounded, size, curvature, refit=True)
        sparse = _refit_outliers(weight, rounded, sparse, size, curvature)
    final = _to_integers(weight, rounded, sparse, size)
    for _ in range(SETTLING):
        final = _settle(weight, final, size, curvature)
    return _better(weight, (final, plain), size, curvature)


def _fit_dense(weight: Floats, columns: Floats, shape: Shape) -> tuple[Grid, Sparse]:
    """Return levels for all but the outliers, and these."""
    groups = split_groups(weight, shape.size)
    importance = split_groups(columns, shape.size)
    sparse = Sparse.none(weight.shape)
    if count := round(shape.outliers * weight.size):
        # First those far from the mean: levels that were fitted to them would serve them well.
        for bits in (0, shape.bits, shape.bits):
            grid = _fit_levels(groups, importance, bits, sparse.mask)
            rest = _left_over(weight, grid, shape.size)
            mask = _largest(rest**2 * columns, count)
            sparse = Sparse(mask, np.where(mask, rest, 0.0))
    grid = _fit_levels(groups, importance, shape.bits, sparse.mask)
    rest = _left_over(weight, grid, shape.size)
    return grid, Sparse(sparse.mask, np.where(sparse.mask, rest, 0.0))


def _left_over(weight: Floats, grid: Grid, size: int) -> Floats:
    """Return what the nearest levels lack."""
    return weight - dequantize(rounding.plain(weight, grid, size).codes, grid, size)


def _fit_levels(groups: Floats, importance: Floats, bits: int, without: Mask) -> Grid:
    """Return levels for the weights (N, G, size) that are no outliers."""
    counted = split_groups(np.where(without, 0.0, 1.0), groups.shape[2]) * importance
    return from_levels(kmeans.find_levels(groups, counted, bits))


def _largest(losses: Floats, count: int) -> Mask:
    """Return where the largest losses are, of equal ones the first; a loss of 0 is none."""
    chosen = np.argsort(-losses, axis=None, kind="stable")[:count]
    mask = np.zeros(losses.shape, np.bool_)
    mask.reshape(-1)[chosen] = True
    return mask & (losses > 0)


def _refit_outliers(
    weight: Floats, rounded: Rounded, sparse: Sparse, size: int, hessian: Singles
) -> Sparse:
    """Choose the values of the outliers anew, given the rest: least squares of the outputs."""
    if not sparse.mask.any():
        return sparse
    values = sparse.values.copy()
    rest = weight - dequantize(rounded.codes, rounded.grid, size) - values
    pull = rest @ hessian
    for row in np.flatnonzero(sparse.mask.any(axis=1)):
        columns = np.flatnonzero(sparse.mask[row])
        values[row, columns] += np.linalg.solve(
            hessian[np.ix_(columns, columns)], pull[row, columns]
        )
    return Sparse(sparse.mask, values)


def _to_integers(weight: Floats, rounded: Rounded, sparse: Sparse, size: int) -> Codebooks:
    """Choose the unit of each row, and round levels and outliers to it."""
    levels = rounded.grid.levels
    found = dequantize(rounded.codes, rounded.grid, size) + sparse.values
    unit = np.maximum.reduce(
        [
            np.abs(levels).max(axis=(1, 2)) / LEVEL_LIMIT,
            np.abs(sparse.values).max(axis=1) / VALUE_LIMIT,
            np.abs(found).sum(axis=1) * (1.01 * CODE_LIMIT / SUM_LIMIT),
        ]
    )
    unit = np.where(unit > 0, unit, 1.0)
    integers = np.rint(levels / unit[:, None, None]).astype(np.int8)
    outliers = Sparse(sparse.mask, np.rint(sparse.values / unit[:, None]))
    return Codebooks(rounded.codes, integers, outliers, unit)


def _settle(weight: Floats, start: Codebooks, size: int, hessian: Singles) -> Codebooks:
    """Choose codes and outliers anew for levels that are integers."""
    scale = start.unit[:, None]
    grid = from_levels(start.levels * scale[..., None])
    sparse = Sparse(start.outliers.mask, start.outliers.values * scale)
    rounded = Rounded(start.codes, grid)
    rounded = rounding.improve(weight - sparse.values, rounded, size, hessian, refit=False)
    sparse = _refit_outliers(weight, rounded, sparse, size, hessian)
    values = np.clip(np.rint(sparse.values / scale), -VALUE_LIMIT, VALUE_LIMIT)
    return Codebooks(rounded.codes, start.levels, Sparse(sparse.mask, values), start.unit)


def _better(
    weight: Floats, pair: tuple[Codebooks, Codebooks], size: int, hessian: Singles
) -> Codebooks:
    """Return, row by row, what changes the outputs less; both have the same outliers."""
    first, second = pair
    errors = []
    for books in pair:
        rest = weight - books.real(size)
        errors.append(np.einsum("nk,nk->n", rest @ hessian, rest))
    kept = errors[0] <= errors[1]
    values = np.where(kept[:, None], first.outliers.values, second.outliers.values)
    return Codebooks(
        np.where(kept[:, None], first.codes, second.codes),
        np.where(kept[:, None, None], first.levels, second.levels),
        Sparse(first.outliers.mask, values),
        np.where(kept, first.unit, second.unit),
    )
