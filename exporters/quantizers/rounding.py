"""Rounding to a grid so that the outputs change least, not the weights.

With calibration activations X, the error of a row is ``r H r``, r = weight - rounded weight and
``H = sum of x x'``. Three steps, each of which never makes it larger by more than it gains:
compensation (GPTQ, arXiv 2210.17323: the error of a column is made good by those to come),
coordinate descent (QuantEase, arXiv 2309.01885: each weight once more, given all others), and the
scales of a group by least squares, given the codes.
"""

from dataclasses import dataclass

import numpy as np

from edgellm.exporters.quantizers.grids import (
    Codes,
    Floats,
    Grid,
    decode,
    dequantize,
    nearest,
    quantize,
)

DAMPING = 0.01
"""Share of the mean diagonal that is added to it: keeps a singular H solvable."""
BLOCK = 32
"""Columns whose errors are passed on at once to those beyond, as one matrix product.

Within a block they are passed on column by column, which waits for memory. With columns that lie
together in memory, too, 3072 rows of 512 columns take a third of the time that 128 by rows took.
"""


@dataclass(frozen=True)
class Rounded:
    """A weight as codes of a grid."""

    codes: Codes
    grid: Grid


def damp(hessian: Floats) -> Floats:
    """Return a positive definite H; a channel that is never active gets the mean's weight.

    Raises nothing: with no activation at all it is the identity.
    """
    diagonal = np.diagonal(hessian)
    mean = float(diagonal.mean())
    if mean <= 0 or not np.isfinite(hessian).all():
        return np.eye(len(hessian))
    added = np.where(diagonal > 0, DAMPING * mean, mean)
    return hessian + np.diag(added)


def importance(hessian: Floats) -> Floats:
    """Return how much an error of each column weighs when the others are not corrected, (K,)."""
    return np.diagonal(hessian).copy()


def output_error(weight: Floats, rounded: Rounded, hessian: Floats, size: int) -> float:
    """Return the sum over rows of ``r H r``."""
    rest = weight - dequantize(rounded.codes, rounded.grid, size)
    return float(np.einsum("nk,nk->", rest @ hessian, rest))


def plain(weight: Floats, grid: Grid, size: int) -> Rounded:
    """Round each weight to the nearest level."""
    return Rounded(quantize(weight, grid, size), grid)


def compensate(weight: Floats, grid: Grid, size: int, hessian: Floats) -> Rounded:
    """Round column after column, the most active first, and correct the columns to come."""
    order = np.argsort(-np.diagonal(hessian), kind="stable")
    inverse = np.linalg.inv(hessian[np.ix_(order, order)])
    upper = np.linalg.cholesky((inverse + inverse.T) / 2).T
    rest = np.ascontiguousarray(weight.T[order])  # column after column in memory
    codes = np.empty(rest.shape, np.uint8)
    for begin in range(0, len(order), BLOCK):
        end = min(begin + BLOCK, len(order))
        errors = np.empty((end - begin, len(weight)))
        for j in range(begin, end):
            chosen, level = _round_column(rest[j], grid, int(order[j]) // size)
            codes[order[j]] = chosen
            error = (rest[j] - level) / upper[j, j]
            rest[j + 1 : end] -= upper[j, j + 1 : end, None] * error
            errors[j - begin] = error
        rest[end:] -= upper[begin:end, end:].T @ errors
    return Rounded(np.ascontiguousarray(codes.T), grid)


def descend(weight: Floats, start: Rounded, size: int, hessian: Floats) -> Rounded:
    """Choose each weight's code anew, given all others: one pass of coordinate descent."""
    grid, columns = start.grid, np.ascontiguousarray(weight.T)  # column after column in memory
    codes = np.ascontiguousarray(start.codes.T)
    rest = columns - dequantize(start.codes, grid, size).T
    diagonal = np.diagonal(hessian)
    for begin in range(0, len(columns), BLOCK):
        part = slice(begin, min(begin + BLOCK, len(columns)))
        pull = hessian[part] @ rest
        near = hessian[part, part]
        for i, j in enumerate(range(part.start, part.stop)):
            old = columns[j] - rest[j]
            codes[j], new = _round_column(old + pull[i] / diagonal[j], grid, j // size)
            change = new - old
            rest[j] -= change
            pull[i + 1 :] -= near[i, i + 1 :, None] * change
    return Rounded(np.ascontiguousarray(codes.T), grid)


def refit(weight: Floats, start: Rounded, size: int, hessian: Floats) -> Rounded:
    """Choose the parameters of each group anew, given the codes: least squares of the outputs."""
    codes, grid = start.codes, start.grid
    rest = weight - dequantize(codes, grid, size)
    parameters = grid.parameters.copy()
    rows = np.arange(len(weight))[:, None]
    for group in range(parameters.shape[1]):
        part = slice(group * size, min((group + 1) * size, weight.shape[1]))
        table = grid.features[:, min(group, grid.features.shape[1] - 1)]
        features = table[np.minimum(rows, len(table) - 1), codes[:, part]]  # (N, columns, F)
        pull = rest @ hessian[:, part]
        weighted = np.einsum("ij,njf->nif", hessian[part, part], features)
        gram = np.einsum("nif,nig->nfg", features, weighted)
        right = np.einsum("nif,ni->nf", features, pull)
        change = _solve(gram, right)
        parameters[:, group] += change
        rest[:, part] -= np.einsum("nif,nf->ni", features, change)
    return Rounded(codes, Grid.make(grid.features, parameters))


def _solve(gram: Floats, right: Floats) -> Floats:
    """Solve small systems (N, F, F); those that are singular get the shortest solution."""
    size = gram.shape[-1]
    ridge = 1e-9 * np.trace(gram, axis1=1, axis2=2) + np.finfo(np.float64).tiny
    damped = gram + ridge[:, None, None] * np.eye(size)
    solution: Floats = np.linalg.solve(damped, right[..., None])[..., 0]
    return solution


def _round_column(values: Floats, grid: Grid, group: int) -> tuple[Codes, Floats]:
    """Return the codes and levels nearest to a column (N,) of a group."""
    column = values[:, None]
    codes = nearest(column, grid.order[:, group], grid.middles[:, group])
    return codes[:, 0], decode(codes, grid.levels[:, group])[:, 0]
