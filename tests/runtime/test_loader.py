"""The loader: a sound bundle becomes a plan over mapped weights; all else gets a typed error."""

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellm.bundle import GRAPH, WEIGHTS, Bundle, open_bundle
from edgellm.errors import BundleError, EdgeLLMError, PlanError, UnsupportedOpError
from edgellm.runtime.loader import contract_inputs, contract_outputs, load_plan

Change = Callable[[Any], None]


@pytest.fixture(scope="module")
def sound(random_bundle: Path) -> Bundle:
    return open_bundle(random_bundle)


@pytest.fixture(scope="module")
def graph_bytes(sound: Bundle) -> bytes:
    return sound.graph_path.read_bytes()


@pytest.fixture
def bundle(sound: Bundle, tmp_path: Path) -> Bundle:
    """Return a bundle whose files can be damaged; the loader does not look at checksums."""
    for name in (GRAPH, WEIGHTS):
        shutil.copyfile(sound.path / name, tmp_path / name)
    return replace(sound, path=tmp_path)


def change_graph(bundle: Bundle, change: Change) -> None:
    model = onnx.load(bundle.graph_path, load_external_data=False)
    change(model)
    bundle.graph_path.write_bytes(model.SerializeToString())


def node(model: Any, op_type: str, index: int = 0) -> Any:
    return [item for item in model.graph.node if item.op_type == op_type][index]


def weight(model: Any, suffix: str) -> Any:
    return next(item for item in model.graph.initializer if item.name.endswith(suffix))


def external(model: Any) -> Any:
    return next(item for item in model.graph.initializer if item.external_data)


def set_external(key: str, value: str) -> Change:
    def change(model: Any) -> None:
        for entry in external(model).external_data:
            if entry.key == key:
                entry.value = value

    return change


def set_attribute(op_type: str, name: str, value: int) -> Change:
    def change(model: Any) -> None:
        attribute = next(item for item in node(model, op_type).attribute if item.name == name)
        attribute.i = value

    return change


def set_input(op_type: str, port: int, name: str) -> Change:
    def change(model: Any) -> None:
        node(model, op_type).input[port] = name

    return change


def test_a_sound_bundle_has_the_contract(sound: Bundle) -> None:
    plan = load_plan(sound)

    assert plan.inputs == tuple(value.name for value in contract_inputs(sound.manifest))
    assert plan.outputs == tuple(value.name for value in contract_outputs(sound.manifest))
    assert plan.vocab_size == sound.manifest.vocab_size
    assert plan.values["logits"].shape == ("logits", sound.manifest.vocab_size)
    assert len(plan.cache_inputs) == 4 * sound.manifest.num_hidden_layers


def test_large_weights_are_mapped_and_read_only(sound: Bundle) -> None:
    large = [array for array in load_plan(sound).constants.values() if array.nbytes >= 1024]

    assert large
    for array in large:
        assert isinstance(array, np.memmap)
        assert not array.flags.writeable
        assert array.ctypes.data % 64 == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_external("location", "../weights.bin"), "not weights.bin"),
        (set_external("location", "/etc/passwd"), "not weights.bin"),
        (set_external("offset", str(1 << 40)), "which has"),
        (set_external("offset", "-64"), "must be a number"),
        (set_external("offset", "8"), "multiples of 64"),
        (set_external("length", "1"), "bytes are no"),
        (set_external("length", "9" * 30), "must be a number"),
        (lambda m: external(m).dims.append(2), "bytes are no"),
        (lambda m: external(m).dims.__setitem__(0, -1), "bytes are no"),
        (lambda m: external(m).dims.extend([1] * 70), "dimensions; allowed are 8"),
        (lambda m: m.graph.initializer.append(external(m)), "two weights have this name"),
    ],
)
def test_weights_must_be_where_they_are_said_to_be(
    bundle: Bundle, change: Change, message: str
) -> None:
    change_graph(bundle, change)

    with pytest.raises(BundleError, match=message):
        load_plan(bundle)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_attribute("Embedding", "shift", 63), "shift is 63; allowed are 1 to 62"),
        (set_attribute("RmsNormQuantize", "gain_mantissa", 2**31), "allowed are 0 to"),
        (set_attribute("Attention", "window", -1), "window is -1"),
        (set_attribute("Requantize", "shift", 2**40), "shift is"),
        (lambda m: node(m, "Requantize").attribute.pop(), "its attributes are"),
        (lambda m: setattr(node(m, "Requantize").attribute[0], "type", 1), "no integer"),
        (set_input("Embedding", 0, "position_ids"), "its ids are the input input_ids"),
        (set_input("Embedding", 0, "logit_rows"), "its ids are"),
        (set_input("LogitsHead", 4, "input_ids"), "its rows are the input logit_rows"),
        (set_input("RotaryEmbedding", 1, "input_ids"), "its positions are"),
        (set_input("CacheAppend", 1, "past_key_values.1.key"), "its outputs are"),
        (set_input("BitLinear", 0, "nowhere"), "nothing before it makes its input 'nowhere'"),
        (set_input("BitLinear", 0, "input_ids"), "rank 2"),
        (lambda m: m.graph.node.insert(0, m.graph.node[-1]), "nothing before it makes"),
        (lambda m: m.graph.node.append(m.graph.node[-1]), "used"),
        (lambda m: setattr(m.graph.node[0], "domain", ""), "is not of ai.edgellm"),
        (lambda m: m.graph.node[0].output.append("more"), "has 1 outputs"),
        (lambda m: m.graph.node.extend([m.graph.node[0]] * 8192), "at most 8192 run"),
        (lambda m: m.graph.input.pop(), "inputs differ"),
        (lambda m: m.graph.output.pop(), "outputs differ"),
        (lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 6), "input is"),
        (lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 1), "is float32"),
        (lambda m: m.graph.value_info.add(name="logits"), "logits is element type 0"),
        (lambda m: setattr(m.opset_import[1], "version", 2), "version 2 of the operators"),
    ],
)
def test_graphs_that_cannot_run_are_refused(bundle: Bundle, change: Change, message: str) -> None:
    change_graph(bundle, change)

    with pytest.raises(PlanError, match=message):
        load_plan(bundle)


