"""What this machine can do at most: bytes read from memory, and integer products, in a second."""

import ctypes
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from edgellm.runtime.kernels import _objects, simd
from edgellm.runtime.kernels.simd._unit import BLOCK, DOT_CHAINS

BANDWIDTH_BYTES = 256 << 20
"""Size of the array that is read: larger than the caches of common machines."""
REPETITIONS = 5
BANDWIDTH_METHOD = (
    f"best of {REPETITIONS} NumPy sums over {BANDWIDTH_BYTES >> 20} MiB of int64, "
    "split over the threads"
)
DOT_ROUNDS = 1 << 20
"""Of DOT_CHAINS products each: 2 ms on a server of 2023, some 50 ms on a Raspberry Pi 4."""


def read_bandwidth(threads: int) -> float:
    """Return the bytes per second that so many threads read from memory together."""
    parts = np.array_split(np.ones(BANDWIDTH_BYTES // 8, dtype=np.int64), threads)
    return BANDWIDTH_BYTES / _best_seconds(np.sum, parts)


def dot_peak(variant: str, threads: int) -> float | None:
    """Return the products of small integers a second that so many threads reach from registers.

    Args:
        variant: of the kernels: a vector unit that this processor has, or "portable".
        threads: how many run at once.

    Returns:
        Products (multiply-accumulates) per second; None for "portable", which has no dot products
        of its own.
    """
    if variant == simd.PORTABLE:
        return None
    prototype = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64)
    loop = prototype(_objects.dot_peak_address(variant))
    places = [np.ones(1, np.int64) for _ in range(threads)]
    seconds = _best_seconds(lambda place: loop(place.ctypes.data, DOT_ROUNDS), places)
    return threads * DOT_ROUNDS * BLOCK * DOT_CHAINS / seconds


def _best_seconds(work: Callable[[Any], object], parts: list[Any]) -> float:
    """Return the shortest time that threads take for a part each."""
    best = float("inf")
    with ThreadPoolExecutor(len(parts)) as pool:
        for _ in range(REPETITIONS):
            begin = time.perf_counter()
            list(pool.map(work, parts))
            best = min(best, time.perf_counter() - begin)
    return best
