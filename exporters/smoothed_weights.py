"""The weights of a model with channels scaled by powers of two, which loses no bit."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgellm.exporters.lowering.smoothing_sites import Site
from edgellm.exporters.weights import FloatMatrix, TernaryMatrix, WeightSource

Exponents = npt.NDArray[np.int32]


@dataclass(frozen=True)
class ChannelScales:
    """Exponents of two by the name of a tensor: of its rows, and of its columns."""

    rows: Mapping[str, Exponents] = field(default_factory=dict)
    columns: Mapping[str, Exponents] = field(default_factory=dict)

    def with_site(self, site: Site, exponents: Exponents) -> "ChannelScales":
        """Return these and the scales of a site: 2^-exponents of what is divided."""
        rows, columns = dict(self.rows), dict(self.columns)
        for name in site.divided:
            rows[name] = rows.get(name, np.int32(0)) - exponents[site.rows]
        side = rows if site.kind == "scores" else columns
        for name in _multiplied(site):
            side[name] = side.get(name, np.int32(0)) + exponents[site.columns]
        return ChannelScales(rows, columns)


def _multiplied(site: Site) -> list[str]:
    """Return the tensors that a site's scales multiply; a bias has rows only."""
    weights = [f"{path}.weight" for path in site.multiplied]
    if site.kind != "scores":
        return weights
    has_bias = any(name.endswith(".bias") for name in site.divided)
    return [*weights, *(f"{path}.bias" for path in site.multiplied if has_bias)]


class SmoothedWeights:
    """Passes requests on to ``weights`` and scales what comes."""

    def __init__(self, weights: WeightSource, scales: ChannelScales) -> None:
        self._weights = weights
        self._scales = scales

    def vector(self, name: str, size: int) -> npt.NDArray[np.float32]:
        """Return a norm weight or a bias, its channels scaled."""
        values = self._weights.vector(name, size)
        return np.ldexp(values, self._scales.rows.get(name, np.int32(0)))

    def tensor(self, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """Return what ``weights`` returns."""
        return self._weights.tensor(name, shape)

    def matrix(self, name: str, shape: tuple[int, int]) -> FloatMatrix:
        """Return what ``weights`` returns."""
        return self._weights.matrix(name, shape)

    def linear(self, path: str, shape: tuple[int, int]) -> FloatMatrix | TernaryMatrix:
        """Return a weight, its rows and columns scaled."""
        matrix = self._weights.linear(path, shape)
        if isinstance(matrix, TernaryMatrix):
            return matrix
        rows = self._scales.rows.get(f"{path}.weight", np.zeros(shape[0], np.int32))
        columns = self._scales.columns.get(f"{path}.weight", np.int32(0))

        def blocks() -> Iterator[npt.NDArray[np.float32]]:
            first = 0
            for block in matrix.blocks():
                part = rows[first : first + len(block), None]
                yield np.ldexp(block, part + columns)
                first += len(block)

        return FloatMatrix(shape, blocks)