def test_an_unknown_operator_is_named(bundle: Bundle) -> None:
    change_graph(bundle, lambda m: setattr(m.graph.node[0], "op_type", "Teleport"))

    with pytest.raises(UnsupportedOpError, match="Teleport"):
        load_plan(bundle)


def shrink(suffix: str, dims: list[int]) -> Change:
    """Give a weight another shape; its bytes are inline then, and zero."""

    def change(model: Any) -> None:
        tensor = weight(model, suffix)
        item_size = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        del tensor.external_data[:]
        del tensor.dims[:]
        tensor.data_location = onnx.TensorProto.DEFAULT
        tensor.dims.extend(dims)
        tensor.raw_data = bytes(int(np.prod(dims)) * item_size)

    return change


def weight_name(bundle: Bundle, op_type: str, port: int) -> str:
    model = onnx.load(bundle.graph_path, load_external_data=False)
    name: str = node(model, op_type).input[port]
    return name


@pytest.mark.parametrize(
    ("op_type", "port", "dims", "message"),
    [
        ("BitLinear", 1, [64, 8], "packed weight has another number of columns"),
        ("GatedBitLinear", 1, [172, 8], "packed weight has another number of columns"),
        ("ColumnBitLinear", 1, [1, 7, 16], "elsewhere"),
        ("ColumnBitLinear", 1, [1, 172, 12], "16 bytes for every 64 outputs"),
        ("RotaryEmbedding", 2, [63, 8], "elsewhere"),
        ("Embedding", 1, [10, 64], "elsewhere"),
        ("RmsNormQuantize", 2, [63], "elsewhere"),
        ("RmsNormQuantize", 1, [3, 2], "its scale has one row"),
        ("RmsNormQuantize", 1, [1, 3], "3 here, 2 elsewhere"),
    ],
)
def test_weights_of_another_shape_are_refused(
    bundle: Bundle, op_type: str, port: int, dims: list[int], message: str
) -> None:
    change_graph(bundle, shrink(weight_name(bundle, op_type, port), dims))

    with pytest.raises(PlanError, match=message):
        load_plan(bundle)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("logits_frame", 20, "frame 20; only 16 can run"),
        ("context_length", 65, "tables have 65 positions or more"),
        ("context_length", 100_000, "at most 65535"),
        ("vocab_size", 100, r"output is logits int32 \(logits, 288\); it must be .*, 100\)"),
        ("num_hidden_layers", 3, "inputs differ"),
        ("num_key_value_heads", 4, "input is"),
        ("head_dim", 32, "input is"),
    ],
)
def test_the_manifest_and_the_graph_must_agree(
    bundle: Bundle, field: str, value: int, message: str
) -> None:
    other = replace(bundle, manifest=replace(bundle.manifest, **{field: value}))

    with pytest.raises(PlanError, match=message):
        load_plan(other)


def test_truncated_weights_are_refused(bundle: Bundle) -> None:
    content = bundle.weights_path.read_bytes()
    bundle.weights_path.write_bytes(content[: len(content) // 2])

    with pytest.raises(BundleError, match="which has"):
        load_plan(bundle)


@pytest.mark.parametrize(
    "content", [b"", bytes(100), b"not a graph at all"], ids=["empty", "zeros", "text"]
)
def test_a_file_that_is_no_graph_is_refused(bundle: Bundle, content: bytes) -> None:
    bundle.graph_path.write_bytes(content)

    with pytest.raises((BundleError, PlanError)):
        load_plan(bundle)


@settings(max_examples=40, deadline=None)
@given(changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_bytes_never_crash(
    sound: Bundle,
    graph_bytes: bytes,
    tmp_path_factory: pytest.TempPathFactory,
    changes: list[tuple[float, int]],
) -> None:
    """A graph with some bytes changed is read, or refused with an error of ours."""
    content = bytearray(graph_bytes)
    for position, value in changes:
        content[int(position * (len(content) - 1))] = value
    folder = tmp_path_factory.mktemp("damaged")
    (folder / WEIGHTS).symlink_to(sound.weights_path)
    (folder / GRAPH).write_bytes(content)

    with suppress(EdgeLLMError):
        load_plan(replace(sound, path=folder))
