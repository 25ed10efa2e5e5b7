"""The weights of an integer graph: how a linear or a table is quantised, packed and stored."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgellm import dtypes
from edgellm.dtypes import TERNARY_2BIT
from edgellm.exporters.graph import GraphBuilder
from edgellm.exporters.lowering.integer_values import node_name
from edgellm.exporters.quantizers import int4, int8, ternary
from edgellm.exporters.quantizers.row_classes import JoinedLinear, QuantizedWeight, places_of
from edgellm.exporters.weights import FloatMatrix, TernaryMatrix, WeightSource
from edgellm.int4 import pack_int4
from edgellm.ops._planes import residual_norms
from edgellm.ternary_layouts import LAYOUT_OF, TERNARY_LAYOUTS, TernaryLayout

Floats = npt.NDArray[np.float64]

TERNARY_OPERATORS = (*LAYOUT_OF, "ColumnBitLinear")


@dataclass(frozen=True)
class StoredLinear:
    """A linear in the graph.

    Attributes:
        op_type: the operator that multiplies with it.
        inputs: names of the operator's inputs after the activations.
        scale: (N,) real value of one step of a row's accumulator, for activations of scale 1.
        attributes: of the operator.
        parts: what is joined, where ``op_type`` is JoinColumns; its input number i says how part
            i + 1 is joined to those before it.
    """

    op_type: str
    inputs: tuple[str, ...]
    scale: Floats
    attributes: Mapping[str, int] = field(default_factory=dict)
    parts: tuple["StoredLinear", ...] = ()

    @property
    def is_ternary(self) -> bool:
        """Whether all weights are -1, 0 or 1 times one scale."""
        return self.op_type in TERNARY_OPERATORS


@dataclass(frozen=True)
class StoredTable:
    """An embedding, a head, or both, in the graph: codes of 8 bits, whole or in planes, or of 4.

    Attributes:
        name: of the weight in the checkpoint.
        scale: (V,) real value of one step of a row's codes.
        codes: names of the constants that hold the codes: one, or ``high`` and ``low``.
        norms: name of what a head needs besides, for codes in planes.
        head: the operator that makes logits of it.
    """

    name: str
    scale: Floats
    codes: tuple[str, ...]
    norms: str = ""
    head: str = "LogitsHead"

    @property
    def is_planar(self) -> bool:
        """Whether the codes are in the layout INT8_PLANES."""
        return len(self.codes) > 1


def multiply(
    graph: GraphBuilder, path: str, x: str, weight: StoredLinear, gates: Sequence[str] = ()
) -> str:
    """Emit the product of codes with a weight; return the accumulators.

    Args:
        graph: which gets the operators.
        path: of the linear.
        x: name of the codes.
        weight: which.
        gates: further inputs.
    """
    node = node_name(path, weight.op_type)
    if not weight.parts:
        inputs = [x, *weight.inputs, *gates]
        return graph.call(weight.op_type, node, inputs, weight.attributes)[0]
    first, *others = (
        multiply(graph, f"{path}.{number}", x, part) for number, part in enumerate(weight.parts)
    )
    for number, (other, places) in enumerate(zip(others, weight.inputs, strict=True)):
        name = f"{path}.joined_{number}" if number + 1 < len(others) else path
        first = graph.call(weight.op_type, node_name(name, weight.op_type), [first, other, places])[
            0
        ]
    return first


LinearQuantizer = Callable[[str, Floats], QuantizedWeight | None]
"""(path of a linear, its weight (N, K)) -> the weight as an operator takes it; None for int8."""


PLANAR_BYTES = 8 << 20
"""A head of fewer int8 codes stays whole: it is read from a cache, and its planes are no faster."""
PLANAR_COLUMNS = 32_768
"""The most that PlanarLogitsHead and Int4LogitsHead take."""
HEAD_BITS = (8, 4)
"""What a weight of the head can have; the first is the default."""


def fits_blocks(columns: int) -> bool:
    """Tell whether rows of so many columns can be stored in planes, or in 4 bits a weight."""
    return columns % dtypes.PLANES_BLOCK == 0 and columns <= PLANAR_COLUMNS


def planes_pay(shape: tuple[int, int]) -> bool:
    """Tell whether a head of so many rows and columns is stored in planes."""
    rows, columns = shape
    return fits_blocks(columns) and rows * columns >= PLANAR_BYTES


class StoredWeights:
    """Puts weights into a graph as they are asked for, a table that is used twice only once."""

    def __init__(
        self,
        graph: GraphBuilder,
        weights: WeightSource,
        quantizer: LinearQuantizer | None = None,
        layout: TernaryLayout = TERNARY_LAYOUTS[TERNARY_2BIT],
        head_bits: int = HEAD_BITS[0],
    ) -> None:
        """Get ready.

        Args:
            graph: which gets the weights.
            weights: of the model.
            quantizer: for linears that are not ternary; without one they become int8.
            layout: of those that are; ternary-2bit/v1 where it has no operator that skips closed
                rows, and for matrices that are no whole blocks of it.
            head_bits: of a weight of the head; with 4, an embedding tied to it is stored apart.
        """
        self._graph = graph
        self._weights = weights
        self._quantizer = quantizer
        self._layout = layout
        self._head_bits = head_bits
        self._tables: dict[str, StoredTable] = {}

    def linear(
        self, path: str, shape: tuple[int, int], *, gated: bool = False, mostly_zero: bool = False
    ) -> StoredLinear:
        """Store the weight of a linear.

        Args:
            path: of the linear.
            shape: (N, K) of its weight.
            gated: only results whose gate is positive are used.
            mostly_zero: so are its activations.
        """
        matrix = self._weights.linear(path, shape)
        return self._store(path, matrix, gated=gated, mostly_zero=mostly_zero)

    def halves(self, path: str, shape: tuple[int, int]) -> tuple[StoredLinear, StoredLinear]:
        """Store the upper and the lower half of a weight as linears ``<path>.0``, ``<path>.1``."""
        matrix = self._weights.linear(path, shape)
        middle = shape[0] // 2
        first, second = matrix.rows(0, middle), matrix.rows(middle, shape[0])
        return self._store(f"{path}.0", first), self._store(f"{path}.1", second)

    def _store(
        self,
        path: str,
        matrix: FloatMatrix | TernaryMatrix,
        *,
        gated: bool = False,
        mostly_zero: bool = False,
    ) -> StoredLinear:
        shape, name = matrix.shape, f"{path}.weight"
        if isinstance(matrix, TernaryMatrix) and mostly_zero and dtypes.column_strips(shape[0]):
            return StoredLinear("ColumnBitLinear", (name,), self._ternary_columns(name, matrix))
        if isinstance(matrix, TernaryMatrix):
            suits = self._layout.fits(shape[0]) and self._layout.operator(gated=gated)
            layout = self._layout if suits else TERNARY_LAYOUTS[TERNARY_2BIT]
            op_type = layout.operator(gated=gated)
            return StoredLinear(op_type, (name,), self._ternary(name, matrix, layout))
        if self._quantizer is not None:
            weight = np.concatenate(list(matrix.blocks())).astype(np.float64)
            quantized = self._quantizer(path, weight)
            if quantized is not None:
                return self._low_bit(path, quantized)
        return StoredLinear("Int8Linear", (name,), self._int8(name, matrix))

    def embedding(self, path: str, shape: tuple[int, int], *, tied: bool) -> StoredTable:
        """Store an embedding, as the head that it is tied to takes it, if both have 8 bits."""
        return self._table(path, shape, is_head=tied and self._head_bits == HEAD_BITS[0])

    def head(self, path: str, shape: tuple[int, int]) -> StoredTable:
        """Store a head; a table of 8 bits that is there already serves."""
        if self._head_bits == HEAD_BITS[0]:
            return self._table(path, shape, is_head=True)
        return self._int4(f"{path}.weight", self._weights.matrix(f"{path}.weight", shape))

    def _table(self, path: str, shape: tuple[int, int], *, is_head: bool) -> StoredTable:
        name = f"{path}.weight"
        if name not in self._tables:
            store = self._planar if is_head and planes_pay(shape) else self._whole
            self._tables[name] = store(name, self._weights.matrix(name, shape))
        return self._tables[name]

    def _whole(self, name: str, matrix: FloatMatrix) -> StoredTable:
        return StoredTable(name, self._int8(name, matrix), (name,))

    def _planar(self, name: str, matrix: FloatMatrix) -> StoredTable:
        """Store int8 codes in planes, and how far the rows are from their first planes."""
        rows, columns = matrix.shape
        names = f"{name}.high", f"{name}.low"
        write_high = self._graph.reserve(names[0], "uint8", (rows, columns // 2))
        write_low = self._graph.reserve(names[1], "uint8", (dtypes.PLANES, rows, columns // 8))
        scales: list[Floats] = []
        norms: list[npt.NDArray[np.int16]] = []
        begin = 0
        for block in matrix.blocks():
            codes, scale = int8.quantize_rows(block)
            high, low = dtypes.pack_planes(codes)
            write_high(begin * (columns // 2), high)
            for plane, bits in enumerate(low):
                write_low((plane * rows + begin) * (columns // 8), bits)
            begin += len(block)
            scales.append(scale)
            norms.append(residual_norms(codes))
        stored = self._graph.initializer(f"{name}.norms", np.concatenate(norms, axis=1))
        return StoredTable(name, np.concatenate(scales), names, stored, "PlanarLogitsHead")

    def _int4(self, name: str, matrix: FloatMatrix) -> StoredTable:
        """Store codes of 4 bits; a byte each where the columns are no multiple of a block."""
        rows, columns = matrix.shape
        scales: list[Floats] = []

        def codes() -> Iterator[npt.NDArray[np.int8]]:
            for block in matrix.blocks():
                quantized, scale = int4.quantize_rows(block)
                scales.append(scale)
                yield quantized

        stored = f"{name}.int4"
        if fits_blocks(columns):
            packed = map(pack_int4, codes())
            self._graph.streamed(stored, "uint8", (rows, columns // 2), packed)
            head = "Int4LogitsHead"
        else:
            self._graph.streamed(stored, "int8", matrix.shape, codes())
            head = "LogitsHead"
        return StoredTable(name, np.concatenate(scales), (stored,), head=head)

    def _low_bit(self, path: str, weight: QuantizedWeight) -> StoredLinear:
        if isinstance(weight, JoinedLinear):
            parts = [
                self._low_bit(f"{path}.{number}", part) for number, part in enumerate(weight.parts)
            ]
            places = [
                self._graph.initializer(f"{path}.places_{number}", bits)
                for number, bits in enumerate(places_of(weight.classes))
            ]
            return StoredLinear("JoinColumns", tuple(places), weight.unit, parts=tuple(parts))
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

    def _ternary(self, name: str, matrix: TernaryMatrix, layout: TernaryLayout) -> Floats:
        """Store packed codes and return the scale of each row, which is the same for all."""
        rows, columns = matrix.shape
        blocks = matrix.blocks()
        if layout.block_rows > 1:
            blocks = ternary.regrouped(blocks, layout.block_rows)
        packed = map(layout.pack, blocks)
        self._graph.streamed(name, "uint8", layout.shape(rows, columns), packed)
        return np.full(rows, matrix.scale)

    def _ternary_columns(self, name: str, matrix: TernaryMatrix) -> Floats:
        """Store codes by input and return the scale of each row, which is the same for all."""
        rows, columns = matrix.shape
        strips = dtypes.column_strips(rows)
        shape = (strips, columns, rows // strips // dtypes.WEIGHTS_PER_BYTE)
        packed = ternary.pack_columns(matrix.blocks(), shape)
        self._graph.streamed(name, "uint8", shape, packed)
        return np.full(rows, matrix.scale)
