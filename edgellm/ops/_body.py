"""Write an operator's ONNX function body as formulas: ``Value`` has the signs, ``Body`` the nodes.

Only standard operators on integers occur, in element types that onnxruntime's CPU kernels have.
ONNX's ``BitShift`` is unsigned only, and the sign rule of its integer ``Div`` is left open: so
``>>`` goes through non-negative numbers, and ``//`` is for non-negative operands.

``Min``, ``Max``, ``Clip``, ``Sign`` and ``ReduceMax`` of int64 must not occur: onnxruntime (1.22.1
and 1.31.1 were tried) gets them wrong on x86 where two numbers differ in their low 32 bits alone, a
bug in Eigen's SSE2 code (onnxruntime pull requests 25280, 32475). Comparisons, ``Where`` and
``TopK`` are right.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from edgellm.ops._schema import DOMAIN, OpSchema

if TYPE_CHECKING:
    from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto

ONNX_OPSET = 21
TWO_OUTPUTS = ("TopK", "Scan")


@dataclass(frozen=True)
class AttributeOfOp:
    """Stands in a node for the value that an attribute of the operator has."""

    name: str


@dataclass(frozen=True, eq=False)
class Subgraph:
    """Stands in a node for a graph that it runs."""

    inputs: tuple["Value", ...]
    nodes: tuple["Node", ...]
    outputs: tuple["Value", ...]


NodeAttribute = int | str | AttributeOfOp | Subgraph | npt.NDArray[np.generic]
Step = Callable[..., "Value"]


class Node(NamedTuple):
    """One node."""

    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, NodeAttribute]


class Body:
    """The nodes of one function body, in order; the same node asked for twice is made once."""

    def __init__(self, schema: OpSchema, prefix: str = "") -> None:
        self._schema = schema
        self._prefix = prefix  # of the names of values, so that those of a nested graph differ
        self._nodes: list[Node] = []
        self._made: dict[tuple[object, ...], Value] = {}

    @property
    def inputs(self) -> list["Value"]:
        """The operator's inputs in the order of its schema."""
        return [Value(self, port.name, port.dtype) for port in self._schema.inputs]

    def attribute(self, name: str) -> "Value":
        """Return an attribute of the operator as an int64 scalar."""
        return self.node("Constant", [], "int64", {"value_int": AttributeOfOp(name)})

    def constant(self, value: npt.ArrayLike, dtype: str = "int64") -> "Value":
        """Return an integer or an array of integers as a constant."""
        return self.node("Constant", [], dtype, {"value": np.array(value, dtype=dtype)})

    def node(
        self,
        op_type: str,
        inputs: Sequence["Value"],
        dtype: str,
        attributes: Mapping[str, NodeAttribute] | None = None,
    ) -> "Value":
        """Append a node of a standard operator.

        Args:
            op_type: its name in ONNX.
            inputs: its inputs.
            dtype: element type of its output, by NumPy's name.
            attributes: its attributes.
        """
        attributes = attributes or {}
        names = tuple(value.name for value in inputs)
        key = (op_type, names, dtype, *((k, _identity(v)) for k, v in attributes.items()))
        if key not in self._made:
            output = f"{self._prefix}{op_type}_{len(self._nodes)}"
            outputs = (output, f"{output}_second") if op_type in TWO_OUTPUTS else (output,)
            self._nodes.append(Node(op_type, names, outputs, attributes))
            self._made[key] = Value(self, output, dtype)
        return self._made[key]

    def range(self, start: "Value", stop: "Value") -> "Value":
        """Return ``start, start + 1, ... stop - 1`` of int64 scalars."""
        return self.node("Range", [start, stop, self.constant(1)], "int64")

    def concat(self, parts: Sequence["Value"], axis: int) -> "Value":
        """Join values along an axis."""
        return self.node("Concat", parts, parts[0].dtype, {"axis": axis})

    def where(self, condition: "Value", yes: "Operand", no: "Operand") -> "Value":
        """Choose element by element."""
        typed = yes if isinstance(yes, Value) else no
        dtype = typed.dtype if isinstance(typed, Value) else "int64"
        chosen = [self._value(yes, dtype), self._value(no, dtype)]
        return self.node("Where", [condition, *chosen], dtype)

    def scan(self, step: Step, state: "Value", rows: Sequence["Value"]) -> tuple["Value", "Value"]:
        """Replace a state by ``step(state, *rows[t])`` for every t, one after the other.

        Args:
            step: a formula; it may use its arguments and constants alone.
            state: what it starts from.
            rows: values of the same number of rows.

        Returns:
            The last state, and all of them along a first axis.
        """
        inner = Body(self._schema, f"{self._prefix}scan_{len(self._nodes)}_")
        names = [f"{inner._prefix}in_{i}" for i in range(1 + len(rows))]
        given = [state, *rows]
        ports = [Value(inner, n, v.dtype) for n, v in zip(names, given, strict=True)]
        after = step(*ports)
        copy = inner.node("Identity", [after], after.dtype)
        graph = Subgraph(tuple(ports), tuple(inner._nodes), (after, copy))
        attributes: dict[str, NodeAttribute] = {"body": graph, "num_scan_inputs": len(rows)}
        last = self.node("Scan", given, state.dtype, attributes)
        return last, Value(self, f"{last.name}_second", state.dtype)

    def function(self, *outputs: "Value") -> "FunctionProto":
        """Return the function whose outputs, in the order of the schema, are these values."""
        from onnx import helper

        ports = [port.name for port in self._schema.outputs]
        renamed = dict(zip((value.name for value in outputs), ports, strict=True))
        return helper.make_function(
            DOMAIN,
            self._schema.name,
            [port.name for port in self._schema.inputs],
            ports,
            [_node_proto(node, renamed) for node in self._nodes],
            [helper.make_opsetid("", ONNX_OPSET)],
            list(self._schema.attributes),
        )

    def _value(self, operand: "Operand", dtype: str) -> "Value":
        return operand if isinstance(operand, Value) else self.constant(operand, dtype)


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor in a body. Formulas look as they do in NumPy; a plain int takes the other's type."""

    body: Body
    name: str
    dtype: str

    def __add__(self, other: "Operand") -> "Value":
        return self._with("Add", other)

    def __radd__(self, other: int) -> "Value":
        return self._with("Add", other)

    def __sub__(self, other: "Operand") -> "Value":
        return self._with("Sub", other)

    def __rsub__(self, other: int) -> "Value":
        return self.body.constant(other, self.dtype)._with("Sub", self)

    def __neg__(self) -> "Value":
        return self.body.node("Neg", [self], self.dtype)

    def __mul__(self, other: "Operand") -> "Value":
        return self._with("Mul", other)

    def __floordiv__(self, other: "Operand") -> "Value":
        """Divide; neither may be negative."""
        return self._with("Div", other)

    def __and__(self, other: "Operand") -> "Value":
        return self._with("And" if self.dtype == "bool" else "BitwiseAnd", other)

    def __xor__(self, other: "Operand") -> "Value":
        return self._with("BitwiseXor", other)

    def __or__(self, other: "Operand") -> "Value":
        return self._with("BitwiseOr", other)

    def __rshift__(self, amount: "Operand") -> "Value":
        """Shift an int64 of any sign right, towards minus infinity, by 0 to 63.

        The complement of a negative number is not negative, and ``x >> s == ~(~x >> s)``.
        """
        sign = self.body.where(self < 0, -1, 0)
        return (self ^ sign).shift_right(amount) ^ sign

    def __lt__(self, other: "Operand") -> "Value":
        return self._with("Less", other, "bool")

    def __le__(self, other: "Operand") -> "Value":
        return self._with("LessOrEqual", other, "bool")

    def __gt__(self, other: "Operand") -> "Value":
        return self._with("Greater", other, "bool")

    def __ge__(self, other: "Operand") -> "Value":
        return self._with("GreaterOrEqual", other, "bool")

    def equals(self, other: "Operand") -> "Value":
        """Compare element by element."""
        return self._with("Equal", other, "bool")

    def shift_right(self, amount: "Operand") -> "Value":
        """Shift right; the value may not be negative (4 nodes fewer than ``>>``)."""
        unsigned = self.to("uint8" if self.dtype == "uint8" else "uint64")
        amount = amount if isinstance(amount, int) else amount.to(unsigned.dtype)
        pair = [unsigned, self.body._value(amount, unsigned.dtype)]
        shifted = self.body.node("BitShift", pair, unsigned.dtype, {"direction": "RIGHT"})
        return shifted.to(self.dtype)

    def shift_left(self, amount: int) -> "Value":
        """Shift an unsigned value left; what leaves it is lost."""
        pair = [self, self.body.constant(amount, self.dtype)]
        return self.body.node("BitShift", pair, self.dtype, {"direction": "LEFT"})

    def at_least(self, other: "Operand") -> "Value":
        """Return the larger, element by element."""
        other = self.body._value(other, self.dtype)
        return self.body.where(self > other, self, other)

    def at_most(self, other: "Operand") -> "Value":
        """Return the smaller, element by element."""
        other = self.body._value(other, self.dtype)
        return self.body.where(self < other, self, other)

    def clip(self, low: int, high: int) -> "Value":
        """Clamp to [low, high]."""
        return self.at_least(low).at_most(high)

    def abs(self) -> "Value":
        """Return the magnitude."""
        return self.body.node("Abs", [self], self.dtype)

    def to(self, dtype: str) -> "Value":
        """Cast to another integer type."""
        from onnx.helper import np_dtype_to_tensor_dtype

        if dtype == self.dtype:
            return self
        target = int(np_dtype_to_tensor_dtype(np.dtype(dtype)))
        return self.body.node("Cast", [self], dtype, {"to": target})

    def row_max(self) -> "Value":
        """Return the largest along the last axis, which stays with size 1."""
        return self.body.node("TopK", [self, self.body.constant([1])], self.dtype)

    def row_sum(self) -> "Value":
        """Return the sum along the last axis, which stays with size 1."""
        return self.body.node("ReduceSum", [self, self.body.constant([-1])], self.dtype)

    def matmul(self, other: "Value") -> "Value":
        """Multiply stacks of int64 matrices."""
        return self.body.node("MatMul", [self, other], self.dtype)

    def take(self, indices: "Operand", axis: int = 0) -> "Value":
        """Pick along an axis; one plain index removes the axis."""
        picked = self.body._value(indices, "int64")
        return self.body.node("Gather", [self, picked], self.dtype, {"axis": axis})

    def size(self, axis: int) -> "Value":
        """Return the size of one axis, an int64 of shape (1,)."""
        return self.body.node("Shape", [self], "int64", {"start": axis, "end": axis + 1})

    def count(self, axis: int) -> "Value":
        """Return the size of one axis as an int64 scalar."""
        return self.body.node("Squeeze", [self.size(axis)], "int64")

    def reshape(self, *sizes: "Operand") -> "Value":
        """Reshape to numbers and results of ``size``; 0 keeps the axis, -1 takes what is left."""
        if any(isinstance(size, Value) for size in sizes):
            parts = [s if isinstance(s, Value) else self.body.constant([s]) for s in sizes]
            shape = self.body.concat(parts, axis=0)
        else:
            shape = self.body.constant([size for size in sizes if isinstance(size, int)])
        return self.body.node("Reshape", [self, shape], self.dtype)

    def transpose(self, *axes: int) -> "Value":
        """Reorder the axes."""
        return self.body.node("Transpose", [self], self.dtype, {"perm": np.array(axes)})

    def unsqueeze(self, axis: int) -> "Value":
        """Insert an axis of size 1."""
        return self.body.node("Unsqueeze", [self, self.body.constant([axis])], self.dtype)

    def columns(self, stop: "Value") -> "Value":
        """Return the first ``stop`` (shape (1,)) columns of a matrix."""
        start, axis = self.body.constant([0]), self.body.constant([1])
        return self.body.node("Slice", [self, start, stop, axis], self.dtype)

    def _with(self, op_type: str, other: "Operand", dtype: str | None = None) -> "Value":
        pair = [self, self.body._value(other, self.dtype)]
        return self.body.node(op_type, pair, dtype or self.dtype)


