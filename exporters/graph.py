"""Build an ONNX graph whose large weights go to a file of their own as they come."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from edgellm import ops
from edgellm.bundle import WEIGHTS
from edgellm.errors import ExportError
from edgellm.ops import Shape

OPSET = 21
IR_VERSION = 10
EXTERNAL_BYTES = 1024
"""Initialisers of this size or more are external."""
ALIGNMENT = 64
"""A cache line, and the widest vector register."""

ELEMENT_TYPES = {
    "int8": TensorProto.INT8,
    "uint8": TensorProto.UINT8,
    "int16": TensorProto.INT16,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "float32": TensorProto.FLOAT,
}

Array = npt.NDArray[np.generic]
Attribute = int | float | str | Sequence[int] | onnx.GraphProto


class GraphBuilder:
    """Collects nodes and values of one graph; ``weights`` receives the external data.

    Shapes are known for inputs, initialisers and the outputs of ``ai.edgellm`` operators.
    """

    def __init__(self, name: str, weights: BinaryIO) -> None:
        self.name = name
        self.shapes: dict[str, Shape] = {}
        self.weight_bytes: dict[str, int] = {}
        self._weights = weights
        self._position = 0
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._value_infos: dict[str, onnx.ValueInfoProto] = {}
        self._op_types: set[str] = set()

    @property
    def op_types(self) -> frozenset[str]:
        """The operators of ``ai.edgellm`` that were called."""
        return frozenset(self._op_types)

    def input(self, name: str, dtype: str, shape: Shape) -> str:
        """Declare a graph input."""
        self.shapes[name] = shape
        self._inputs.append(_value_info(name, dtype, shape))
        return name

    def output(self, name: str, dtype: str, shape: Shape) -> None:
        """Declare that the value ``name`` is a graph output."""
        self._value_infos.pop(name, None)
        self._outputs.append(_value_info(name, dtype, shape))

    def expose(self, name: str) -> None:
        """Declare that a float value is a graph output, of whatever shape."""
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))

    def initializer(self, name: str, array: Array) -> str:
        """Add a constant that is in memory; adding the same name again changes nothing."""
        return self.streamed(name, str(array.dtype), array.shape, [array])

    def number(self, value: float) -> str:
        """Add a float32 of no dimension, once."""
        return self.initializer(f"number_{value!r}", np.array(value, dtype=np.float32))

    def streamed(
        self, name: str, dtype: str, shape: tuple[int, ...], blocks: Iterable[Array]
    ) -> str:
        """Add a constant whose rows come in blocks, so that it is never whole in memory.

        Raises:
            ExportError: the blocks are not as many bytes as the shape says.
        """
        if name in self.weight_bytes:
            return name
        size = math.prod(shape) * np.dtype(dtype).itemsize
        proto = TensorProto(name=name, dims=shape, data_type=ELEMENT_TYPES[dtype])
        if size < EXTERNAL_BYTES:
            proto.raw_data = b"".join(block.tobytes() for block in blocks)
            written = len(proto.raw_data)
        else:
            written = self._write_external(proto, size, blocks)
        if written != size:
            raise ExportError(
                f"{name}: {written} bytes came for {dtype} {shape}, {size} are needed"
            )
        self._add_initializer(proto, size)
        return name

    def reserve(
        self, name: str, dtype: str, shape: tuple[int, ...]
    ) -> Callable[[int, Array], None]:
        """Add a constant whose parts come in any order; it is external, and zero until then.

        Returns:
            ``write(offset, array)``: put an array so many bytes behind the begin of the constant.
        """
        size = math.prod(shape) * np.dtype(dtype).itemsize
        proto = TensorProto(name=name, dims=shape, data_type=ELEMENT_TYPES[dtype])
        begin = self._place_external(proto, size)
        self._position = begin + size
        self._weights.truncate(self._position)
        self._weights.seek(self._position)
        self._add_initializer(proto, size)

        def write(offset: int, array: Array) -> None:
            if offset < 0 or offset + array.nbytes > size:
                raise ExportError(f"{name}: {array.nbytes} bytes at {offset} of {size}")
            self._weights.seek(begin + offset)
            self._weights.write(np.ascontiguousarray(array).data)
            self._weights.seek(self._position)

        return write

    def replace(self, name: str, array: Array) -> None:
        """Put other numbers into a constant; its type and shape stay.

        Raises:
            ExportError: there is no such constant, or the array is of another type or shape.
        """
        proto = next((item for item in self._initializers if item.name == name), None)
        kind = ELEMENT_TYPES.get(str(array.dtype))
        if proto is None or proto.data_type != kind or tuple(proto.dims) != array.shape:
            raise ExportError(f"{name}: no constant is {array.dtype} {array.shape}")
        if not proto.external_data:
            proto.raw_data = array.tobytes()
            return
        offset = next(int(item.value) for item in proto.external_data if item.key == "offset")
        self._weights.seek(offset)
        self._weights.write(array.tobytes())
        self._weights.seek(self._position)

    def call(
        self,
        op_type: str,
        node: str,
        inputs: Sequence[str],
        attributes: Mapping[str, int] | None = None,
        outputs: Sequence[str] = (),
    ) -> list[str]:
        """Add a node of the domain ``ai.edgellm`` and return the names of its outputs.

        Args:
            op_type: such as ``BitLinear``.
            node: name of the node, such as ``/model/layers.0/mlp/up_proj/BitLinear``.
            inputs: names of values.
            attributes: as the operator's schema lists them.
            outputs: names for the outputs; by default ``<node>``, or ``<node>_<port>`` for several.
        """
        schema = ops.find(op_type).SCHEMA
        ports = schema.outputs
        names = list(outputs) or [
            node if len(ports) == 1 else f"{node}_{port.name}" for port in ports
        ]
        shapes = schema.infer([self.shapes[name] for name in inputs])
        for name, port, shape in zip(names, ports, shapes, strict=True):
            self.shapes[name] = shape
            self._value_infos[name] = _value_info(name, port.dtype, shape)
        self._op_types.add(op_type)
        proto = helper.make_node(op_type, inputs, names, name=node, domain=ops.DOMAIN)
        proto.attribute.extend(
            helper.make_attribute(key, value) for key, value in (attributes or {}).items()
        )
        self._nodes.append(proto)
        return names

    def standard(
        self,
        op_type: str,
        node: str,
        inputs: Sequence[str],
        attributes: Mapping[str, Attribute] | None = None,
        outputs: Sequence[str] = (),
    ) -> str:
        """Add a standard ONNX node and return its name, which by default is its one output's."""
        proto = helper.make_node(op_type, inputs, list(outputs) or [node], name=node)
        proto.attribute.extend(
            helper.make_attribute(key, value) for key, value in (attributes or {}).items()
        )
        self._nodes.append(proto)
        return node

    def serialize(self) -> bytes:
        """Return the model as the bytes of an ONNX file."""
        graph = helper.make_graph(
            self._nodes,
            self.name,
            self._inputs,
            self._outputs,
            initializer=self._initializers,
            value_info=list(self._value_infos.values()),
        )
        imports = [helper.make_opsetid("", OPSET)]
        if self._op_types:
            imports.append(helper.make_opsetid(ops.DOMAIN, ops.DOMAIN_VERSION))
        model = helper.make_model(
            graph,
            opset_imports=imports,
            ir_version=IR_VERSION,
            producer_name="edgellm",
            functions=[ops.find(op_type).body() for op_type in sorted(self._op_types)],
        )
        content: bytes = model.SerializeToString(deterministic=True)
        return content

    def _add_initializer(self, proto: TensorProto, size: int) -> None:
        self._initializers.append(proto)
        self.shapes[proto.name] = tuple(proto.dims)
        self.weight_bytes[proto.name] = size

    def _place_external(self, proto: TensorProto, size: int) -> int:
        """Give a constant the next place in the weights file, and return where that begins."""
        padding = -self._position % ALIGNMENT
        self._weights.write(bytes(padding))
        offset = self._position + padding
        proto.data_location = TensorProto.EXTERNAL
        for key, value in (("location", WEIGHTS), ("offset", offset), ("length", size)):
            proto.external_data.add(key=key, value=str(value))
        return offset

    def _write_external(self, proto: TensorProto, size: int, blocks: Iterable[Array]) -> int:
        offset = self._place_external(proto, size)
        written = sum(self._weights.write(np.ascontiguousarray(block).data) for block in blocks)
        self._position = offset + written
        return written


def _value_info(name: str, dtype: str, shape: Shape) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, ELEMENT_TYPES[dtype], shape)
