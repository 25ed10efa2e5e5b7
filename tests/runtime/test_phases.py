"""Phases: a thread never reads what another one wrote since all of them met."""

from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellm.runtime.kernels import find
from edgellm.runtime.phases import ALWAYS_COLUMNS, Splits, cut_into_phases, splits_of
from edgellm.runtime.plan import Plan, Step, Value, call_sizes
from edgellm.runtime.program import Program, lower

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


SIZES = call_sizes(3)
LEAST_ROWS = st.sampled_from([1, ALWAYS_COLUMNS])
ATTRIBUTES = {op_type: dict.fromkeys(find(op_type).schema.attributes, 1) for op_type in KINDS}


def touched(step: Step, split: str, names: Sequence[str], *, output: bool) -> dict[str, object]:
    """Return which elements of each operand a thread touches, as a word; written apart."""
    schema = find(step.op_type).schema
    ports = schema.outputs if output else schema.inputs
    words: dict[str, object] = {}
    for index, (name, port) in enumerate(zip(names, ports, strict=True)):
        mine = {"rows": port.dims[0] == "T", "columns": port.dims[-1] == "N", "heads": True}
        whole = not split or not mine[split] or (len(port.dims) != 2 and split != "rows")
        part: object = f"all {step.name} {index} {output}" if whole else split
        words[name] = part if words.get(name, part) == part else f"both {step.name}"
    return words


def assert_apart(plan: Plan, phase: Sequence[Step], splits: Splits) -> None:
    """Check that no thread reads what another one writes."""
    written: dict[str, object] = {}
    for step in phase:
        split = splits[step.name]
        for name, part in touched(step, split, step.inputs, output=False).items():
            assert written.get(name, part) == part, (step, name)
        written |= touched(step, split, step.outputs, output=True)


@settings(deadline=None)  # the first example imports, or even compiles, kernels
@given(plans(), LEAST_ROWS)
def test_no_thread_reads_what_another_wrote_in_the_same_phase(plan: Plan, least: int) -> None:
    splits = splits_of(plan, SIZES, least)
    for phase in cut_into_phases(plan, splits):
        assert_apart(plan, phase, splits)


@settings(deadline=None)  # the first example imports, or even compiles, kernels
@given(plans(), LEAST_ROWS)
def test_a_program_can_be_divided_both_ways(plan: Plan, least: int) -> None:
    program = lower(plan, SIZES, threads=2, least_rows=least)
    for division, rows in ((program.by_columns, ALWAYS_COLUMNS), (program.by_rows, least)):
        splits = splits_of(plan, SIZES, rows)
        first = 0
        for end in [*np.flatnonzero(division[:, -1]), len(program.steps)]:
            assert_apart(plan, program.steps[first:end], splits)
            first = end


@settings(deadline=None)  # the first example imports, or even compiles, kernels
@given(plans(), LEAST_ROWS)
def test_every_step_runs_once_and_after_those_it_needs(plan: Plan, least: int) -> None:
    phases = cut_into_phases(plan, splits_of(plan, SIZES, least))
    steps = [step for phase in phases for step in phase]

    assert sorted(step.name for step in steps) == sorted(step.name for step in plan.steps)
    made = {*plan.inputs, *plan.constants}
    for step in steps:
        assert made.issuperset(step.inputs)
        made.update(step.outputs)


@settings(deadline=None)  # the first example imports, or even compiles, kernels
@given(plans(), LEAST_ROWS, st.booleans())
def test_memory_is_not_used_twice_in_a_phase(plan: Plan, least: int, by_rows: bool) -> None:
    """A thread that is steps ahead overwrites nothing that another still needs."""
    program = lower(plan, SIZES, threads=2, least_rows=least)
    division = program.by_rows if by_rows else program.by_columns
    found = times_of(program, np.cumsum(division[:, -1]).tolist())
    if by_rows:  # what each thread has for itself is in memory of its own
        found = {name: times for name, times in found.items() if name not in own_values(program)}
    assert_memory_is_used_once(plan, program, found)


@settings(deadline=None)  # the first example imports, or even compiles, kernels
@given(plans(), st.sampled_from([1, 2]))
def test_a_thread_overwrites_nothing_that_it_needs(plan: Plan, threads: int) -> None:
    program = lower(plan, SIZES, threads=threads, least_rows=1)
    assert_memory_is_used_once(plan, program, times_of(program, range(len(program.steps))))


@settings(deadline=None)  # the first example imports, or even compiles, kernels
@given(plans())
def test_what_a_thread_has_for_itself_are_its_rows_in_one_phase(plan: Plan) -> None:
    program = lower(plan, SIZES, threads=2, least_rows=1)
    splits = splits_of(plan, SIZES, 1)
    private = own_values(program)
    for step in program.steps:
        for names, output in ((step.inputs, False), (step.outputs, True)):
            for name, part in touched(step, splits[step.name], names, output=output).items():
                assert name not in private or splits[step.name] == part == "rows"
    found = times_of(program, np.cumsum(program.by_rows[:, -1]).tolist())
    assert all(len(set(found[name])) == 1 for name in private)


def own_values(program: Program) -> set[str]:
    return set(program.memory.neighbours)


def times_of(program: Program, times: Sequence[int]) -> dict[str, list[int]]:
    """Return when each value is touched, by the times of the steps."""
    found: dict[str, list[int]] = {}
    for step, time in zip(program.steps, times, strict=True):
        for name in (*step.inputs, *step.outputs):
            found.setdefault(name, []).append(time)
    return found


def assert_memory_is_used_once(plan: Plan, program: Program, found: dict[str, list[int]]) -> None:
    """Check that values with the same memory are touched one after the other."""
    places = {name: at for name, at in program.memory.arena.offsets.items() if name in found}
    for name, offset in places.items():
        for other, start in places.items():
            apart = min(found[other]) > max(found[name])
            behind = min(found[name]) > max(found[other])
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

    phases = cut_into_phases(plan, splits_of(plan, SIZES))

    names = [[step.name for step in phase] for phase in phases]
    assert names == [["0"], ["1", "2", "3", "4"], ["5", "6"]]
    assert lower(plan, call_sizes(2), threads=2).table[:, -1].tolist() == [0, 1, 0, 0, 0, 1, 0]
