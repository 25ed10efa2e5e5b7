"""What a thread takes of a step, as the executor finds it: own rows, and weights to fetch ahead."""

import math
from collections.abc import Container, Sequence

import numpy as np
import numpy.typing as npt

from edgellm import ops
from edgellm.runtime.kernels import find
from edgellm.runtime.phases import Splits
from edgellm.runtime.plan import Plan, Step

TAIL = 6
"""Words of a row beside the fields and their growth: see ``kernels/_executor.py``."""
AHEAD_WORDS = 3
"""Of these those that tell which weights are read next."""
BY_ROWS = ("rows", "cells")
"""Splits of which a thread may get rows of its own."""
WEIGHT_ROWS = ("N", "V")
"""Dimensions of matrices of weights whose rows threads share."""


def growth(
    plan: Plan, step: Step, private: Container[str], own_bytes: int
) -> tuple[list[int], list[int]]:
    """Return how much the fields of a step grow from row to row, and from thread to thread.

    These are the kernel's address, which does not, and those of the operands. Nothing where rows
    depend on each other.

    Args:
        plan: whose step it is.
        step: the step.
        private: values of which each thread has its rows in memory of its own.
        own_bytes: how far apart those are.
    """
    if find(step.op_type).split not in BY_ROWS:
        return [], []
    schema = ops.find(step.op_type).SCHEMA
    sizes = schema.bind([plan.values[name].shape for name in step.inputs])
    by_row, by_thread = [0], [0]
    ports = [*schema.inputs, *schema.outputs]
    for name, port in zip([*step.inputs, *step.outputs], ports, strict=True):
        value = plan.values[name]
        # R is how many scales there are: one a row, or one.
        divided = port.dims[0] in ("T", "R") and sizes[port.dims[0]] == sizes["T"]
        row_bytes = math.prod(map(int, value.shape[1:])) * np.dtype(value.dtype).itemsize
        by_row.append(row_bytes if divided and name not in private else 0)
        by_thread.append(own_bytes if name in private else 0)
    return by_row, by_thread


def weights_ahead(plan: Plan, steps: Sequence[Step]) -> list[str]:
    """Return for each step the weights that threads share and read next, "" at the end."""
    ahead = [""]
    for step in reversed(steps):
        ports = ops.find(step.op_type).SCHEMA.inputs
        shared = [
            name
            for name, port in zip(step.inputs, ports, strict=True)
            if name in plan.constants and port.dims[0] in WEIGHT_ROWS and len(port.dims) == 2
        ]
        ahead.append(shared[0] if shared else ahead[-1])
    return ahead[:0:-1]


def rows_and_bytes(plan: Plan, name: str) -> tuple[int, int]:
    """Return the rows of weights, and the bytes of a row."""
    array = plan.constants[name]
    return len(array), array.nbytes // len(array)


def row_count_fields(steps: Sequence[Step], splits: Splits) -> npt.NDArray[np.int64]:
    """Return (steps,) which field of a step is its number of rows, 0 if it is not divided so."""
    fields = []
    for step in steps:
        schema = ops.find(step.op_type).SCHEMA
        first_size = 1 + len(schema.inputs) + len(schema.outputs)
        own = splits[step.name] == "rows"
        fields.append(first_size + schema.letters.index("T") if own else 0)
    return np.array(fields, np.int64)
