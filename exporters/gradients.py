"""Gradients of a float graph: what each value adds to a loss, by one pass from the end back.

Rules for the operators that the float lowerings emit, in NumPy. A rule takes the node, the values
of its inputs and outputs and the gradient of its first output, and yields gradients by input.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, helper

from edgellm.errors import ExportError

Floats = npt.NDArray[np.float32]
Values = Mapping[str, npt.NDArray[Any]]
Rule = Callable[[NodeProto, Sequence[Floats], Floats, Floats], Iterator[Floats]]
"""(node, values of its inputs, of its output, gradient of that) -> gradients of its inputs."""


def active_values(nodes: Sequence[NodeProto], sources: Collection[str]) -> set[str]:
    """Return the values that depend on some of ``sources``, and these."""
    active = set(sources)
    for node in nodes:
        if node.op_type != "Shape" and active.intersection(node.input):
            active.update(node.output)
    return active


def backward(
    nodes: Sequence[NodeProto],
    values: Values,
    seeds: Mapping[str, Floats],
    wanted: Collection[str],
    sources: Collection[str],
) -> dict[str, Floats]:
    """Return the gradients of some values.

    Args:
        nodes: in the order of the graph.
        values: of all inputs and outputs of nodes that lead from ``sources`` on, constants too.
        seeds: gradients of values at the end.
        wanted: names of the values whose gradients are kept.
        sources: where the values begin that gradients are needed of.

    Raises:
        ExportError: there is no rule for an operator.
    """
    active = active_values(nodes, sources)
    found: dict[str, Floats] = dict(seeds)
    kept: dict[str, Floats] = {}
    for node in reversed(nodes):
        name = node.output[0]
        gradient = found.pop(name, None)
        if gradient is None or name not in active:
            continue
        if name in wanted:
            kept[name] = gradient
        if not active.intersection(node.input):
            continue
        rule = RULES.get(node.op_type)
        if rule is None:
            raise ExportError(f"{node.name}: there is no gradient of {node.op_type}")
        inputs = [np.asarray(values[one]) for one in node.input]
        parts = rule(node, inputs, values[name], gradient)
        for one, part in zip(node.input, parts, strict=False):
            if one in active:
                found[one] = found[one] + part if one in found else part
    return kept | {name: found[name] for name in wanted if name in found}


def _to_shape(gradient: Floats, shape: tuple[int, ...]) -> Floats:
    """Sum over what was broadcast."""
    extra = gradient.ndim - len(shape)
    summed = gradient.sum(axis=tuple(range(extra)))
    axes = tuple(i for i, size in enumerate(shape) if size == 1 and summed.shape[i] != 1)
    return summed.sum(axis=axes, keepdims=True).reshape(shape)


def _attribute(node: NodeProto, name: str, default: object) -> object:
    found = (item for item in node.attribute if item.name == name)
    return next((helper.get_attribute_value(item) for item in found), default)


def _add(_: NodeProto, x: Sequence[Floats], _y: Floats, g: Floats) -> Iterator[Floats]:
    yield _to_shape(g, x[0].shape)
    yield _to_shape(g, x[1].shape)


def _sub(_: NodeProto, x: Sequence[Floats], _y: Floats, g: Floats) -> Iterator[Floats]:
    yield _to_shape(g, x[0].shape)
    yield _to_shape(-g, x[1].shape)


def _mul(_: NodeProto, x: Sequence[Floats], _y: Floats, g: Floats) -> Iterator[Floats]:
    yield _to_shape(g * x[1], x[0].shape)
    yield _to_shape(g * x[0], x[1].shape)


def _div(_: NodeProto, x: Sequence[Floats], y: Floats, g: Floats) -> Iterator[Floats]:
    yield _to_shape(g / x[1], x[0].shape)
    yield _to_shape(-g * y / x[1], x[1].shape)


def _matmul(_: NodeProto, x: Sequence[Floats], _y: Floats, g: Floats) -> Iterator[Floats]:
    yield _to_shape(g @ np.swapaxes(x[1], -1, -2), x[0].shape)
    if x[1].ndim > 2:  # no weight
        yield _to_shape(np.swapaxes(x[0], -1, -2) @ g, x[1].shape)


def _gemm(_: NodeProto, x: Sequence[Floats], _y: Floats, g: Floats) -> Iterator[Floats]:
    yield g @ x[1]  # transB = 1 in all of them


def _sigmoid(_: NodeProto, _x: Sequence[Floats], y: Floats, g: Floats) -> Iterator[Floats]:
    yield g * y * (1 - y)


def _sqrt(_: NodeProto, _x: Sequence[Floats], y: Floats, g: Floats) -> Iterator[Floats]:
    yield g / (2 * y)


def _reciprocal(_: NodeProto, _x: Sequence[Floats], y: Floats, g: Floats) -> Iterator[Floats]:
    yield -g * y * y


def _neg(_: NodeProto, _x: Sequence[Floats], _y: Floats, g: Floats) -> Iterator[Floats]:
    yield -g


def _identity(_: NodeProto, _x: Sequence[Floats], _y: Floats, g: Floats) -> Iterator[Floats]:
    yield g


def _relu(_: NodeProto, x: Sequence[Floats], _y: Floats, g: Floats) -> Iterator[Floats]:
    yield g * (x[0] > 0)


def _gelu(_: NodeProto, x: Sequence[Floats], _y: Floats, g: Floats) -> Iterator[Floats]:
    # Of both forms by that with tanh: they differ by less than 0.001 in slope.
    inner = np.float32(np.sqrt(2 / np.pi)) * (x[0] + np.float32(0.044715) * x[0] ** 3)
    bent = np.tanh(inner)
    slope = np.float32(np.sqrt(2 / np.pi)) * (1 + np.float32(3 * 0.044715) * x[0] ** 2)
    yield g * (0.5 * (1 + bent) + 0.5 * x[0] * (1 - bent**2) * slope)


def _softmax(_: NodeProto, _x: Sequence[Floats], y: Floats, g: Floats) -> Iterator[Floats]:
    yield y * (g - (g * y).sum(axis=-1, keepdims=True))


def _reduce_mean(node: NodeProto, x: Sequence[Floats], y: Floats, g: Floats) -> Iterator[Floats]:
    axes = tuple(int(axis) for axis in x[1])
    whole = g if _attribute(node, "keepdims", 1) else np.expand_dims(g, axes)
    yield np.broadcast_to(whole / np.float32(x[0].size / y.size), x[0].shape)


def _reduce_l2(_: NodeProto, x: Sequence[Floats], y: Floats, g: Floats) -> Iterator[Floats]:
    yield g * x[0] / y


def _layer_norm(node: NodeProto, x: Sequence[Floats], _y: Floats, g: Floats) -> Iterator[Floats]:
    epsilon = np.float32(_attribute(node, "epsilon", 1e-5))  # type: ignore[arg-type]
    centered = x[0] - x[0].mean(axis=-1, keepdims=True)
    inverse = 1 / np.sqrt((centered**2).mean(axis=-1, keepdims=True) + epsilon)
    unit, weighted = centered * inverse, g * x[1]
    along = (weighted * unit).mean(axis=-1, keepdims=True)
    yield inverse * (weighted - weighted.mean(axis=-1, keepdims=True) - unit * along)


def _reshape(_: NodeProto, x: Sequence[Floats], _y: Floats, g: Floats) -> Iterator[Floats]:
    yield g.reshape(x[0].shape)


def _transpose(node: NodeProto, _x: Sequence[Floats], _y: Floats, g: Floats) -> Iterator[Floats]:
    order = _attribute(node, "perm", None)
    # NumPy multiplies stacks of matrices quickly only where their rows lie together.
    yield np.ascontiguousarray(np.transpose(g, np.argsort(order)))  # type: ignore[arg-type]


def _concat(node: NodeProto, x: Sequence[Floats], _y: Floats, g: Floats) -> Iterator[Floats]:
    axis = int(_attribute(node, "axis", 0))  # type: ignore[call-overload]
    ends = np.cumsum([one.shape[axis] for one in x])[:-1]
    yield from np.split(g, ends, axis=axis)


def _gather(node: NodeProto, x: Sequence[Floats], _y: Floats, g: Floats) -> Iterator[Floats]:
    axis = int(_attribute(node, "axis", 0))  # type: ignore[call-overload]
    out = np.zeros(x[0].shape, np.float32)
    np.moveaxis(out, axis, 0)[x[1]] = np.moveaxis(g, axis, 0) if x[1].ndim else g
    yield out


RULES: Mapping[str, Rule] = {
    "Add": _add,
    "Concat": _concat,
    "Div": _div,
    "Gather": _gather,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "Identity": _identity,
    "LayerNormalization": _layer_norm,
    "MatMul": _matmul,
    "Mul": _mul,
    "Neg": _neg,
    "Reciprocal": _reciprocal,
    "ReduceL2": _reduce_l2,
    "ReduceMean": _reduce_mean,
    "Relu": _relu,
    "Reshape": _reshape,
    "Sigmoid": _sigmoid,
    "Softmax": _softmax,
    "Sqrt": _sqrt,
    "Sub": _sub,
    "Transpose": _transpose,
}
