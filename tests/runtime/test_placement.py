"""Bundles on devices: calls, placement, functional equality."""

from pathlib import Path

import numpy as np
import pytest

import edgellm
from edgellm import device_api, ops
from edgellm.bundle import open_bundle
from edgellm.device import Attention, Call, ForwardPass, MatMul, Refusal
from edgellm.devices import _catalog
from edgellm.devices.null import Device as NullDevice
from edgellm.devices.reference import Device
from edgellm.errors import ConfigError, ContextLengthError, VerificationError
from edgellm.graph_names import IDS, POSITIONS, ROWS
from edgellm.runtime.calls import PlanWorkload
from edgellm.runtime.functional import compare
from edgellm.runtime.loader import load_plan
from edgellm.runtime.placement import CPU, PlacedExecutor, place


class LinearOnly(Device):
    """A reference device that takes products of ternary weights only."""

    def supports(self, call: Call) -> Refusal | None:
        return None if call.op_type == "BitLinear" else Refusal(f"no unit for {call.op_type}")


def linear_only() -> LinearOnly:
    return LinearOnly(_catalog.describe("reference"))


def test_the_work_of_an_operator_fits_its_examples() -> None:
    """The products and elements that it names are those of the arrays."""
    for module in ops.modules():
        schema = module.SCHEMA
        for example in module.examples():
            shapes = [array.shape for array in example.inputs]
            sizes = {letter: int(size) for letter, size in schema.bind(shapes).items()}
            work = module.work({**sizes, **example.attributes})
            assert work.macs >= 0
            if isinstance(work, MatMul):
                assert (work.m, work.n) == tuple(schema.infer(shapes)[0])


def test_layers_of_a_bundle_are_one_block(random_bundle: Path) -> None:
    bundle = open_bundle(random_bundle)
    plan = load_plan(bundle)
    workload = PlanWorkload(bundle, plan)

    blocks = workload.blocks(ForwardPass(tokens=3, past=5))

    assert [block.repeats for block in blocks] == [1, 2, 1]
    assert sum(len(block.calls) * block.repeats for block in blocks) == len(plan.steps)
    attention = next(call.work for call in blocks[1].calls if isinstance(call.work, Attention))
    assert (attention.tokens, attention.length) == (3, 8)
    products = [call for call in blocks[1].calls if isinstance(call.work, MatMul)]
    assert {call.work.m for call in products} == {3}
    assert all(call.constant_inputs == (1,) for call in products)
    with pytest.raises(ConfigError, match="one sequence at a time"):
        workload.blocks(ForwardPass(tokens=1, sequences=2))
    with pytest.raises(ConfigError, match="its context is"):
        workload.check(ForwardPass(tokens=1, past=1 << 20))


def test_a_placement_says_where_and_why(random_bundle: Path) -> None:
    placed = device_api.placement(random_bundle, "reference")
    plan = load_plan(open_bundle(random_bundle))
    sizes = {"tokens": 1, "past": 0, "logits": 1}
    some = {item.op_type: item for item in place(plan, linear_only(), sizes)}

    assert {item.place for item in placed} == {"reference"}
    assert (some["BitLinear"].place, some["BitLinear"].reason) == ("reference", "")
    assert (some["Attention"].place, some["Attention"].reason) == (CPU, "no unit for Attention")


def test_a_device_computes_what_the_cpu_computes(random_bundle: Path) -> None:
    report = compare(open_bundle(random_bundle), linear_only(), prompt=5, new=3)

    assert report.passed
    assert (report.calls, set(report.on_device)) == (4, {"BitLinear"})
    assert report.on_device["BitLinear"] == 10
    assert "BitLinear" not in report.on_cpu


def test_a_device_that_computes_something_else_is_found(random_bundle: Path) -> None:
    device = NullDevice(_catalog.describe("null"))

    report = compare(open_bundle(random_bundle), device, prompt=2, new=0)

    assert not report.passed
    assert "embed_tokens" in report.difference


def test_a_request_that_cannot_be_computed_is_refused(random_bundle: Path) -> None:
    bundle = open_bundle(random_bundle)
    with pytest.raises(ConfigError):
        compare(bundle, linear_only(), prompt=0, new=1)
    with pytest.raises(ContextLengthError):
        compare(bundle, linear_only(), prompt=1 << 20, new=1)


def test_outputs_of_a_wrong_shape_are_refused(random_bundle: Path) -> None:
    class Short(LinearOnly):
        def run(self, call, inputs):
            return tuple(array[:, :-1] for array in super().run(call, inputs))

    plan = load_plan(open_bundle(random_bundle))
    feeds = {IDS: np.array([1]), POSITIONS: np.array([0]), ROWS: np.array([0])}
    for name in plan.cache_inputs:
        shape = [size if isinstance(size, int) else 0 for size in plan.values[name].shape]
        feeds[name] = np.zeros(shape, plan.values[name].dtype)

    with pytest.raises(VerificationError, match="q_proj/BitLinear returns"):
        PlacedExecutor(plan, Short(_catalog.describe("reference"))).run(feeds)


def test_a_model_on_a_device_gives_the_same_logits(random_bundle: Path) -> None:
    with edgellm.load(random_bundle) as model:
        expected = model.logits([1, 2, 3])

    with edgellm.load(random_bundle, device="reference") as model:
        assert np.array_equal(model.logits([1, 2, 3]), expected)
        with pytest.raises(ConfigError, match="no compiled engine"):
            _ = model.engine
