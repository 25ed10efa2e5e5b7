"""Rounding to a grid so that the outputs change least, not the weights.

With calibration activations X, the error of a row is ``r H r``, r = weight - rounded weight and
``H = sum of x x'``. Three steps, each of which never makes it larger by more than it gains:
compensation (GPTQ, arXiv 2210.17323: the error of a column is made good by those to come),
coordinate descent (QuantEase, arXiv 2309.01885: each weight once more, given all others), and the
scales of a group by least squares, given the codes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgellm.exporters.quantizers import cholesky
from edgellm.exporters.quantizers.cholesky import Singles
from edgellm.exporters.quantizers.grid_columns import GridColumns
from edgellm.exporters.quantizers.grids import (
    Codes,
    Floats,
    Grid,
    quantize,
)

DAMPING = 0.01
"""Share of the mean diagonal that is added to it: keeps a singular H solvable."""
SPAN = 512
"""Columns whose sums over all others are made at once, as one matrix product."""
LEAF = 8
"""Columns whose changes are passed on one after the other; between more of them it takes matrix
products. With columns that lie together in memory this takes a third of the time that rows took."""

Visit = Callable[[int, Singles], Singles]
"""(column of a span, its sums (N,)) -> by how much its error changes, (N,)."""


Nearest = Callable[[int, Singles], Singles]
"""(column, values (N,)) -> the levels that it is rounded to, (N,)."""


@dataclass(frozen=True)
class Rounded:
    """A weight as codes of a grid."""

    codes: Codes
    grid: Grid


def damp(hessian: Floats | Singles) -> Singles:
    """Return a positive definite H of mean 1; a channel that is never active gets 1, too.

    Raises nothing: with no activation at all it is the identity.
    """
    diagonal = np.diagonal(hessian).astype(np.float64)
    mean = float(diagonal.mean())
    if not (0 < mean < np.inf and np.isfinite(hessian).all()):
        return np.eye(len(hessian), dtype=np.float32)
    damped = (hessian * (1 / mean)).astype(np.float32, copy=False)
    damped[np.diag_indices_from(damped)] += np.where(diagonal > 0, DAMPING, 1.0)
    return damped


def importance(hessian: Singles) -> Floats:
    """Return how much an error of each column weighs when the others are not corrected, (K,)."""
    return np.diagonal(hessian).astype(np.float64)


def left_by_compensation(hessian: Singles) -> Floats:
    """Return (K,): how much an error of each column weighs once ``compensate`` has corrected it."""
    backwards = np.argsort(-np.diagonal(hessian), kind="stable")[::-1]
    weights = np.empty(len(backwards))
    weights[backwards] = np.diagonal(cholesky.factor(hessian[np.ix_(backwards, backwards)], 0.0))
    return weights**2


def plain(weight: Floats, grid: Grid, size: int) -> Rounded:
    """Round each weight to the nearest level."""
    return Rounded(quantize(weight, grid, size), grid)


def compensate(weight: Floats, grid: Grid, size: int, hessian: Singles) -> Rounded:
    """Round column after column, the most active first, each making good what those before lost.

    With H = R R', R upper triangular, the error of a row r is the sum over columns j of
    (r_0 R_0j + ... + r_j R_jj)^2; each column is rounded so that its term is the least, which is
    what GPTQ's corrections of the columns to come lead to.
    """
    columns = np.ascontiguousarray(weight.T, np.float32)  # column after column in memory
    table = GridColumns(grid)
    ranks = np.empty(columns.shape, np.uint8)

    def nearest(column: int, values: Singles) -> Singles:
        ranks[column], level = table.round(values, column // size)
        return level

    in_turn(columns, hessian, nearest)
    return Rounded(table.codes_of(ranks, size), grid)


def in_turn(columns: Singles, hessian: Singles, nearest: Nearest) -> None:
    """Have columns (K, N) rounded as ``compensate`` says, each by ``nearest``."""
    order = np.argsort(-np.diagonal(hessian), kind="stable")
    upper = _unit_upper(hessian, order)
    errors = np.empty_like(columns)  # in the order of rounding
    for begin in range(0, len(order), SPAN):
        end = min(begin + SPAN, len(order))

        def visit(i: int, sums: Singles, begin: int = begin) -> Singles:
            j = int(order[begin + i])
            return columns[j] - nearest(j, columns[j] + sums)

        sums = upper[:begin, begin:end].T @ errors[:begin]
        errors[begin:end] = _sweep(sums, upper[begin:end, begin:end], visit)


def once_more(columns: Singles, levels: Singles, hessian: Singles, nearest: Nearest) -> None:
    """Have columns (K, N) rounded anew, given all others: one pass of coordinate descent.

    ``levels`` (K, N) are what they were rounded to, and ``nearest`` puts the new ones there.
    """
    rest = columns - levels
    diagonal = np.diagonal(hessian)
    for begin in range(0, len(columns), SPAN):
        end = min(begin + SPAN, len(columns))

        def visit(i: int, at: Singles, begin: int = begin) -> Singles:
            old = levels[begin + i].copy()
            return old - nearest(begin + i, old + at / diagonal[begin + i])

        sums = hessian[begin:end] @ rest
        rest[begin:end] += _sweep(sums, hessian[begin:end, begin:end], visit)


def _unit_upper(hessian: Singles, order: npt.NDArray[np.intp]) -> Singles:
    """Return R of ``compensate`` for columns in another order, divided by its diagonal."""
    backwards = order[::-1]
    lower = cholesky.factor(hessian[np.ix_(backwards, backwards)], 0.0)
    upper = lower[::-1, ::-1].astype(np.float32)
    upper /= np.diagonal(upper).copy()
    return upper


def _sweep(sums: Singles, coupling: Singles, visit: Visit) -> Singles:
    """Visit columns in order, each with what the changes of those before did to its sums.

    Args:
        sums: (n, N), will be changed.
        coupling: (n, n): what a change of i adds to the sums of j > i.
        visit: see ``Visit``.

    Returns:
        (n, N) the changes.
    """
    count = len(sums)
    if count > LEAF:
        half = count // 2
        first = _sweep(sums[:half], coupling[:half, :half], visit)
        sums[half:] += coupling[:half, half:].T @ first
        second = _sweep(sums[half:], coupling[half:, half:], lambda i, at: visit(half + i, at))
        return np.concatenate([first, second])
    changes = np.empty_like(sums)
    for i in range(count):
        changes[i] = visit(i, sums[i])
        sums[i + 1 :] += coupling[i, i + 1 :, None] * changes[i]
    return changes


def improve(weight: Floats, start: Rounded, size: int, hessian: Singles, *, refit: bool) -> Rounded:
    """Choose each weight's code anew, given all others: one pass of coordinate descent.

    With ``refit`` the parameters of each group are chosen anew before its codes, given these and
    all other groups: least squares of the outputs.
    """
    columns = np.ascontiguousarray(weight.T, np.float32)  # column after column in memory
    parameters, table = start.grid.parameters.copy(), GridColumns(start.grid)
    ranks = table.ranks_of(start.codes, size)
    rest = columns - table.weights(ranks, size)
    diagonal = np.diagonal(hessian)
    width = max(size, SPAN // size * size)
    for begin in range(0, len(columns), width):
        end = min(begin + width, len(columns))
        sums = hessian[begin:end] @ rest
        for first in range(begin, end, size):
            part = slice(first, min(first + size, end))
            group, near = first // size, slice(first - begin, part.stop - begin)
            if refit:
                features = _features(start.grid, group, start.codes[:, part])
                change = _least_squares(features, hessian[part, part], sums[near])
                parameters[:, group] += change
                moved = np.einsum("fin,nf->in", features, change.astype(np.float32))
                rest[part] -= moved
                sums -= hessian[begin:end, part] @ moved
                table.put(group, _group_grid(start.grid, group, parameters[:, group]), 0)

            def visit(i: int, at: Singles, first: int = first, group: int = group) -> Singles:
                old = columns[first + i] - rest[first + i]
                target = old + at / diagonal[first + i]
                ranks[first + i], new = table.round(target, group)
                return old - new

            changes = _sweep(sums[near], hessian[part, part], visit)
            rest[part] += changes
            sums[near.stop :] += hessian[part.stop : end, part] @ changes
    grid = Grid.make(start.grid.features, parameters) if refit else start.grid
    return Rounded(table.codes_of(ranks, size), grid)


def _features(grid: Grid, group: int, codes: Codes) -> Singles:
    """Return what the levels of codes (N, n) are made of, (F, n, N)."""
    table = grid.features[:, min(group, grid.features.shape[1] - 1)]  # (N or 1, L, F)
    rows = np.minimum(np.arange(len(codes)), len(table) - 1)[:, None]
    return np.ascontiguousarray(table[rows, codes].transpose(2, 1, 0), np.float32)


def _group_grid(grid: Grid, group: int, parameters: Floats) -> Grid:
    features = grid.features[:, min(group, grid.features.shape[1] - 1)]
    return Grid.make(features[:, None], parameters[:, None])


def _least_squares(features: Singles, near: Singles, sums: Singles) -> Floats:
    """Return the change of a group's parameters (N, F) that lowers the error of outputs most.

    Args:
        features: (F, n, N) of the weights of the group.
        near: (n, n) H of the group.
        sums: (n, N) H of the group's columns times all errors.
    """
    weighted = [near @ one for one in features]
    gram = np.array([[np.einsum("in,in->n", x, y) for y in weighted] for x in features])
    right = np.array([np.einsum("in,in->n", one, sums) for one in features])
    return _solve(gram.transpose(2, 0, 1).astype(np.float64), right.T.astype(np.float64))


def _solve(gram: Floats, right: Floats) -> Floats:
    """Solve small systems (N, F, F); those that are singular get the shortest solution."""
    size = gram.shape[-1]
    ridge = 1e-9 * np.trace(gram, axis1=1, axis2=2) + np.finfo(np.float64).tiny
    damped = gram + ridge[:, None, None] * np.eye(size)
    solution: Floats = np.linalg.solve(damped, right[..., None])[..., 0]
    return solution
