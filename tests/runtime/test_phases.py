"""Phases: a thread never reads what another one wrote since all of them met."""

from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellm.runtime.kernels import find
from edgellm.runtime.phases import cut_into_phases
from edgellm.runtime.plan import Plan, Step, Value, call_sizes
from edgellm.runtime.program import lower

WIDTH = 8
CONSTANTS = {
    "weight": ("int8", (WIDTH, WIDTH)),
    "packed": ("uint8", (WIDTH, 16)),
    "multiplier": ("int32", (WIDTH,)),
    "bias": ("int32", (WIDTH,)),
    "gain": ("int16", (WIDTH,)),
    "head_gain": ("int16", (4,)),
    "unit": ("int32", (1, 2)),
    "cos": ("int16", (64, 2)),
    "sin": ("int16", (64, 2)),
}
KINDS = {
    "RmsNormQuantize": ("int64", ("unit", "gain"), ("int8", "scale")),
    "AbsmaxQuantize": ("int64", ("unit",), ("int8", "scale")),
    "Int8Linear": ("int8", ("weight",), ("acc",)),
    "GatedBitLinear": ("int8", ("packed", "acc"), ("acc",)),
    "Requantize": ("acc", ("scale", "multiplier"), ("int32",)),
    "AddBias": ("int32", ("bias",), ("int32",)),
    "RotaryEmbedding": ("int32", ("positions", "cos", "sin"), ("int32",)),
    "HeadRmsNorm": ("int32", ("head_gain",), ("int32",)),
    "SiluGate": ("int32", ("int32",), ("int64",)),
    "SquaredReluGate": ("acc", ("acc", "scale"), ("int64", "scale")),
    "ResidualAdd": ("int64", ("acc", "scale", "multiplier"), ("int64",)),
}
"""For each operator: kind of its first operand, other operands (kinds or constants), results."""


