"""Lower a plan to the table that the compiled executor walks: one row of int64 a step."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgellm import ops
from edgellm.graph_names import present_name
from edgellm.runtime.choices import Choices
from edgellm.runtime.kernels import _objects, find
from edgellm.runtime.kernels._compiler import compile_missing
from edgellm.runtime.memory import Arena, lifetimes, neighbours, place
from edgellm.runtime.parts_of_steps import (
    AHEAD_WORDS,
    TAIL,
    growth,
    row_count_fields,
    rows_and_bytes,
    weights_ahead,
)
from edgellm.runtime.phases import (
    ALWAYS_COLUMNS,
    Splits,
    cut_into_phases,
    meetings,
    private_values,
    splits_of,
)
from edgellm.runtime.plan import TOP, Dim, Plan, Step

Places = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Memory:
    """Where the values between steps are.

    Attributes:
        arena: as offsets; of values that each thread has for itself, those of the first thread.
        own_bytes: what each thread has for itself, at the end of the arena.
        neighbours: for each value there, those that have some of its memory at other times.
    """

    arena: Arena
    own_bytes: int
    neighbours: Mapping[str, set[str]]


@dataclass(frozen=True)
class Program:
    """The table of a plan, and where in it each call has to write its sizes and addresses.

    Attributes:
        steps: in the order of the table.
        one_token: (steps,) int64, addresses of the kernels for calls of one token.
        many_tokens: the same for calls of more.
        table: (steps, width) int64, C order; a row as in ``kernels/_executor.py``, first with the
            kernel for one token, and work divided by columns.
        by_columns: (steps, width - fields - 3) int64, the last columns of the table: how work is
            divided among threads.
        by_rows: the same, where steps of many rows are divided by rows.
        memory: where the values between the steps are.
        sizes: for each dynamic size, and for TOP, the places in the flat table.
        offsets: (places, offsets into the arena): add the arena's address.
        addresses: for each value outside the arena, the places of its address.
    """

    steps: tuple[Step, ...]
    one_token: npt.NDArray[np.int64]
    many_tokens: npt.NDArray[np.int64]
    table: npt.NDArray[np.int64]
    by_columns: npt.NDArray[np.int64]
    by_rows: npt.NDArray[np.int64]
    memory: Memory
    sizes: dict[str, Places]
    offsets: tuple[Places, npt.NDArray[np.int64]]
    addresses: dict[str, Places]


@dataclass(frozen=True)
class Size:
    """A field of a row that each call sets."""

    name: str


@dataclass(frozen=True)
class Address:
    """A field of a row that is the address of a value."""

    name: str


Field = int | Size | Address


def lower(
    plan: Plan,
    most: Mapping[str, int],
    choices: Choices | None = None,
    threads: int = 1,
    least_rows: int = ALWAYS_COLUMNS,
) -> Program:
    """Lower a plan for calls.

    Args:
        plan: a checked graph.
        most: the largest value of each dynamic size.
        choices: which kernels run.
        threads: how many run each step.
        least_rows: see ``splits_of``; of ``Program.by_rows``.
    """
    by_columns, by_rows = splits_of(plan, most), splits_of(plan, most, least_rows)
    phases = cut_into_phases(plan, by_rows)
    if threads == 1:
        phases = [[step] for phase in phases for step in phase]
    memory = _place(plan, most, phases, by_rows, threads)
    steps = tuple(step for phase in phases for step in phase)
    rows = _rows(plan, steps)
    fields = max(len(row) for row in rows)
    table = np.zeros((len(rows), 3 * fields + TAIL), np.int64)
    sizes: dict[str, list[int]] = {}
    offsets: dict[int, int] = {}
    addresses: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        for column, field in enumerate(row):
            flat = index * table.shape[1] + column
            if isinstance(field, int):
                table.flat[flat] = field
            elif isinstance(field, Size):
                sizes.setdefault(field.name, []).append(flat)
            elif field.name in memory.arena.offsets:
                offsets[flat] = memory.arena.offsets[field.name]
            else:
                addresses.setdefault(field.name, []).append(flat)
    for index, name in enumerate(weights_ahead(plan, steps)):
        if name:
            table[index, fields + 1 : fields + 3] = rows_and_bytes(plan, name)
            addresses[name].append(index * table.shape[1] + fields)
    table[:, fields + AHEAD_WORDS] = [find(step.op_type).stages - 1 for step in steps]
    one_token, many_tokens = _kernels(plan, steps, choices or Choices())
    table[:, 0] = one_token
    divisions = _divide(plan, phases, (by_columns, by_rows), memory, fields)
    table[:, -divisions[0].shape[1] :] = divisions[0]
    return Program(
        steps=steps,
        one_token=one_token,
        many_tokens=many_tokens,
        table=table,
        by_columns=divisions[0],
        by_rows=divisions[1],
        memory=memory,
        sizes=_as_places(sizes),
        offsets=(np.array(list(offsets), np.intp), np.array(list(offsets.values()), np.int64)),
        addresses=_as_places(addresses),
    )


def _place(
    plan: Plan,
    most: Mapping[str, int],
    phases: Sequence[Sequence[Step]],
    splits: Splits,
    threads: int,
) -> Memory:
    """Place values in an arena: what threads share, then what each has for itself."""
    outside = _outside_arena(plan)
    bytes_of = {name: value_bytes(plan, name, most) for name in plan.values if name not in outside}
    for step in plan.steps:
        bytes_of |= {name: threads * size for name, size in _notes(plan, step).items()}
    private = private_values(plan, phases, splits) if threads > 1 else set()
    own_bytes = {name: bytes_of.pop(name) for name in private & bytes_of.keys()}
    # By phases: within one, a thread may be steps ahead of another that still needs a value.
    shared = place(lifetimes([_names(plan, phase) for phase in phases], bytes_of))
    lives = lifetimes([_names(plan, [step]) for phase in phases for step in phase], own_bytes)
    own = place(lives)
    offsets = {name: shared.size + offset for name, offset in own.offsets.items()}
    arena = Arena({**shared.offsets, **offsets}, shared.size + threads * own.size)
    return Memory(arena, own.size, neighbours(lives, own))


def _divide(
    plan: Plan,
    phases: Sequence[Sequence[Step]],
    ways: Sequence[Splits],
    memory: Memory,
    fields: int,
) -> list[npt.NDArray[np.int64]]:
    """Return (steps, 2 * fields + 2) for work divided by columns and by rows, see ``Program``."""
    steps = [step for phase in phases for step in phase]
    found = []
    for splits, private in zip(ways, ({}, memory.neighbours), strict=True):
        division = np.zeros((len(steps), 2 * fields + 2), np.int64)
        for index, step in enumerate(steps):
            by_row, by_thread = growth(plan, step, private, memory.own_bytes)
            division[index, : len(by_row)] = by_row
            division[index, fields : fields + len(by_thread)] = by_thread
        division[:, -2] = row_count_fields(steps, splits)
        clashes = {} if private else memory.neighbours
        division[:, -1] = meetings(plan, steps, splits, clashes)
        division[np.cumsum([len(phase) for phase in phases])[:-1], -1] = 1  # as memory is placed
        found.append(division)
    return found


def _names(plan: Plan, phase: Sequence[Step]) -> tuple[list[str], list[str]]:
    inputs = [name for step in phase for name in step.inputs]
    return inputs, [name for step in phase for name in [*step.outputs, *_notes(plan, step)]]


def _notes(plan: Plan, step: Step) -> dict[str, int]:
    """Return what a step needs of the arena for its threads' notes: a name, and bytes a thread.

    A graph may have any names; that of notes is none of them.
    """
    words = find(step.op_type).notes
    name = f"{step.outputs[0]} notes"
    while name in plan.values:
        name += "+"
    return {name: 8 * words} if words else {}


def _kernels(
    plan: Plan, steps: Sequence[Step], choices: Choices
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the addresses of the steps' kernels for one token, and for many."""
    one, many = (
        [choices.kernel(plan, step, many=many) for step in steps] for many in (False, True)
    )
    compile_missing([*one, *many])
    addresses = [[_objects.kernel_address(kernel) for kernel in chosen] for chosen in (one, many)]
    return np.array(addresses[0], np.int64), np.array(addresses[1], np.int64)


