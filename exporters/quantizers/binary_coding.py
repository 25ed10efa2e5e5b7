"""Binary coding: weights as sums of +-alpha, with alphas that are sums of powers of two.

``w = sum of alpha_p * b_p`` with b of +1 and -1, by alternating least squares (Xu et al., ICLR
2018), as ShiftAddLLM (arXiv 2406.05981) has it. The powers of two come last, when the alphas have
converged, and the bits are chosen anew for them: that loses less than rounding in the loop (2 and
12 % of the error for 3 and 4 bits with two terms, instead of 9 and 56 %).
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from edgellm.exporters.quantizers.grids import (
    BLOCK_WEIGHTS,
    Fit,
    Floats,
    Grid,
    decode,
    nearest,
)

ROUNDS = 30
EXPONENTS = 13
"""The powers of two of a row are 2^0 to 2^12 times its unit."""
UNITS = 8
"""Units of a row that are tried, from 1 to 2 in equal ratios: a channel has a free scale anyway."""


@dataclass(frozen=True)
class Terms:
    """Alphas as signed powers of two: alpha = unit * sum of sign * 2^exponent.

    Attributes:
        signs: (N, G, P, S) int8: -1, 1, or 0 for no term.
        exponents: (N, G, P, S) int8, 0 to EXPONENTS - 1.
        unit: (N,) float64.
    """

    signs: npt.NDArray[np.int8]
    exponents: npt.NDArray[np.int8]
    unit: Floats

    def values(self) -> Floats:
        """Return the alphas, (N, G, P)."""
        sums = np.ldexp(self.signs.astype(np.float64), self.exponents).sum(axis=3)
        return sums * self.unit[:, None, None]


def signs_of_codes(bits: int) -> Floats:
    """Return (2^bits, bits): +1 where bit p of a code is set, else -1."""
    codes = np.arange(1 << bits)[:, None]
    return np.where(codes >> np.arange(bits) & 1, 1.0, -1.0)


def from_alphas(alphas: Floats) -> Grid:
    """Return the grid of all sums of +-alpha; alphas (N, G, P)."""
    return Grid.make(signs_of_codes(alphas.shape[2])[None, None], alphas)


def fit(bits: int) -> Fit:
    """Return a fit of alphas that are any real numbers."""
    return partial(_fit, bits=bits)


def _fit(weights: Floats, importance: Floats, *, bits: int) -> Grid:
    rows = max(1, BLOCK_WEIGHTS // max(1, weights[0].size * bits))
    parts = [
        _alternate(weights[first : first + rows], importance, bits)
        for first in range(0, len(weights), rows)
    ]
    return from_alphas(np.concatenate(parts))


def _alternate(weights: Floats, importance: Floats, bits: int) -> Floats:
    """Return alphas (n, G, P), from two starts the better: at 4 bits neither always wins."""
    starts = (_greedy(weights, importance, bits), _halving(weights, importance, bits))
    first, second = (_converge(start, weights, importance) for start in starts)
    better = second[1] < first[1]
    return np.where(better[..., None], second[0], first[0])


def _converge(alphas: Floats, weights: Floats, importance: Floats) -> tuple[Floats, Floats]:
    """Find the best bits for the alphas, the best alphas for these, and so on.

    Returns:
        alphas (n, G, P) and their weighted error (n, G).
    """
    features = signs_of_codes(alphas.shape[-1])
    for _ in range(ROUNDS):
        grid = from_alphas(alphas)
        chosen = features[nearest(weights, grid.order, grid.middles)]  # (n, G, size, P)
        alphas = _least_squares(chosen, weights, importance)
    grid = from_alphas(alphas)
    difference = decode(nearest(weights, grid.order, grid.middles), grid.levels) - weights
    return alphas, (difference**2 * importance).sum(axis=2)


def _halving(weights: Floats, importance: Floats, bits: int) -> Floats:
    """Return alphas that halve from one to the next: levels in equal steps over 2.5 deviations."""
    total = np.maximum(importance.sum(axis=1), np.finfo(np.float64).tiny)
    deviation = np.sqrt((weights**2 * importance).sum(axis=2) / total)
    return 2.5 * deviation[..., None] * 0.5 ** np.arange(1, bits + 1)


def _greedy(weights: Floats, importance: Floats, bits: int) -> Floats:
    rest, alphas = weights, []
    total = np.maximum(importance.sum(axis=1), np.finfo(np.float64).tiny)
    for _ in range(bits):
        alpha = (np.abs(rest) * importance).sum(axis=2) / total
        alphas.append(alpha)
        rest = rest - np.where(rest >= 0, 1.0, -1.0) * alpha[..., None]
    return np.stack(alphas, axis=-1)


def _least_squares(chosen: Floats, weights: Floats, importance: Floats) -> Floats:
    """Return the alphas of least weighted error for bits (n, G, size, P) as +1 and -1."""
    weighted = chosen * importance[..., None]
    gram = np.swapaxes(weighted, 2, 3) @ chosen
    right = (weighted * weights[..., None]).sum(axis=2)
    # Two planes with the same bits make the matrix singular: a little of the identity divides
    # their alpha between them.
    ridge = 1e-9 * np.trace(gram, axis1=2, axis2=3) + np.finfo(np.float64).tiny
    gram = gram + ridge[..., None, None] * np.eye(gram.shape[2])
    return np.linalg.solve(gram, right[..., None])[..., 0]


def to_terms(alphas: Floats, count: int) -> Terms:
    """Round alphas (N, G, P) to sums of ``count`` signed powers of two, with the best unit a row.

    The largest alpha of a row gets the exponent 11 or 12; what is below 2^0 is lost.
    """
    peak = np.abs(alphas).max(axis=(1, 2))
    _, power = np.frexp(np.where(peak > 0, peak, 1.0))
    smallest = np.ldexp(1.0, power - EXPONENTS + 1)
    units = [smallest * 2.0 ** (step / UNITS - 0.5) for step in range(UNITS)]
    best = _round_terms(alphas, count, units[0])
    for unit in units[1:]:
        terms = _round_terms(alphas, count, unit)
        best = _choose(_error(terms, alphas) < _error(best, alphas), terms, best)
    return best


def _error(terms: Terms, alphas: Floats) -> Floats:
    difference: Floats = ((terms.values() - alphas) ** 2).sum(axis=(1, 2))
    return difference


def _round_terms(alphas: Floats, count: int, unit: Floats) -> Terms:
    signs, exponents, rest = [], [], alphas / unit[:, None, None]
    for _ in range(count):
        # The nearest power of two: from 3/2 of one, the next.
        exponent = np.floor(np.log2(np.maximum(np.abs(rest) * (4 / 3), 2.0**-60)))
        exponent = np.clip(exponent, 0, EXPONENTS - 1)
        # Half of the smallest power and less is nearer to no term at all.
        sign = np.where(np.abs(rest) * 2 > np.exp2(exponent), np.sign(rest), 0.0)
        rest = rest - sign * np.exp2(exponent)
        signs.append(sign)
        exponents.append(exponent)
    as_bytes = [np.stack(part, axis=-1).astype(np.int8) for part in (signs, exponents)]
    return Terms(as_bytes[0], as_bytes[1], unit)


def _choose(better: npt.NDArray[np.bool_], new: Terms, old: Terms) -> Terms:
    rows = better[:, None, None, None]
    return Terms(
        np.where(rows, new.signs, old.signs),
        np.where(rows, new.exponents, old.exponents),
        np.where(better, new.unit, old.unit),
    )
