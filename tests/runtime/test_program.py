"""The table of a plan: what kernels of several stages need besides."""

import numpy as np

from edgellm.runtime.kernels import find
from edgellm.runtime.plan import TOP, Plan, Step, Value
from edgellm.runtime.program import lower

ROWS, COLUMNS = 8, 64
WEIGHTS = {
    "high": np.zeros((ROWS, COLUMNS // 2), np.uint8),
    "low": np.zeros((4, ROWS, COLUMNS // 8), np.uint8),
    "norms": np.zeros((4, ROWS), np.int16),
    "multiplier": np.zeros(ROWS, np.int32),
}
INPUTS = {
    "x": Value("x", "int8", ("tokens", COLUMNS)),
    "scale": Value("scale", "int32", ("tokens", 2)),
    "rows": Value("rows", "int64", ("logits",)),
}


def plan_of(*outputs: str) -> Plan:
    """Return a plan of logits heads, one an output."""
    operands = ("x", "scale", *WEIGHTS, "rows")
    steps = [
        Step(name, "PlanarLogitsHead", operands, (name,), {"shift": 1, TOP: 1}) for name in outputs
    ]
    values = dict(INPUTS)
    for name, array in WEIGHTS.items():
        values[name] = Value(name, array.dtype.name, array.shape)
    values |= {name: Value(name, "int32", ("logits", ROWS)) for name in outputs}
    return Plan(tuple(steps), values, WEIGHTS, tuple(INPUTS), outputs)


def test_notes_have_names_that_no_value_has() -> None:
    """Or a graph with the right names would have its outputs in their memory."""
    threads = 3

    program = lower(plan_of("logits", "logits notes"), {"tokens": 1, "logits": 1}, threads=threads)

    arena = program.memory.arena
    assert sorted(arena.offsets) == ["logits notes notes", "logits notes+"]
    assert {"logits", "logits notes"} <= program.addresses.keys()
    own = 8 * find("PlanarLogitsHead").notes * threads
    assert abs(arena.offsets["logits notes+"] - arena.offsets["logits notes notes"]) >= own
    assert arena.size >= 2 * own
