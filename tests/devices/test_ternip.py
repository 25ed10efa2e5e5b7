"""The MatMul-free core: its answers, its tokens, its times, and what it refuses."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgellm import ops, registry
from edgellm.device import Call, Elementwise, ForwardPass, MatMul, Move, Operand, total
from edgellm.devices import _catalog, _events, _shapes, _validation
from edgellm.errors import DeviceError
from edgellm.exporters import architectures
from edgellm.exporters.build import export_random
from edgellm.runtime.executors.reference import Executor
from edgellm.runtime.golden import feeds
from edgellm.runtime.loader import load_plan

KINDS = {
    "RmsNorm": ("norm", False),
    "RmsNormQuantize": ("norm", False),
    "HeadRmsNorm": ("norm", False),
    "AbsmaxQuantize": ("quantize", False),
    "Requantize": ("requantize", False),
    "AddBias": ("add", False),
    "ResidualAdd": ("add", True),
    "SiluGate": ("activation", True),
    "SquaredReluGate": ("activation", True),
    "GatedRecurrence": ("recurrence", True),
}
LINEARS = {
    "BitLinear": 2, "ColumnBitLinear": 2, "GatedBitLinear": 2, "LookUpBitLinear": 2,
    "GatedTritLinear": 1.6, "TritLinear": 1.6,
}  # fmt: skip
SMALL = ["array.quantum.n=16", "array.quantum.k=16", "cores.count=2", "parameters.lanes=2"]
"""Many tiles, and several passes, of small matrices."""
CASES = [
    (name, example)
    for name in [*KINDS, *LINEARS]
    for example in ops.find(name).examples()
    if sum(array.size for array in example.inputs) <= 20_000
]


def call_of(op_type, inputs: Sequence[np.ndarray], outputs, attributes) -> Call:
    """Return an operator on these arrays as a call."""
    if op_type in LINEARS:
        (m, k), n = inputs[0].shape, outputs[0].shape[1]
        work = MatMul(m=m, k=k, n=n, weight_bits=LINEARS[op_type])
    elif op_type in KINDS:
        kind, binary = KINDS[op_type]
        work = Elementwise(kind=kind, elements=inputs[0].size, binary=binary)
    else:
        work = Move(bytes=sum(array.nbytes for array in outputs))
    operands = [
        tuple(Operand(str(i), array.dtype.name, array.shape) for i, array in enumerate(side))
        for side in (inputs, outputs)
    ]
    return Call(
        op_type=op_type,
        name=op_type,
        work=work,
        inputs=operands[0],
        outputs=operands[1],
        attributes=attributes,
    )


def referred(op_type, inputs, attributes) -> tuple[np.ndarray, ...]:
    results = ops.find(op_type).reference(*inputs, **attributes)
    return results if isinstance(results, tuple) else (results,)


@pytest.mark.parametrize("changes", [[], SMALL], ids=["u250", "small"])
@pytest.mark.parametrize(("op_type", "example"), CASES, ids=[f"{n}-{e.name}" for n, e in CASES])
def test_the_answers_are_the_operators(op_type, example, changes) -> None:
    device = _catalog.load("ternip-u250", changes)
    expected = referred(op_type, example.inputs, example.attributes)
    call = call_of(op_type, example.inputs, expected, example.attributes)
    if device.supports(call) is not None:
        return

    found = device.run(call, example.inputs)

    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs, strict=True)


@pytest.mark.parametrize("name", ["hgrn_bit", "bitnet"])
def test_a_whole_model_goes_through_the_core(name: str, tmp_path: Path) -> None:
    """What it refuses the references do; a MatMul-free model needs them at its ends only."""
    config = registry.load(architectures, name).TINY
    (tmp_path / "config.json").write_text(json.dumps(config))
    bundle = export_random(tmp_path / "config.json", tmp_path / "bundle")
    plan = load_plan(bundle)
    device = _catalog.load("ternip-u250", SMALL)
    inputs = feeds(plan, [3, 1, 4, 1, 5], rows=[4])
    expected = Executor(bundle, plan).run(inputs, trace=True)
    values = {**plan.constants, **inputs}
    refused = set()

    for step in plan.steps:
        given = [values[item] for item in step.inputs]
        wanted = [expected[item] for item in step.outputs]
        call = call_of(step.op_type, given, wanted, step.attributes)
        if device.supports(call) is None:
            found = device.run(call, given)
        else:
            refused.add(step.op_type)
            found = referred(step.op_type, given, step.attributes)
        for item, ours, theirs in zip(step.outputs, found, wanted, strict=True):
            np.testing.assert_array_equal(ours, theirs, item, strict=True)
            values[item] = ours

    ends = {"Embedding", "TakeRows"}
    attention = {"RotaryEmbedding", "CacheAppend", "Attention", "GatedBitLinear", "LogitsHead"}
    assert refused == (ends if name == "hgrn_bit" else {"Embedding", "SquaredReluGate"} | attention)


@pytest.mark.parametrize(
    ("op_type", "example", "instruction"),
    [
        ("BitLinear", "random_5x172x65", "ADD"),
        ("RmsNormQuantize", "random_4x172", "NORM"),
        ("GatedRecurrence", "random_40x12", "CSIG"),
        ("GatedRecurrence", "random_40x12", "SV"),
    ],
)
def test_a_missing_token_shows(
    op_type: str, example: str, instruction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken from all instructions of one kind that follow another unit's."""
    device = _catalog.load("ternip-u250", SMALL)
    (given,) = [e for e in ops.find(op_type).examples() if e.name.startswith(example)]
    expected = referred(op_type, given.inputs, given.attributes)
    call = call_of(op_type, given.inputs, expected, given.attributes)

    def without_tokens(program, memory):
        loose = [
            replace(item, waits=()) if item.label.startswith(instruction) else item
            for item in program
        ]
        return _events.simulate(loose, memory)

    assert (device.run(call, given.inputs)[0] == expected[0]).all()
    monkeypatch.setattr("edgellm.devices.ternip.simulate", without_tokens)
    try:
        wrong = device.run(call, given.inputs)[0]
    except DeviceError:
        return
    assert (wrong != expected[0]).any()


