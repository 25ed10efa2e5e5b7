"""All layouts of ternary weights give the same answers, from the bundle or packed at load."""

import itertools
import json
import logging
from pathlib import Path

import numpy as np
import onnx
import pytest

import edgellm
from edgellm import api
from edgellm.bundle import Bundle, open_bundle
from edgellm.dtypes import TERNARY_2BIT, TERNARY_5TRIT
from edgellm.errors import BundleError, ConfigError
from edgellm.exporters.architectures import bitnet, llama
from edgellm.runtime import cpu, layouts
from edgellm.runtime.engine import Engine
from edgellm.runtime.kernels import simd
from edgellm.runtime.loader import load_plan
from edgellm.runtime.plan import Plan
from edgellm.ternary_layouts import TERNARY_LAYOUTS
from edgellm.ternary_planes import TERNARY_PLANES

# Wider than one block of any layout, and no whole blocks; only gate_proj has whole blocks of rows.
CONFIG = {**bitnet.TINY, "hidden_size": 416, "intermediate_size": 704, "num_attention_heads": 4,
          "num_key_value_heads": 2}  # fmt: skip
IDS = np.arange(3, 40, dtype=np.int64)
VARIANTS = simd.available(cpu.host())
UNUSUAL = (TERNARY_5TRIT, TERNARY_PLANES)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same weights in each layout, by its name."""
    folder = tmp_path_factory.mktemp("layouts")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    exported = {}
    for layout in TERNARY_LAYOUTS.values():
        exported[layout.name] = folder / layout.alias
        api.export_random(folder / "config.json", folder / layout.alias, layout=layout.alias)
    return exported


@pytest.fixture
def plans(bundles: dict[str, Path]) -> dict[str, Plan]:
    return {name: load_plan(open_bundle(path)) for name, path in bundles.items()}


def logits(plan: Plan, chunk: int = 64, threads: int = 2) -> np.ndarray:
    engine = Engine(plan, context_length=64, threads=threads, chunk=chunk)
    try:
        return engine.forward(IDS, engine.new_cache(), range(len(IDS)))
    finally:
        engine.close()


def test_a_bundle_says_its_layout_and_is_smaller_with_five_trits(bundles: dict[str, Path]) -> None:
    manifests = {name: open_bundle(path).manifest for name, path in bundles.items()}

    assert {name: manifest.layout for name, manifest in manifests.items()} == {
        name: name for name in bundles
    }
    sizes = {name: api.inspect(path).weight_bytes_per_token for name, path in bundles.items()}
    assert sizes[TERNARY_5TRIT] < sizes[TERNARY_2BIT]


@pytest.mark.parametrize("chunk", [1, 5, 64])
@pytest.mark.parametrize("layout", UNUSUAL)
def test_layouts_give_the_same_logits(plans: dict[str, Plan], layout: str, chunk: int) -> None:
    np.testing.assert_array_equal(
        logits(plans[layout], chunk), logits(plans[TERNARY_2BIT], chunk), strict=True
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_all_kernels_give_the_same_logits_from_all_layouts(
    plans: dict[str, Plan], variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they are stored, and as a processor of that kind packs them."""
    expected = logits(plans[TERNARY_2BIT])
    monkeypatch.setenv(simd.ENVIRONMENT, variant)

    for plan in plans.values():
        for chunk in (1, 64):
            np.testing.assert_array_equal(logits(plan, chunk), expected, strict=True)
        suited = layouts.for_this_machine(plan)
        assert all(layouts.suits(name, variant) for name in layouts.names(suited))
        np.testing.assert_array_equal(logits(suited), expected, strict=True)


@pytest.mark.parametrize("layout", UNUSUAL)
def test_golden_cases_do_not_depend_on_the_layout(bundles: dict[str, Path], layout: str) -> None:
    golden = {(path / "golden" / "cases.json").read_bytes() for path in bundles.values()}

    assert len(golden) == 1
    report = edgellm.verify(bundles[layout])
    assert {"numba", "onnxruntime", "reference"} <= {c.name.split(",")[0] for c in report.checks}


@pytest.mark.parametrize(("source", "target"), list(itertools.permutations(TERNARY_LAYOUTS, 2)))
def test_conversion_gives_what_the_export_would_have(
    plans: dict[str, Plan], source: str, target: str
) -> None:
    converted = layouts.convert(plans[source], target)
    if target == TERNARY_PLANES:  # an export has what fits no block of it in two bits
        converted = layouts.convert(converted, TERNARY_2BIT, (TERNARY_5TRIT,))

    assert set(layouts.names(converted)) == set(layouts.names(plans[target]))
    assert target in layouts.names(converted)
    assert [step.op_type for step in converted.steps] == [s.op_type for s in plans[target].steps]
    for name, expected in plans[target].constants.items():
        np.testing.assert_array_equal(converted.constants[name], expected, strict=True)
        assert converted.values[name] == plans[target].values[name]
    operators = TERNARY_LAYOUTS[target].op_type, TERNARY_LAYOUTS[target].gated_op_type
    packed = [
        converted.constants[step.inputs[1]]
        for before, step in zip(plans[source].steps, converted.steps, strict=True)
        if step.op_type in operators and step.op_type != before.op_type
    ]
    assert layouts.converted_bytes(plans[source], target) == sum(array.nbytes for array in packed)
    assert all(array.ctypes.data % 64 == 0 and not array.flags.writeable for array in packed)
    assert layouts.converted_bytes(converted, target) == 0


