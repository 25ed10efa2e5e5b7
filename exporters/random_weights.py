"""Random weights of any shape, for benchmarks without a download: the same on every machine."""

import math
import zlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from edgellm.exporters.checkpoint import row_blocks
from edgellm.exporters.quantization import BitNetQuantization
from edgellm.exporters.weights import FloatMatrix, TernaryMatrix

TERNARY_SPREAD = math.sqrt(2 / 3)
"""Standard deviation of a uniform choice among -1, 0 and 1."""
TABLE_SPREAD = 0.02
"""Standard deviation of embeddings and heads, transformers' ``initializer_range``."""


class RandomWeights:
    """Weights drawn from the seed and the name of each tensor, block by block."""

    def __init__(self, quantization: BitNetQuantization | None, seed: int) -> None:
        self.quantization = quantization
        self.seed = seed

    def vector(self, name: str, size: int) -> npt.NDArray[np.float32]:
        """Return a norm weight in 0.5..1.5, or a bias in -0.5..0.5."""
        offset = -0.5 if name.endswith(".bias") else 0.5
        return self._generator(name).random(size, np.float32) + np.float32(offset)

    def tensor(self, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """Return numbers with the spread of embeddings."""
        draws = self._generator(name).random(shape, np.float32) - np.float32(0.5)
        return draws * np.float32(TABLE_SPREAD * math.sqrt(12))

    def matrix(self, name: str, shape: tuple[int, int]) -> FloatMatrix:
        """Return an embedding or a head."""
        return self._uniform(name, shape, TABLE_SPREAD)

    def linear(self, path: str, shape: tuple[int, int]) -> FloatMatrix | TernaryMatrix:
        """Return a linear that keeps the variance of its input."""
        name = f"{path}.weight"
        spread = 1 / math.sqrt(shape[1])
        if self.quantization is None or not self.quantization.converts(path):
            return self._uniform(name, shape, spread)

        def blocks() -> Iterator[npt.NDArray[np.int8]]:
            generator = self._generator(name)
            for begin, end in row_blocks(shape):
                yield generator.integers(-1, 2, (end - begin, shape[1]), np.int8)

        return TernaryMatrix(shape, spread / TERNARY_SPREAD, blocks)

    def _uniform(self, name: str, shape: tuple[int, int], spread: float) -> FloatMatrix:
        width = np.float32(spread * math.sqrt(12))

        def blocks() -> Iterator[npt.NDArray[np.float32]]:
            generator = self._generator(name)
            for begin, end in row_blocks(shape):
                draws = generator.random((end - begin, shape[1]), np.float32)
                yield (draws - np.float32(0.5)) * width

        return FloatMatrix(shape, blocks)

    def _generator(self, name: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, zlib.crc32(name.encode())])
