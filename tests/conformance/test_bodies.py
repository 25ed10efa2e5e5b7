"""Every operator on its own examples: ``reference`` in NumPy against ``body`` in onnxruntime."""

import inspect
from collections.abc import Iterable, Iterator
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, inliner, shape_inference

from edgellm import ops
from edgellm.ops import Example, OpSchema

INTEGERS = {
    getattr(TensorProto, name) for name in ("UINT8", "INT8", "INT16", "INT32", "INT64", "UINT64")
}

WRONG_FOR_INT64 = {"Min", "Max", "Clip", "Sign", "ReduceMax", "ReduceMin"}
"""In onnxruntime on x86: see ``edgellm/ops/_body.py``."""

MODULES = {module.SCHEMA.name: module for module in ops.modules()}
CASES = [(m, example) for m in MODULES.values() for example in m.examples()]

each_operator = pytest.mark.parametrize("module", MODULES.values(), ids=MODULES.keys())
each_example = pytest.mark.parametrize(
    ("module", "example"), CASES, ids=[f"{m.SCHEMA.name}-{e.name}" for m, e in CASES]
)


def expected_outputs(module: ModuleType, example: Example) -> list[np.ndarray[Any, Any]]:
    """Return what the definition says, always as a list."""
    result = module.reference(*example.inputs, **example.attributes)
    return list(result) if isinstance(result, tuple) else [result]


def one_node_model(module: ModuleType, attributes: Iterable[tuple[str, int]]) -> onnx.ModelProto:
    """Return a model of one node, whose sizes are all unknown, and the operator as its function."""
    schema: OpSchema = module.SCHEMA
    inputs, outputs = (
        [
            helper.make_tensor_value_info(
                port.name,
                helper.np_dtype_to_tensor_dtype(np.dtype(port.dtype)),
                [int(letter) if letter.isdigit() else letter for letter in port.dims],
            )
            for port in ports
        ]
        for ports in (schema.inputs, schema.outputs)
    )
    names = [[port.name for port in ports] for ports in (schema.inputs, schema.outputs)]
    node = helper.make_node(schema.name, *names, domain=ops.DOMAIN, **dict(attributes))
    return helper.make_model(
        helper.make_graph([node], schema.name, inputs, outputs),
        functions=[module.body()],
        opset_imports=[
            helper.make_opsetid("", 21),
            helper.make_opsetid(ops.DOMAIN, ops.DOMAIN_VERSION),
        ],
        ir_version=10,
    )


@cache
def open_session(
    module: ModuleType, attributes: tuple[tuple[str, int], ...], optimised: bool
) -> onnxruntime.InferenceSession:
    """Return onnxruntime with such a model, for all examples of these attributes."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    model = one_node_model(module, attributes)
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def tensor_types(graph: onnx.GraphProto) -> Iterator[int]:
    """Yield the element type of everything in a graph: values, constants, targets of casts."""
    for value in [*graph.input, *graph.value_info, *graph.output]:
        yield value.type.tensor_type.elem_type
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t.data_type
            if node.op_type == "Cast":
                yield attribute.i


@each_operator
def test_operator_file_is_complete(module: ModuleType) -> None:
    """Schema, definition, body and examples agree on inputs, outputs and attributes."""
    schema: OpSchema = module.SCHEMA
    parameters = inspect.signature(module.reference).parameters
    assert tuple(parameters) == tuple(port.name for port in schema.inputs) + tuple(
        schema.attributes
    )
    function = module.body()
    assert (function.domain, function.name) == (ops.DOMAIN, schema.name)
    assert list(function.input) == [port.name for port in schema.inputs]
    assert list(function.output) == [port.name for port in schema.outputs]
    assert list(function.attribute) == list(schema.attributes)
    assert {opset.domain: opset.version for opset in function.opset_import} == {"": 21}
    names = [example.name for example in module.examples()]
    assert len(set(names)) == len(names) >= 5


@each_operator
def test_examples_are_the_same_each_time(module: ModuleType) -> None:
    for first, second in zip(module.examples(), module.examples(), strict=True):
        assert first.name == second.name
        assert first.attributes == second.attributes
        for a, b in zip(first.inputs, second.inputs, strict=True):
            np.testing.assert_array_equal(a, b, strict=True)


@each_operator
def test_body_is_valid_and_has_only_integers(module: ModuleType) -> None:
    """Standard operators alone, and no float in a constant, a cast or an inferred value."""
    model = one_node_model(module, dict.fromkeys(module.SCHEMA.attributes, 1).items())
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.functions[0].node} == {""}
    assert not {node.op_type for node in model.functions[0].node} & WRONG_FOR_INT64
    inlined = inliner.inline_local_functions(model)
    inferred = shape_inference.infer_shapes(inlined, strict_mode=True).graph
    made = {name for node in inferred.node for name in node.output}
    typed = {value.name for value in [*inferred.value_info, *inferred.output]}
    assert made <= typed  # so the next line sees every value
    assert set(tensor_types(inferred)) - {TensorProto.BOOL} <= INTEGERS


@each_example
def test_example_fits_schema(module: ModuleType, example: Example) -> None:
    """Types and sizes of the inputs, and of what the definition returns, are the schema's."""
    schema: OpSchema = module.SCHEMA
    outputs = expected_outputs(module, example)
    assert list(example.attributes) == list(schema.attributes)
    assert [x.dtype.name for x in example.inputs] == [port.dtype for port in schema.inputs]
    assert [y.dtype.name for y in outputs] == [port.dtype for port in schema.outputs]
    # A size that is a number in the schema is a letter to `bind`: bound first, to itself.
    for port, x in zip(schema.inputs, example.inputs, strict=True):
        fixed = [int(d) if d.isdigit() else n for d, n in zip(port.dims, x.shape, strict=True)]
        assert list(x.shape) == fixed
    assert schema.infer([x.shape for x in example.inputs]) == [y.shape for y in outputs]


@each_example
@pytest.mark.parametrize("optimised", [True, False], ids=["optimised", "plain"])
def test_onnxruntime_equals_reference(
    module: ModuleType, example: Example, optimised: bool
) -> None:
    session = open_session(module, tuple(example.attributes.items()), optimised)
    feeds = {port.name: x for port, x in zip(module.SCHEMA.inputs, example.inputs, strict=True)}
    actual = session.run(None, feeds)
    for wanted, got in zip(expected_outputs(module, example), actual, strict=True):
        np.testing.assert_array_equal(got, wanted, strict=True)