@pytest.mark.parametrize("shape", ["mmfreelm-370m", "mmfreelm-1.3b", "mmfreelm-370m-head"])
@pytest.mark.parametrize("forward", [(1, 1), (1, 24), (1, 7), (100, 1)], ids=str)
def test_both_engines_agree_on_a_layer(shape: str, forward: tuple[int, int]) -> None:
    device = _catalog.load("ternip-u250")
    tokens, sequences = forward
    workload = _shapes.workload(shape, "w2a8")
    for block in workload.blocks(ForwardPass(tokens=tokens, sequences=sequences)):
        assert all(device.supports(call) is None for call in block.calls)
        expected = total([device.cost(call) for call in block.calls])
        timeline = _events.simulate(device.compile(block.calls))

        assert timeline.cycles == pytest.approx(expected.cycles, rel=0.03)
        assert timeline.bytes == pytest.approx(dict(expected.bytes))
        busy = {unit: cycles / device.description.hz() for unit, cycles in timeline.busy.items()}
        del busy["FETCH"]
        assert busy == pytest.approx(dict(expected.busy_s))


def test_the_tokens_of_one_text_go_through_a_recurrence_one_by_one() -> None:
    device = _catalog.load("ternip-u250")
    calls = []
    for tokens in (1, 12):
        (example,) = [e for e in ops.find("GatedRecurrence").examples() if e.name == "random_40x12"]
        forget, x, *rest = example.inputs
        inputs = (forget[:tokens], x[:tokens], *rest)
        outputs = referred("GatedRecurrence", inputs, example.attributes)
        calls.append(call_of("GatedRecurrence", inputs, outputs, example.attributes))

    assert device.cost(calls[1]).seconds == pytest.approx(12 * device.cost(calls[0]).seconds)


def test_tiles_of_a_layer_are_those_of_the_log() -> None:
    """13 tiles a layer of 8192 cycles: 4 + 6 + 3, as the author of Ternip counts."""
    device = _catalog.load("ternip-u250")
    layer = _shapes.workload("mmfreelm-370m", "w2a8").blocks(ForwardPass(tokens=1))[0]
    tiles = [item for item in device.compile(layer.calls) if item.label.startswith("GO")]

    assert layer.repeats == 24
    assert [item.cycles for item in tiles] == [8192.0] * 13


def test_published_rates() -> None:
    """T1 is a gate, and no number of the description was fitted on it."""
    found = {outcome.point.id: outcome for outcome in _validation.outcomes("ternip-u250")}
    assert found["T1"].point.gate
    assert found["T1"].passed
    assert found["T1"].fits == ()
    reported = {outcome.point.id: outcome for outcome in _validation.outcomes("ternip-d5005")}
    assert set(reported) == {"T2", "T3"}
    assert not any(outcome.point.gate for outcome in reported.values())
    assert reported["T2"].fits == ("memory.ddr.bw_gbs",)
    (bound,) = _validation.outcomes("tereffic-u280")
    assert (bound.point.id, bound.passed, bound.fits) == ("T4", True, ())


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (Call(op_type="Int8Linear", name="x", work=MatMul(m=1, k=8, n=8)), "-1, 0 and 1"),
        (
            Call(
                op_type="GroupLinear",
                name="x",
                work=MatMul(m=1, k=8, n=8, weight_bits=2, group_size=8, group_bits=16),
            ),
            "one scale a row",
        ),
        (
            Call(op_type="GatedBitLinear", name="x", work=MatMul(m=1, k=8, n=8, weight_bits=2)),
            "whose gate is closed",
        ),
        (
            Call(op_type="Shiftmax", name="x", work=Elementwise(kind="softmax", elements=8)),
            "no unit for 'softmax'",
        ),
        (
            Call(
                op_type="SquaredReluGate",
                name="x",
                work=Elementwise(kind="activation", elements=8, binary=True),
            ),
            "SILU",
        ),
        (Call(op_type="Embedding", name="x", work=Move(bytes=8)), "looks up rows"),
    ],
    ids=lambda value: value.op_type if isinstance(value, Call) else "",
)
def test_refusals_say_why(call: Call, reason: str) -> None:
    refusal = _catalog.load("ternip-u250").supports(call)
    assert refusal is not None
    assert reason in refusal.reason