def value(name: str, kind: str) -> Value:
    shape = ("tokens", 2) if kind == "scale" else ("tokens", WIDTH)
    return Value(name, "int32" if kind in ("acc", "scale") else kind, shape)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Return a random graph of the operators of a decoder, in an order in which it can run."""
    pool = {kind: [f"in_{kind}"] for kind in ("int64", "int32", "int8", "acc", "scale")}
    values = {name: value(name, kind) for kind, (name,) in pool.items()}
    inputs = tuple(values)
    values |= {name: Value(name, *fact) for name, fact in CONSTANTS.items()}
    values["positions"] = Value("positions", "int64", ("tokens",))
    steps = []
    for index in range(draw(st.integers(1, 25))):
        op_type = draw(st.sampled_from(sorted(KINDS)))
        first, others, results = KINDS[op_type]
        operands = tuple(
            draw(st.sampled_from(pool[kind][-4:])) if kind in pool else kind
            for kind in (first, *others)
        )
        outputs = tuple(f"{index}_{kind}" for kind in results)
        steps.append(Step(str(index), op_type, operands, outputs, ATTRIBUTES[op_type]))
        for name, kind in zip(outputs, results, strict=True):
            pool[kind].append(name)
            values[name] = value(name, kind)
    constants = {name: np.zeros(fact[1], fact[0]) for name, fact in CONSTANTS.items()}
    return Plan(tuple(steps), values, constants, (*inputs, "positions"), ())


ATTRIBUTES = {op_type: dict.fromkeys(find(op_type).schema.attributes, 1) for op_type in KINDS}


def touched(step: Step, names: Sequence[str], *, output: bool) -> dict[str, object]:
    """Return which elements of each operand a thread touches, as a word; written apart."""
    schema, split = find(step.op_type).schema, find(step.op_type).split
    ports = schema.outputs if output else schema.inputs
    words: dict[str, object] = {}
    for index, (name, port) in enumerate(zip(names, ports, strict=True)):
        mine = {"rows": port.dims[0] == "T", "columns": port.dims[-1] == "N", "heads": True}
        whole = not split or not mine[split] or (len(port.dims) != 2 and split != "rows")
        part: object = f"all {step.name} {index} {output}" if whole else split
        words[name] = part if words.get(name, part) == part else f"both {step.name}"
    return words


@settings(deadline=None)  # the first example imports, or even compiles, kernels
@given(plans())
def test_no_thread_reads_what_another_wrote_in_the_same_phase(plan: Plan) -> None:
    for phase in cut_into_phases(plan):
        written: dict[str, object] = {}
        for step in phase:
            for name, part in touched(step, step.inputs, output=False).items():
                assert written.get(name, part) == part, (step, name)
            written |= touched(step, step.outputs, output=True)


@settings(deadline=None)  # the first example imports, or even compiles, kernels
@given(plans())
def test_every_step_runs_once_and_after_those_it_needs(plan: Plan) -> None:
    steps = [step for phase in cut_into_phases(plan) for step in phase]

    assert sorted(step.name for step in steps) == sorted(step.name for step in plan.steps)
    made = {*plan.inputs, *plan.constants}
    for step in steps:
        assert made.issuperset(step.inputs)
        made.update(step.outputs)


@settings(deadline=None)  # the first example imports, or even compiles, kernels
@given(plans())
def test_memory_is_not_used_twice_in_a_phase(plan: Plan) -> None:
    """A thread that is steps ahead overwrites nothing that another still needs."""
    program = lower(plan, call_sizes(3))
    phase_of, phase = {}, 0
    for step, meets in zip(program.steps, program.table[:, -1], strict=True):
        phase += int(meets)
        for name in (*step.inputs, *step.outputs):
            phase_of.setdefault(name, []).append(phase)
    places = program.arena.offsets
    for name, offset in places.items():
        for other, start in places.items():
            apart = min(phase_of[other]) > max(phase_of[name])
            behind = min(phase_of[name]) > max(phase_of[other])
            disjoint = offset + size(plan, name) <= start or start + size(plan, other) <= offset
            assert name == other or apart or behind or disjoint


def size(plan: Plan, name: str) -> int:
    value = plan.values[name]
    return 3 * int(value.shape[1]) * np.dtype(value.dtype).itemsize


def test_threads_meet_before_each_phase_but_the_first() -> None:
    """A norm needs whole rows, a matmul whole rows of codes; what follows by columns does not."""
    steps = [
        Step(
            "0", "RmsNormQuantize", ("x", "unit", "gain"), ("c", "s"), ATTRIBUTES["RmsNormQuantize"]
        ),
        Step("1", "Int8Linear", ("c", "weight"), ("a",), {}),
        Step("2", "Requantize", ("a", "s", "multiplier"), ("g",), {"shift": 1}),
        Step("3", "AddBias", ("g", "bias"), ("h",), {}),
        Step("4", "SiluGate", ("h", "g"), ("y",), {"frame": 18}),
        Step("5", "AbsmaxQuantize", ("y", "unit"), ("d", "t"), {}),
        Step("6", "ResidualAdd", ("y", "a", "t", "multiplier"), ("z",), {"shift": 1}),
    ]
    kinds = {"x": "int64", "c": "int8", "s": "scale", "a": "acc", "g": "int32", "h": "int32"}
    kinds |= {"y": "int64", "d": "int8", "t": "scale", "z": "int64"}
    values = {name: value(name, kind) for name, kind in kinds.items()}
    values |= {name: Value(name, *fact) for name, fact in CONSTANTS.items()}
    constants = {name: np.zeros(fact[1], fact[0]) for name, fact in CONSTANTS.items()}
    plan = Plan(tuple(steps), values, constants, ("x",), ("z",))

    phases = [[step.name for step in phase] for phase in cut_into_phases(plan)]

    assert phases == [["0"], ["1", "2", "3", "4"], ["5", "6"]]
    assert lower(plan, call_sizes(2)).table[:, -1].tolist() == [0, 1, 0, 0, 0, 1, 0]
