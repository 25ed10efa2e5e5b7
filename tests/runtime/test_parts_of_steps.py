"""What the executor is told about a thread's part of a step."""

import numpy as np
import pytest

from edgellm import ops
from edgellm.runtime import parts_of_steps
from edgellm.runtime.kernels import _executor, find
from edgellm.runtime.parts_of_steps import growth, row_count_fields, weights_ahead
from edgellm.runtime.plan import Plan, Step, Value

VALUES = {
    "x": Value("x", "int64", ("tokens", 8)),
    "unit": Value("unit", "int32", (1, 2)),
    "codes": Value("codes", "int8", ("tokens", 8)),
    "scale": Value("scale", "int32", ("tokens", 2)),
    "weight": Value("weight", "int8", (16, 8)),
    "acc": Value("acc", "int32", ("tokens", 16)),
}
STEPS = (
    Step("quantize", "AbsmaxQuantize", ("x", "unit"), ("codes", "scale"), {}),
    Step("linear", "Int8Linear", ("codes", "weight"), ("acc",), {}),
)
CONSTANTS = {"unit": np.ones((1, 2), np.int32), "weight": np.zeros((16, 8), np.int8)}


@pytest.fixture
def plan() -> Plan:
    return Plan(STEPS, VALUES, CONSTANTS, ("x",), ("acc",))


def test_rows_grow_by_their_bytes_and_what_all_threads_read_does_not(plan: Plan) -> None:
    assert growth(plan, STEPS[0], (), 0) == ([0, 64, 0, 8, 8], [0] * 5)
    assert growth(plan, STEPS[1], (), 0) == ([0, 8, 0, 64], [0] * 4)


def test_values_that_a_thread_has_for_itself_grow_by_thread(plan: Plan) -> None:
    assert growth(plan, STEPS[1], {"codes"}, 4096) == ([0, 0, 0, 64], [0, 4096, 0, 0])


def test_the_number_of_rows_is_told_where_work_is_divided_by_rows(plan: Plan) -> None:
    fields = row_count_fields(plan.steps, {"quantize": "rows", "linear": "columns"})

    assert fields.tolist() == [5, 0]  # behind the kernel and four operands


def test_the_weights_that_come_next_are_known_from_the_step_before(plan: Plan) -> None:
    assert weights_ahead(plan, plan.steps) == ["weight", "weight"]


def test_program_and_executor_agree() -> None:
    assert parts_of_steps.TAIL == _executor.TAIL
    assert parts_of_steps.AHEAD_WORDS == _executor.AHEAD_WORDS
    for module in ops.modules():
        schema = module.SCHEMA
        operands = len(schema.inputs) + len(schema.outputs)
        fields = 1 + operands + len(schema.letters) + len(schema.attributes)
        kernel = find(schema.name)
        assert fields + (kernel.notes > 0) <= _executor.MOST_FIELDS
        assert kernel.stages == 1 or not kernel.split  # the executor has stages of whole steps only
