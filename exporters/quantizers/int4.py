"""Weights of 4 bits for the logits head: one scale a row, that of the least squared error."""

import numpy as np
import numpy.typing as npt

LOWEST, HIGHEST = -8, 7
CLIPS = (1.0, 0.93, 0.86, 0.79, 0.72, 0.65)
"""Shares of a row's peak that a code of 7 is tried for. Each is refined by least squares."""

Floats = npt.NDArray[np.float64]


def quantize_rows(rows: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int8], Floats]:
    """Quantise each row with the best of a few scales.

    Args:
        rows: (N, K).

    Returns:
        codes (N, K) in [-8, 7] and scales (N,); a zero row has zero codes and the scale 0.
    """
    wide = rows.astype(np.float64)
    peak = np.abs(wide).max(axis=1)
    safe = np.where(peak > 0, peak, 1.0)
    codes = np.zeros(rows.shape, np.int8)
    scales = np.zeros(len(rows))
    gains = np.zeros(len(rows))
    for clip in CLIPS:
        tried = np.clip(np.rint(wide * (HIGHEST / (clip * safe))[:, None]), LOWEST, HIGHEST)
        scale, gain = _fit(wide, tried)
        better = gain > gains
        codes[better] = tried[better]
        scales[better], gains[better] = scale[better], gain[better]
    return codes, scales


def _fit(rows: Floats, codes: Floats) -> tuple[Floats, Floats]:
    """Return the scale of least squared error for codes, and how much less than |row|^2 it is."""
    product = np.einsum("nk,nk->n", rows, codes)
    square = np.einsum("nk,nk->n", codes, codes)
    scale = product / np.where(square > 0, square, 1.0)
    return scale, scale * product