Operand = Value | int


def _identity(attribute: NodeAttribute) -> object:
    if isinstance(attribute, np.ndarray):
        return (attribute.dtype.str, attribute.shape, attribute.tobytes())
    return attribute  # a subgraph is equal to itself alone


def _node_proto(node: Node, renamed: Mapping[str, str]) -> "NodeProto":
    from onnx import helper

    proto = helper.make_node(
        node.op_type,
        [renamed.get(name, name) for name in node.inputs],
        [renamed.get(name, name) for name in node.outputs],
    )
    proto.attribute.extend(_attribute_proto(*item) for item in node.attributes.items())
    return proto


def _attribute_proto(name: str, value: NodeAttribute) -> "AttributeProto":
    from onnx import AttributeProto, helper, numpy_helper

    if isinstance(value, AttributeOfOp):
        return AttributeProto(name=name, type=AttributeProto.INT, ref_attr_name=value.name)
    if isinstance(value, Subgraph):
        return helper.make_attribute(name, _graph_proto(name, value))
    if not isinstance(value, np.ndarray):
        return helper.make_attribute(name, value)
    if name == "value":
        return helper.make_attribute(name, numpy_helper.from_array(value))
    return helper.make_attribute(name, value.tolist())


def _graph_proto(name: str, graph: Subgraph) -> "GraphProto":
    from onnx import helper

    ports = [
        [
            helper.make_tensor_value_info(
                value.name, helper.np_dtype_to_tensor_dtype(np.dtype(value.dtype)), None
            )
            for value in values
        ]
        for values in (graph.inputs, graph.outputs)
    ]
    return helper.make_graph(
        [_node_proto(node, {}) for node in graph.nodes], name, ports[0], ports[1]
    )
