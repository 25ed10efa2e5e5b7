"""The weights of an integer graph: how a linear or a table is quantised, packed and stored."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgellm import dtypes
from edgellm.exporters.graph import GraphBuilder
from edgellm.exporters.quantizers import int8
from edgellm.exporters.quantizers.low_bit import LowBitLinear
from edgellm.exporters.weights import FloatMatrix, TernaryMatrix, WeightSource

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class StoredLinear:
    """A linear in the graph.

    Attributes:
        op_type: the operator that multiplies with it.
        inputs: names of the operator's inputs after the activations.
        scale: (N,) real value of one step of a row's accumulator, for activations of scale 1.
        attributes: of the operator.
    """

    op_type: str
    inputs: tuple[str, ...]
    scale: Floats
    attributes: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_ternary(self) -> bool:
        """Whether all weights are -1, 0 or 1 times one scale."""
        return self.op_type == "BitLinear"


LinearQuantizer = Callable[[str, Floats], LowBitLinear]
"""(path of a linear, its weight (N, K)) -> the weight as an operator takes it."""


class StoredWeights:
    """Puts weights into a graph as they are asked for, a table that is used twice only once."""

    def __init__(
        self, graph: GraphBuilder, weights: WeightSource, quantizer: LinearQuantizer | None = None
    ) -> None:
        """Linears that are not ternary go through ``quantizer``; without one they become int8."""
        self._graph = graph
        self._weights = weights
        self._quantizer = quantizer
        self._table_scales: dict[str, Floats] = {}

    def linear(self, path: str, shape: tuple[int, int]) -> StoredLinear:
        """Store the weight of a linear."""
        matrix = self._weights.linear(path, shape)
        name = f"{path}.weight"
        if isinstance(matrix, TernaryMatrix):
            return StoredLinear("BitLinear", (name,), self._ternary(name, matrix))
        if self._quantizer is not None:
            weight = np.concatenate(list(matrix.blocks())).astype(np.float64)
            return self._low_bit(path, self._quantizer(path, weight))
        return StoredLinear("Int8Linear", (name,), self._int8(name, matrix))

    def table(self, path: str, shape: tuple[int, int]) -> tuple[str, Floats]:
        """Store an embedding or a head; return its name and the scale of each row."""
        name = f"{path}.weight"
        if name not in self._table_scales:
            self._table_scales[name] = self._int8(name, self._weights.matrix(name, shape))
        return name, self._table_scales[name]

    def _low_bit(self, path: str, weight: LowBitLinear) -> StoredLinear:
        inputs = [
            self._graph.initializer(f"{path}.{port}", tensor)
            for port, tensor in weight.tensors.items()
        ]
        return StoredLinear(weight.op_type, tuple(inputs), weight.unit, weight.attributes)

    def _int8(self, name: str, matrix: FloatMatrix) -> Floats:
        """Store int8 codes and return the scale of each row."""
        scales: list[Floats] = []

        def codes() -> Iterator[npt.NDArray[np.int8]]:
            for block in matrix.blocks():
                quantized, scale = int8.quantize_rows(block)
                scales.append(scale)
                yield quantized

        self._graph.streamed(name, "int8", matrix.shape, codes())
        return np.concatenate(scales)

    def _ternary(self, name: str, matrix: TernaryMatrix) -> Floats:
        """Store packed codes and return the scale of each row, which is the same for all."""
        rows, columns = matrix.shape
        packed = (dtypes.pack_ternary(block) for block in matrix.blocks())
        self._graph.streamed(name, "uint8", (rows, dtypes.packed_columns(columns)), packed)
        return np.full(rows, matrix.scale)
