"""Binary coding: weights as sums of +-alpha, with alphas that are sums of powers of two.

``w = sum of alpha_p * b_p`` with b of +1 and -1, by alternating least squares (Xu et al., ICLR
2018), as ShiftAddLLM (arXiv 2406.05981) has it. The powers of two come last, when the alphas have
converged, and the bits are chosen anew for them: that loses less than rounding in the loop (2 and
12 % of the error for 3 and 4 bits with two terms, instead of 9 and 56 %).
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from edgellm.exporters.quantizers.grids import (
    BLOCK_WEIGHTS,
    Codes,
    Fit,
    Floats,
    Grid,
)
from edgellm.exporters.quantizers.sorted_groups import Counts, SortedGroups
from edgellm.ops._shift_alphas import pack_alphas, unpack_alphas

ROUNDS = 30
EXPONENTS = 13
"""The powers of two of a row are 2^0 to 2^12 times its unit."""
UNITS = 8
"""Units of a row that are tried, from 1 to 2 in equal ratios: a channel has a free scale anyway."""


@dataclass(frozen=True)
class Powers:
    """Alphas that are sums of few signed powers of two: alpha = unit * integer.

    Attributes:
        integers: (N, G, P) int64.
        unit: (N,) float64.
    """

    integers: npt.NDArray[np.int64]
    unit: Floats

    def values(self) -> Floats:
        """Return the alphas, (N, G, P)."""
        return self.integers * self.unit[:, None, None]


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
    parts = [weights[first : first + rows] for first in range(0, len(weights), rows)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(lambda part: _alternate(part, importance, bits), parts))
    return from_alphas(np.concatenate(found))


def _alternate(weights: Floats, importance: Floats, bits: int) -> Floats:
    """Return alphas (n, G, P), from two starts the better: at 4 bits neither always wins."""
    flat = weights.reshape(-1, weights.shape[2])
    shares = np.broadcast_to(importance, weights.shape).reshape(flat.shape)
    groups = SortedGroups.make(flat, shares)
    starts = (_greedy(weights, importance, bits), _halving(weights, importance, bits))
    first, second = (_converge(start.reshape(-1, bits), groups) for start in starts)
    better = second[1] < first[1]
    chosen = np.where(better[:, None], second[0], first[0])
    return chosen.reshape(*weights.shape[:2], bits)


def _converge(start: Floats, groups: SortedGroups) -> tuple[Floats, Floats]:
    """Find the best bits for the alphas, the best alphas for these, and so on.

    Returns:
        alphas (M, P) and their weighted error (M,), less what no alphas change.
    """
    alphas = start.copy()
    signs = signs_of_codes(alphas.shape[1])
    rows = np.arange(len(alphas))
    before = np.full((len(rows), len(signs) - 1), -1, np.intp)
    for _ in range(ROUNDS):
        counts, codes, _ = _assign(alphas[rows], signs, groups, rows)
        alphas[rows] = _least_squares(signs[codes], *groups.between(rows, counts))
        moved = (counts != before).any(axis=1)
        rows, before = rows[moved], counts[moved]
        if not len(rows):
            break
    rows = np.arange(len(alphas))
    counts, _, levels = _assign(alphas, signs, groups, rows)
    mass, moment = groups.between(rows, counts)
    return alphas, (levels * (levels * mass - 2 * moment)).sum(axis=1)


def _assign(
    alphas: Floats, signs: Floats, groups: SortedGroups, rows: Counts
) -> tuple[Counts, Counts, Floats]:
    """Give each weight of some groups the nearest level.

    Returns:
        how many weights lie below each level but the first; codes and levels, ascending.
    """
    levels = (alphas[:, None] * signs).sum(axis=2)
    codes = np.argsort(levels, axis=1, kind="stable")
    ascending = np.take_along_axis(levels, codes, axis=1)
    middles = (ascending[:, 1:] + ascending[:, :-1]) / 2
    return groups.count_below(rows, middles), codes, ascending


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


def _least_squares(chosen: Floats, mass: Floats, moment: Floats) -> Floats:
    """Return the alphas of least weighted error.

    Args:
        chosen: (n, L, P) the bits of each level as +1 and -1.
        mass: (n, L) the importance of the weights at each level.
        moment: (n, L) the same times the weights.
    """
    weighted = chosen * mass[..., None]
    gram = (weighted[..., None] * chosen[..., None, :]).sum(axis=1)
    right = (chosen * moment[..., None]).sum(axis=1)
    # Two planes with the same bits make the matrix singular: a little of the identity divides
    # their alpha between them.
    ridge = 1e-9 * np.trace(gram, axis1=1, axis2=2) + np.finfo(np.float64).tiny
    gram += ridge[:, None, None] * np.eye(gram.shape[2])
    solution: Floats = np.linalg.solve(gram, right[..., None])[..., 0]
    return solution


def without_minus(codes: Codes, alphas: Floats, size: int) -> Codes:
    """Return codes of the same weights where the alphas have lost their signs.

    Args:
        codes: (N, K).
        alphas: (N, G, P).
        size: columns of a group.
    """
    flips = ((alphas < 0) << np.arange(alphas.shape[2])).sum(axis=2).astype(np.uint8)  # (N, G)
    return codes ^ np.repeat(flips, size, axis=1)[:, : codes.shape[1]]


def to_powers(alphas: Floats, count: int) -> Powers:
    """Round alphas (N, G, P) to sums of ``count`` signed powers of two, with the best unit a row.

    The largest alpha of a row is 2^11 to 2^12.5; what is below 2^0 is lost, and what is 2^9 times
    smaller than the power before. Alphas lose their signs, see ``without_minus``.
    """
    alphas = np.abs(alphas)
    peak = alphas.max(axis=(1, 2))
    _, power = np.frexp(np.where(peak > 0, peak, 1.0))
    smallest = np.ldexp(1.0, power - EXPONENTS + 1)
    units = [smallest * 2.0 ** (step / UNITS - 0.5) for step in range(UNITS)]
    best = _round(alphas, count, units[0])
    for unit in units[1:]:
        powers = _round(alphas, count, unit)
        best = _choose(_error(powers, alphas) < _error(best, alphas), powers, best)
    return Powers(_as_stored(best.integers, count), best.unit)


def _error(powers: Powers, alphas: Floats) -> Floats:
    difference: Floats = ((powers.values() - alphas) ** 2).sum(axis=(1, 2))
    return difference


def _round(alphas: Floats, count: int, unit: Floats) -> Powers:
    rest = alphas / unit[:, None, None]
    total = np.zeros(alphas.shape)
    for _ in range(count):
        # The nearest power of two: from 3/2 of one, the next.
        exponent = np.floor(np.log2(np.maximum(np.abs(rest) * (4 / 3), 2.0**-60)))
        exponent = np.clip(exponent, 0, EXPONENTS - 1)
        # Half of the smallest power and less is nearer to no power at all.
        sign = np.where(np.abs(rest) * 2 > np.exp2(exponent), np.sign(rest), 0.0)
        rest = rest - sign * np.exp2(exponent)
        total += sign * np.exp2(exponent)
    return Powers(total.astype(np.int64), unit)


def _as_stored(integers: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """Return integers (N, G, P) as the operator has them: without powers that are too small."""
    packed = pack_alphas(integers.transpose(1, 2, 0), count)
    return unpack_alphas(packed, integers.shape[2], count).transpose(2, 0, 1)


def _choose(better: npt.NDArray[np.bool_], new: Powers, old: Powers) -> Powers:
    return Powers(
        np.where(better[:, None, None], new.integers, old.integers),
        np.where(better, new.unit, old.unit),
    )