def test_weights_that_are_used_in_two_ways_stay_as_they_are(plans: dict[str, Plan]) -> None:
    """Two operators may read one weight; only one of them has another for the other layout."""
    plan = plans[TERNARY_2BIT]
    first, other = [step for step in plan.steps if step.op_type == "BitLinear"][:2]
    odd = Plan(
        steps=(*plan.steps, type(other)("odd", "Odd", (first.inputs[1],), ("odd",), {})),
        values=plan.values,
        constants=plan.constants,
        inputs=plan.inputs,
        outputs=plan.outputs,
    )

    kinds = {step.name: step.op_type for step in layouts.convert(odd, TERNARY_5TRIT).steps}

    assert kinds[first.name] == "BitLinear"
    assert kinds[other.name] == "TritLinear"


@pytest.mark.parametrize("layout", UNUSUAL)
def test_a_machine_without_a_fast_kernel_packs_again_and_says_so(
    plans: dict[str, Plan],
    layout: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv(simd.ENVIRONMENT, simd.PORTABLE)
    plan = plans[layout]
    size = layouts.converted_bytes(plan, TERNARY_2BIT)
    with caplog.at_level(logging.WARNING):
        suited = layouts.for_this_machine(plan)

    assert layouts.names(suited) == (TERNARY_2BIT,)
    assert f"slow on weights packed as {layout}: they were packed as {TERNARY_2BIT}" in caplog.text
    assert f"take {size >> 20} MiB of memory" in caplog.text
    assert "exported with --layout 2bit is mapped instead" in caplog.text
    assert layouts.for_this_machine(suited) is suited
    np.testing.assert_array_equal(logits(suited), logits(plan))


@pytest.mark.parametrize("layout", UNUSUAL)
def test_without_the_memory_weights_stay_mapped(
    plans: dict[str, Plan],
    layout: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv(simd.ENVIRONMENT, simd.PORTABLE)
    monkeypatch.setattr(layouts, "available_memory_bytes", lambda: 1000)
    with caplog.at_level(logging.WARNING):
        assert layouts.for_this_machine(plans[layout]) is plans[layout]

    assert "export with --layout 2bit" in caplog.text


def test_a_machine_with_a_fast_kernel_maps_the_weights(
    plans: dict[str, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert layouts.suits(TERNARY_2BIT, simd.PORTABLE)
    assert layouts.suits(TERNARY_5TRIT, "avx512_vbmi")
    assert not layouts.suits(TERNARY_5TRIT, "avx2")
    assert layouts.suits(TERNARY_PLANES, "avx2")
    assert not layouts.suits(TERNARY_PLANES, "avx2", look_ups=False)
    assert not layouts.suits(TERNARY_PLANES, "avx512_vbmi")
    assert not layouts.suits(TERNARY_PLANES, simd.PORTABLE)
    monkeypatch.setenv(simd.ENVIRONMENT, simd.PORTABLE)
    plan = plans[TERNARY_2BIT]
    assert layouts.for_this_machine(plan) is plan


def test_damaged_weights_are_refused(bundles: dict[str, Path], plans: dict[str, Plan]) -> None:
    plan = plans[TERNARY_5TRIT]
    name = next(step.inputs[1] for step in plan.steps if step.op_type == "TritLinear")
    damaged = plan.constants[name].copy()
    damaged[2, 3] = 250
    constants = {**plan.constants, name: damaged}
    where = 2 * damaged.shape[1] + 3

    with pytest.raises(BundleError, match=f"{name}: byte {where} is 250, which no weights give"):
        layouts.convert(
            Plan(plan.steps, plan.values, constants, plan.inputs, plan.outputs), TERNARY_2BIT
        )


def test_a_row_of_another_length_is_refused(bundles: dict[str, Path], tmp_path: Path) -> None:
    """What the graph says of five trits, with the shape of two bits."""
    model = onnx.load(bundles[TERNARY_2BIT] / "model.onnx", load_external_data=False)
    for node in model.graph.node:
        if node.op_type == "BitLinear":
            node.op_type = "TritLinear"
    with pytest.raises(edgellm.EdgeLLMError, match="another number of columns"):
        load_plan(with_graph(bundles[TERNARY_2BIT], model, tmp_path / "bundle"))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((11, 26, 64, 4), "packed"),
        ((11, 52, 32, 4), "packed"),
        ((22, 26, 64, 2), "another number of columns"),
        ((11, 52, 128), "packed"),
        ((704, 104), "packed"),
        ((12, 52, 64, 2), "bytes are no uint8 of shape"),
        ((1, 52, 64, 2), "bytes are no uint8 of shape"),
    ],
)
def test_planes_of_another_shape_are_refused(
    bundles: dict[str, Path], tmp_path: Path, shape: tuple[int, ...], message: str
) -> None:
    model = onnx.load(bundles[TERNARY_PLANES] / "model.onnx", load_external_data=False)
    names = {node.input[1] for node in model.graph.node if node.op_type == "LookUpBitLinear"}
    assert names
    for tensor in model.graph.initializer:
        if tensor.name in names:
            assert tuple(tensor.dims) == (11, 52, 64, 2)
            tensor.dims[:] = shape
    with pytest.raises(edgellm.EdgeLLMError, match=message):
        load_plan(with_graph(bundles[TERNARY_PLANES], model, tmp_path / "bundle"))


def with_graph(bundle: Path, model: onnx.ModelProto, path: Path) -> Bundle:
    """Return a bundle that has another graph."""
    path.mkdir()
    for file in bundle.iterdir():
        if file.name != "golden":
            (path / file.name).write_bytes(file.read_bytes())
    (path / "model.onnx").write_bytes(model.SerializeToString())
    return Bundle(path=path, manifest=open_bundle(bundle).manifest)


def test_an_ordinary_model_has_no_layout(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(llama.TINY))
    with pytest.raises(ConfigError, match="it is for ternary weights, and this model has none"):
        api.export_random(tmp_path / "config.json", tmp_path / "out", layout="5trit")
