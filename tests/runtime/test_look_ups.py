"""Ternary weights packed for look-ups where a processor multiplies slowly: the same logits."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest

import edgellm
from edgellm import api
from edgellm.bundle import open_bundle
from edgellm.dtypes import TERNARY_2BIT, TERNARY_5TRIT
from edgellm.errors import BundleError, ConfigError
from edgellm.exporters.architectures import bitnet
from edgellm.runtime import cpu, layouts, tuner, tuning
from edgellm.runtime.engine import Engine
from edgellm.runtime.kernels import simd
from edgellm.runtime.loader import load_plan
from edgellm.runtime.plan import Plan
from edgellm.runtime.tuner import tune
from edgellm.ternary_layouts import TERNARY_LAYOUTS
from edgellm.ternary_planes import TERNARY_PLANES

# Of its linears that are BitLinear, all but k_proj and v_proj have whole blocks of 64 rows.
CONFIG = {**bitnet.TINY, "hidden_size": 192, "intermediate_size": 448, "num_attention_heads": 4,
          "num_key_value_heads": 2}  # fmt: skip
IDS = np.arange(3, 40, dtype=np.int64)
STORED = (TERNARY_2BIT, TERNARY_5TRIT)
"""What is packed again for look-ups."""
UNITS = [name for name in simd.available(cpu.host()) if layouts.looks_up(name)]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same weights in each layout that bundles have, by its name."""
    folder = tmp_path_factory.mktemp("look_ups")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    for layout in TERNARY_LAYOUTS.values():
        api.export_random(folder / "config.json", folder / layout.alias, layout=layout.alias)
    return {layout.name: folder / layout.alias for layout in TERNARY_LAYOUTS.values()}


@pytest.fixture
def plans(bundles: dict[str, Path]) -> dict[str, Plan]:
    return {name: load_plan(open_bundle(path)) for name, path in bundles.items()}


def logits(plan: Plan, chunk: int, threads: int) -> np.ndarray:
    engine = Engine(plan, context_length=64, threads=threads, chunk=chunk)
    try:
        return engine.forward(IDS, engine.new_cache(), range(len(IDS)))
    finally:
        engine.close()


def kinds(plan: Plan) -> dict[str, str]:
    """Return the operators of the linears of a layer."""
    linears = [step for step in plan.steps if step.op_type.endswith("Linear")]
    return {step.name.split("/")[-2]: step.op_type for step in linears if "layers.1/" in step.name}


@pytest.mark.parametrize("source", STORED)
@pytest.mark.parametrize(("chunk", "threads"), [(1, 1), (1, 2), (5, 2), (64, 3)])
def test_logits_are_the_same(plans: dict[str, Plan], source: str, chunk: int, threads: int) -> None:
    plan = plans[source]
    converted = layouts.convert(plan, TERNARY_PLANES)

    np.testing.assert_array_equal(
        logits(converted, chunk, threads), logits(plan, chunk, threads), strict=True
    )


