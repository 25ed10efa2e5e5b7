"""Read the graph of a bundle into a Plan: the only file that knows ONNX. No byte is trusted."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellm import ops
from edgellm.bundle import WEIGHTS, Bundle, Manifest
from edgellm.cache_layout import CACHE_LAYOUTS
from edgellm.errors import BundleError, PlanError
from edgellm.graph_names import (
    IDS,
    LOGIT_COUNT,
    LOGITS,
    PAST,
    PAST_LENGTH,
    POSITIONS,
    ROWS,
    TOKENS,
    present_name,
)
from edgellm.ops import OpSchema
from edgellm.ops._attention import MAX_CONTEXT
from edgellm.runtime import encoder_contract
from edgellm.runtime.plan import Plan, Step, Value, grows
from edgellm.runtime.plan_checks import check_attributes, check_step
from edgellm.runtime.sampler import LOGITS_FRAME
from edgellm.runtime.weights_memory import map_weights

Array = npt.NDArray[np.generic]

DTYPES = ("int8", "uint8", "int16", "int32", "int64")
MAX_GRAPH_BYTES = 1 << 30
MAX_RANK = 8
MAX_NODES = 1 << 13
"""Llama with 405 billion parameters has 2,300. Planning takes time with their square: the worst
graph of so many half a minute."""
ALIGNMENT = 64
VOCABULARY = "V"
"""Letter of the dimension of a table that has a row for each token of the vocabulary."""


def load_plan(
    bundle: Bundle, read_weights: Callable[[Path], npt.NDArray[np.uint8]] = map_weights
) -> Plan:
    """Read, check and return the plan of a bundle.

    Args:
        bundle: what to read.
        read_weights: returns the bytes of the weights file; by default they are mapped.

    Raises:
        BundleError: the file is no ONNX model, or a weight is not where the file says.
        PlanError: the graph is not one that can run here; the message names the node.
        UnsupportedOpError: an operator is unknown.
    """
    graph = _read_graph(bundle)
    inputs = contract_inputs(bundle.manifest)
    outputs = contract_outputs(bundle.manifest)
    _check_interface("input", _declared(graph.input), inputs)
    _check_interface("output", _declared(graph.output), outputs)
    constants = _read_constants(graph.initializer, read_weights(bundle.weights_path))
    reader = _GraphReader(bundle.manifest.context_length, inputs, constants)
    steps = tuple(reader.read(node) for node in graph.node)
    for value in [*outputs, *_declared(graph.value_info)]:
        if reader.values.get(value.name) != value:
            raise PlanError(f"{value} is declared; it is {reader.values.get(value.name)}")
    _check_cache_uses(steps, inputs)
    _check_vocabulary(steps, reader.values, bundle.manifest)
    return Plan(
        steps=steps,
        values=reader.values,
        constants=constants,
        inputs=tuple(value.name for value in inputs),
        outputs=tuple(value.name for value in outputs),
    )


def contract_inputs(manifest: Manifest) -> list[Value]:
    """Return the inputs that the graph of a bundle has."""
    if manifest.task in encoder_contract.TASKS:
        return encoder_contract.contract_inputs(manifest)
    inputs = [
        Value(IDS, "int64", (TOKENS,)),
        Value(POSITIONS, "int64", (TOKENS,)),
        Value(ROWS, "int64", (LOGIT_COUNT,)),
    ]
    for layer in range(manifest.num_hidden_layers):
        inputs += _layer_cache(manifest, f"{PAST}{layer}")
    return inputs


def _layer_cache(manifest: Manifest, prefix: str) -> list[Value]:
    """Return what a layer keeps of a text."""
    if manifest.state_size:
        return [Value(f"{prefix}.recurrent_state", "int64", (manifest.state_size,))]
    layout = CACHE_LAYOUTS[manifest.kv_bits]
    sizes = manifest.num_key_value_heads, manifest.head_dim
    return [Value(*port) for port in layout.ports(prefix, PAST_LENGTH, *sizes)]


def contract_outputs(manifest: Manifest) -> list[Value]:
    """Return the outputs that the graph of a bundle has."""
    if manifest.task in encoder_contract.TASKS:
        return encoder_contract.contract_outputs(manifest)
    grown = f"{PAST_LENGTH}+{TOKENS}"
    outputs = [Value(LOGITS, "int32", (LOGIT_COUNT, manifest.vocab_size))]
    for value in contract_inputs(manifest):
        if value.name.startswith(PAST):
            shape = (grown, *value.shape[1:]) if grows(value) else value.shape
            outputs.append(Value(present_name(value.name), value.dtype, shape))
    return outputs


def _read_graph(bundle: Bundle) -> Any:  # noqa: ANN401
    """Return the GraphProto of a bundle."""
    import onnx
    from google.protobuf.message import DecodeError

    path = bundle.graph_path
    if bundle.manifest.context_length > MAX_CONTEXT:
        raise PlanError(
            f"{path}: the context is {bundle.manifest.context_length}; at most {MAX_CONTEXT} run"
        )
    is_encoder = bundle.manifest.task in encoder_contract.TASKS
    if (frame := bundle.manifest.logits_frame) != LOGITS_FRAME and not is_encoder:
        raise PlanError(f"{path}: the logits have frame {frame}; only {LOGITS_FRAME} can run")
    if path.stat().st_size > MAX_GRAPH_BYTES:
        raise BundleError(f"{path}: larger than {MAX_GRAPH_BYTES} bytes; weights are external")
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise BundleError(f"{path}: no ONNX model: {error}") from error
    versions = {item.domain: item.version for item in model.opset_import}
    if versions.get(ops.DOMAIN) != ops.DOMAIN_VERSION:
        raise PlanError(
            f"{path}: version {versions.get(ops.DOMAIN)} of the operators {ops.DOMAIN}; this "
            f"edgellm has version {ops.DOMAIN_VERSION}: install another edgellm or export again"
        )
    if len(model.graph.node) > MAX_NODES:
        raise PlanError(f"{path}: has {len(model.graph.node)} nodes; at most {MAX_NODES} run")
    return model.graph


def _text(value: str | bytes) -> str:
    """Return a name of the graph; protobuf leaves one that is no UTF-8 as bytes."""
    if isinstance(value, bytes):
        raise BundleError(f"the graph holds the name {value!r}, which is no text")
    return value


def _declared(infos: Iterable[Any]) -> list[Value]:
    """Return values as the graph declares them."""
    values = []
    for info in infos:
        tensor = info.type.tensor_type
        shape = [_text(dim.dim_param) or dim.dim_value for dim in tensor.shape.dim]
        name = _text(info.name)
        values.append(Value(name, _dtype(tensor.elem_type, name), tuple(shape)))
    return values


def _dtype(element_type: int, name: str) -> str:
    import onnx

    try:
        dtype = str(onnx.helper.tensor_dtype_to_np_dtype(element_type))
    except KeyError:
        dtype = f"element type {element_type}"
    if dtype not in DTYPES:
        raise PlanError(f"{name} is {dtype}; allowed are {', '.join(DTYPES)}")
    return dtype


def _check_interface(kind: str, declared: list[Value], contract: list[Value]) -> None:
    names = [value.name for value in declared]
    if sorted(names) != sorted(value.name for value in contract):
        difference = sorted({*names} ^ {value.name for value in contract})
        raise PlanError(
            f"the graph's {kind}s differ from the manifest's model in {', '.join(difference[:4])}"
        )
    for value in contract:
        if value not in declared:
            found = declared[names.index(value.name)]
            raise PlanError(f"the graph's {kind} is {found}; it must be {value}")


def _constant_values(constants: Mapping[str, Array]) -> list[Value]:
    return [Value(name, str(array.dtype), array.shape) for name, array in constants.items()]


def _read_constants(
    initializers: Iterable[Any], weights: npt.NDArray[np.uint8]
) -> dict[str, Array]:
    """Return the weights by name; those in the weights file are views of its bytes."""
    constants: dict[str, Array] = {}
    for tensor in initializers:
        name = _text(tensor.name)
        if name in constants:
            raise BundleError(f"{name}: two weights have this name")
        data = _external_bytes(tensor, weights) if tensor.external_data else _inline_bytes(tensor)
        dtype = np.dtype(_dtype(tensor.data_type, name))
        shape = tuple(tensor.dims)
        if len(shape) > MAX_RANK:
            raise BundleError(f"{name}: has {len(shape)} dimensions; allowed are {MAX_RANK}")
        if any(dim < 1 for dim in shape) or _count(shape) * dtype.itemsize != len(data):
            raise BundleError(f"{name}: {len(data)} bytes are no {dtype} of shape {shape}")
        constants[name] = data.view(dtype).reshape(shape)
    return constants


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for dim in shape:
        count *= dim
    return count


def _inline_bytes(tensor: Any) -> npt.NDArray[np.uint8]:  # noqa: ANN401
    return np.frombuffer(tensor.raw_data, np.uint8).copy()  # aligned, which raw_data may not be


def _external_bytes(tensor: Any, weights: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:  # noqa: ANN401
    """Return the bytes of a weight, a view of those of the file."""
    fields = {_text(entry.key): _text(entry.value) for entry in tensor.external_data}
    if fields.get("location") != WEIGHTS:
        raise BundleError(
            f"{tensor.name}: its data are in {fields.get('location')!r}, not {WEIGHTS}"
        )
    begin, length = (_number(fields.get(key, ""), key, tensor.name) for key in ("offset", "length"))
    if begin % ALIGNMENT or begin + length > len(weights):
        raise BundleError(
            f"{tensor.name}: bytes {begin} to {begin + length} of {WEIGHTS}, which has "
            f"{len(weights)}; offsets are multiples of {ALIGNMENT}"
        )
    return weights[begin : begin + length]


def _number(text: str, key: str, name: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise BundleError(f"{name}: its {key} in {WEIGHTS} is {text!r}; it must be a number")
    return int(text)


class _GraphReader:
    """Turns nodes into steps, in order, and follows the shapes through them."""

    def __init__(
        self, context_length: int, inputs: Iterable[Value], constants: Mapping[str, Array]
    ) -> None:
        self._context_length = context_length
        self._constants = constants
        self.values: dict[str, Value] = {}
        for value in [*inputs, *_constant_values(constants)]:
            self._add(value, "the graph")

    def read(self, node: Any) -> Step:  # noqa: ANN401
        """Check a node and return it as a step."""
        if node.domain != ops.DOMAIN:
            raise PlanError(f"{node.name}: {node.domain}.{node.op_type} is not of {ops.DOMAIN}")
        operator = ops.find(_text(node.op_type))
        step = Step(
            name=_text(node.name),
            op_type=node.op_type,
            inputs=tuple(map(_text, node.input)),
            outputs=tuple(map(_text, node.output)),
            attributes=_read_attributes(node, operator.SCHEMA),
        )
        check_attributes(step, operator)
        self._infer(step, operator)
        return step

    def _infer(self, step: Step, operator: ModuleType) -> None:
        """Check the inputs of a step, and add its outputs to the values."""
        schema: OpSchema = operator.SCHEMA
        for name in step.inputs:
            if name not in self.values:
                raise PlanError(f"{step.name}: nothing before it makes its input {name!r}")
        given = [self.values[name] for name in step.inputs]
        try:
            sizes = schema.bind([value.shape for value in given])
            shapes = schema.infer([value.shape for value in given])
        except PlanError as error:
            raise PlanError(f"{step.name}: {error}") from error
        for port, value in zip(schema.inputs, given, strict=True):
            if value.dtype != port.dtype:
                raise PlanError(f"{step.name}: {port.name} is {value.dtype}, not {port.dtype}")
        if len(step.outputs) != len(schema.outputs):
            raise PlanError(f"{step.name}: {schema.name} has {len(schema.outputs)} outputs")
        check_step(step, operator, sizes, self._context_length, self._constants)
        for name, port, shape in zip(step.outputs, schema.outputs, shapes, strict=True):
            self._add(Value(name, port.dtype, shape), step.name)

    def _add(self, value: Value, where: str) -> None:
        if not value.name or value.name in self.values:
            raise PlanError(f"{where}: the name {value.name!r} is empty or used twice")
        self.values[value.name] = value


def _read_attributes(node: Any, schema: OpSchema) -> dict[str, int]:  # noqa: ANN401
    import onnx

    attributes = {}
    for attribute in node.attribute:
        if attribute.type != onnx.AttributeProto.INT:
            raise PlanError(f"{node.name}: the attribute {attribute.name} is no integer")
        attributes[_text(attribute.name)] = int(attribute.i)
    if set(attributes) != set(schema.attributes):
        raise PlanError(
            f"{node.name}: its attributes are {sorted(attributes)}; {schema.name} has "
            f"{sorted(schema.attributes)}; if another version made the bundle, export it again"
        )
    return attributes


def _check_cache_uses(steps: Iterable[Step], inputs: Iterable[Value]) -> None:
    """Check that each cache input is used once: its memory changes under any other reader."""
    uses = [name for step in steps for name in step.inputs]
    for value in inputs:
        if value.name.startswith(PAST) and uses.count(value.name) != 1:
            raise PlanError(f"{value.name} is used {uses.count(value.name)} times; it must be once")


def _check_vocabulary(
    steps: Iterable[Step], values: Mapping[str, Value], manifest: Manifest
) -> None:
    """Check that every id of the vocabulary has an embedding."""
    for step in steps:
        schema: OpSchema = ops.find(step.op_type).SCHEMA
        if VOCABULARY in schema.tables:
            rows = schema.bind([values[name].shape for name in step.inputs])[VOCABULARY]
            if rows != manifest.vocab_size:
                raise PlanError(
                    f"{step.name}: its table has {rows} rows; the vocabulary is "
                    f"{manifest.vocab_size}"
                )
