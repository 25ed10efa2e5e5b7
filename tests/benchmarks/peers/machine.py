"""What the machine can do, measured between the engines: reads from memory, integer products."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from edgellm.errors import ConfigError
from edgellm.runtime import cpu
from edgellm.runtime.kernels import simd
from edgellm.runtime.limits import dot_peak
from tests.benchmarks.peers.measures import Measure, mean_seconds, timed

READ_BYTES = 1 << 30
PRODUCTS = 1 << 30


@dataclass(frozen=True)
class Memory:
    """Reads an array that is larger than the caches; a sample is one pass."""

    name: str = "memory"

    def open(self) -> "MemoryRunner":
        return MemoryRunner()


class MemoryRunner:
    """NumPy sums, a contiguous part for each thread."""

    def __init__(self) -> None:
        self.weight_bytes = READ_BYTES
        self._array = np.ones(READ_BYTES // 8, np.int64)

    def seconds(self, measure: Measure) -> float:
        parts = np.array_split(self._array, measure.threads)
        with ThreadPoolExecutor(measure.threads) as pool:
            return mean_seconds(lambda: timed(lambda: list(pool.map(np.sum, parts))))


@dataclass(frozen=True)
class DotProducts:
    """Ternary dot products of registers; a sample is ``weight_bytes`` products on each thread."""

    name: str = "dot products"

    def open(self) -> "DotRunner":
        return DotRunner()


class DotRunner:
    """The loop of ``runtime/limits.py``, on each thread."""

    def __init__(self) -> None:
        self._variant = simd.chosen(cpu.host())
        self.weight_bytes = PRODUCTS

    def seconds(self, measure: Measure) -> float:
        peak = dot_peak(self._variant, measure.threads)
        if peak is None:
            raise ConfigError("the portable kernels have no dot products to compare with")
        return PRODUCTS * measure.threads / peak