@pytest.mark.parametrize("source", STORED)
def test_whole_blocks_of_rows_are_packed_again(plans: dict[str, Plan], source: str) -> None:
    plan = plans[source]
    before, after = kinds(plan), kinds(layouts.convert(plan, TERNARY_PLANES))

    usual = TERNARY_LAYOUTS[source].op_type
    assert {name for name, op_type in before.items() if op_type == usual} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj"
    }  # fmt: skip
    assert {name for name in after if after[name] != before[name]} == {
        "q_proj", "o_proj", "gate_proj"
    }  # fmt: skip
    assert after["q_proj"] == "LookUpBitLinear"
    size = layouts.converted_bytes(plan, TERNARY_PLANES)
    assert size == 2 * (192 * 192 * 2 + 448 * 192) // 4
    assert layouts.converted_bytes(layouts.convert(plan, TERNARY_PLANES), TERNARY_PLANES) == 0


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("layout", list(TERNARY_LAYOUTS))
def test_a_processor_without_dot_products_looks_up(
    bundles: dict[str, Path], unit: str, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with edgellm.load(bundles[TERNARY_2BIT]) as model:
        expected = model.logits([1, 2, 3])
    monkeypatch.setenv(simd.ENVIRONMENT, unit)

    with edgellm.load(bundles[layout]) as model:
        assert kinds(model.engine.plan)["q_proj"] == "LookUpBitLinear"
        np.testing.assert_array_equal(model.logits([1, 2, 3]), expected)


@pytest.mark.parametrize("unit", UNITS)
def test_planes_of_a_bundle_are_mapped_there(
    bundles: dict[str, Path],
    unit: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """And what stays in two bits, for it fits no blocks, is said nothing about."""
    monkeypatch.setenv(simd.ENVIRONMENT, unit)
    monkeypatch.setattr(layouts, "convert", None)
    with caplog.at_level(logging.INFO), edgellm.load(bundles[TERNARY_PLANES]) as model:
        plan = model.engine.plan

    assert layouts.names(plan) == (TERNARY_PLANES, TERNARY_2BIT)
    (first, *_) = (step for step in plan.steps if step.op_type == "LookUpBitLinear")
    array: object = plan.constants[first.inputs[1]]
    while isinstance(array, np.ndarray) and not isinstance(array, np.memmap):
        array = array.base
    assert isinstance(array, np.memmap)
    assert "packed" not in caplog.text


@pytest.mark.skipif(not UNITS, reason="no unit of this machine looks up")
def test_what_is_packed_for_look_ups_is_said_with_the_export_that_saves_it(
    plans: dict[str, Plan], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(simd.ENVIRONMENT, UNITS[0])
    with caplog.at_level(logging.INFO):
        layouts.for_this_machine(plans[TERNARY_2BIT])

    (record,) = caplog.records
    assert record.levelno == logging.INFO
    text = record.getMessage()
    assert f"is slow on weights packed as {TERNARY_2BIT}: they were packed as" in text
    assert "a bundle exported with --layout lookup is mapped instead" in text


def test_a_model_without_whole_blocks_is_refused(tmp_path: Path) -> None:
    config = {**CONFIG, "hidden_size": 96, "intermediate_size": 100, "num_key_value_heads": 1}
    (tmp_path / "config.json").write_text(json.dumps(config))

    with pytest.raises(ConfigError, match="outputs are a multiple of 64, and this model has none"):
        api.export_random(tmp_path / "config.json", tmp_path / "out", layout="lookup")
    assert not (tmp_path / "out").exists()


def test_other_processors_multiply(plans: dict[str, Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(simd.ENVIRONMENT, simd.PORTABLE)
    plan = plans[TERNARY_2BIT]

    assert layouts.for_this_machine(plan) is plan
    assert not layouts.looks_up("avx512_vnni")
    assert not layouts.looks_up("neon_dotprod")
    assert layouts.looks_up("neon")


def test_without_the_memory_weights_stay_as_they_are(
    plans: dict[str, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layouts, "available_memory_bytes", lambda: 1000)
    plan = plans[TERNARY_2BIT]

    assert layouts.for_this_machine(plan, look_ups=True) is plan


def test_damaged_weights_are_refused(plans: dict[str, Plan]) -> None:
    plan = plans[TERNARY_2BIT]
    name = next(step.inputs[1] for step in plan.steps if step.op_type == "BitLinear")
    damaged = plan.constants[name].copy()
    damaged[2, 3] = 255
    constants = {**plan.constants, name: damaged}

    with pytest.raises(BundleError, match="is 255, which no weights give"):
        layouts.convert(
            Plan(plan.steps, plan.values, constants, plan.inputs, plan.outputs), TERNARY_PLANES
        )


@pytest.mark.skipif(not UNITS, reason="no unit of this machine looks up")
@pytest.mark.parametrize("faster", [False, True])
@pytest.mark.parametrize("layout", [TERNARY_2BIT, TERNARY_PLANES])
def test_the_tuner_times_both_and_load_uses_what_was_faster(
    bundles: dict[str, Path],
    plans: dict[str, Plan],
    layout: str,
    faster: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(simd.ENVIRONMENT, raising=False)
    monkeypatch.setattr(tuning, "tuning_path", lambda: tmp_path / "tuning.json")
    monkeypatch.setattr(simd, "available", lambda _: (UNITS[0], simd.PORTABLE))
    timed = tuner._time_layouts
    seconds = {False: 2.0, True: 1.0 if faster else 3.0}
    monkeypatch.setattr(
        tuner, "_time_layouts", lambda *given: {key: seconds[key] for key in timed(*given)}
    )
    plan = plans[layout]
    assert tuning.recall_look_ups(plan) is None

    result = tune(plan, context_length=64, seconds=0.1)

    assert {item.look_ups: item.chosen for item in result.layouts} == {
        False: not faster, True: faster
    }  # fmt: skip
    assert tuning.recall_look_ups(plan) is faster
    assert tuner.is_tuned(plan)
    with edgellm.load(bundles[layout]) as model:
        looked_up = kinds(model.engine.plan)["q_proj"] == "LookUpBitLinear"
    assert looked_up is faster
