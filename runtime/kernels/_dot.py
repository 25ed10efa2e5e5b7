"""Dot products of int8 codes, exact in int32; LLVM turns these loops into vector code."""

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.int8]


def dot(a: Codes, b: Codes) -> np.int32:
    """Return ``a . b``."""
    total = np.int32(0)
    for k in range(a.shape[0]):
        total = np.int32(total + np.int32(a[k]) * np.int32(b[k]))
    return total


def dot_wide(a: Codes, b: npt.NDArray[np.int16]) -> np.int32:
    """Return ``a . b`` over the length of a."""
    total = np.int32(0)
    for k in range(a.shape[0]):
        total = np.int32(total + np.int32(a[k]) * np.int32(b[k]))
    return total
