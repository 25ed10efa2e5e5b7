"""Uniform grids: a scale and a zero point for every row and group (W4A8 and its kin)."""

from functools import partial

import numpy as np

from edgellm.exporters.quantizers.grids import BLOCK_WEIGHTS, Fit, Floats, Grid

SHRINKS = tuple(1.0 - 0.025 * step for step in range(24))
"""Shares of the range of a group that are tried: clipping a few weights can serve the others."""


def fit(bits: int, *, clip: bool = True) -> Fit:
    """Return a fit of grids with 2^bits levels.

    Args:
        bits: 1 to 8.
        clip: choose each range by the least weighted error, instead of from minimum to maximum.
    """
    return partial(_fit, bits=bits, shrinks=SHRINKS if clip else (1.0,))


def from_parameters(scale: Floats, zero: Floats, bits: int) -> Grid:
    """Return the grid ``scale * (code - zero)``; scale and zero (N, G)."""
    features = np.arange(2.0**bits) - zero[..., None]
    return Grid.make(features[..., None], scale[..., None])


def _fit(weights: Floats, importance: Floats, *, bits: int, shrinks: tuple[float, ...]) -> Grid:
    rows = max(1, BLOCK_WEIGHTS // max(1, weights[0].size))
    parts = [
        _fit_rows(weights[first : first + rows], importance, bits, shrinks)
        for first in range(0, len(weights), rows)
    ]
    scale = np.concatenate([part[0] for part in parts])
    zero = np.concatenate([part[1] for part in parts])
    return from_parameters(scale, zero, bits)


def _fit_rows(
    weights: Floats, importance: Floats, bits: int, shrinks: tuple[float, ...]
) -> tuple[Floats, Floats]:
    """Return the scale and zero (n, G) of least weighted error."""
    last = 2.0**bits - 1
    low, high = np.minimum(weights.min(axis=2), 0), np.maximum(weights.max(axis=2), 0)
    best = np.full(low.shape, np.inf)
    best_scale, best_zero = np.ones_like(low), np.zeros_like(low)
    for shrink in shrinks:
        scale = (high - low) * shrink / last
        scale = np.where(scale > 0, scale, 1.0)  # a group of zeros has any scale
        zero = np.clip(np.rint(-low * shrink / scale), 0, last)
        codes = np.clip(np.rint(weights / scale[..., None]) + zero[..., None], 0, last)
        difference = scale[..., None] * (codes - zero[..., None]) - weights
        error = (difference**2 * importance).sum(axis=2)
        better = error < best
        best = np.where(better, error, best)
        best_scale = np.where(better, scale, best_scale)
        best_zero = np.where(better, zero, best_zero)
    return best_scale, best_zero