def _rows(plan: Plan, steps: Sequence[Step]) -> list[list[Field]]:
    """Return the fields of each step, as ``kernels/_jit.py`` has them, but for the kernel."""
    schemas = {step.op_type: ops.find(step.op_type).SCHEMA for step in steps}
    # What grows does so in place: it comes out in the memory where it went in.
    memory = {present_name(past): past for past in set(plan.cache_inputs) - set(plan.states)}
    rows: list[list[Field]] = []
    for step in steps:
        schema = schemas[step.op_type]
        sizes = schema.bind([plan.values[name].shape for name in step.inputs])
        operands = [memory.get(name, name) for name in [*step.inputs, *step.outputs]]
        rows.append(
            [
                0,
                *(Address(name) for name in operands),
                *(_size(sizes[letter]) for letter in schema.letters),
                *(
                    Size(TOP) if name == TOP else step.attributes[name]
                    for name in schema.attributes
                ),
                *map(Address, _notes(plan, step)),
            ]
        )
    return rows


def _size(dim: Dim) -> Field:
    return dim if isinstance(dim, int) else Size(dim)


def _outside_arena(plan: Plan) -> set[str]:
    return {*plan.inputs, *plan.outputs, *plan.constants}


def _as_places(lists: dict[str, list[int]]) -> dict[str, Places]:
    return {name: np.array(places, np.intp) for name, places in lists.items()}


def value_bytes(plan: Plan, name: str, most: Mapping[str, int]) -> int:
    """Return the bytes of a value between steps, for the largest dynamic sizes."""
    value = plan.values[name]
    count = math.prod(ops.evaluate_dim(dim, most) for dim in value.shape)
    return count * np.dtype(value.dtype).itemsize
