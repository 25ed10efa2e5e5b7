"""Cut a plan into phases: within one, no thread touches what another thread writes.

Threads meet between phases only. Each kernel says how its work is divided (``Kernel.split``):

- ``rows``: rows do not depend on each other, and each thread gets its ``share`` of them: of every
  operand whose first size is T. The executor sees to it, the kernel knows nothing of threads;
- ``columns``: a thread works on its ``share`` of the columns of every operand of shape (T, N);
- ``cells``: either, as ``splits_of`` says;
- ``queries``: on its share of the rows of y and of the queries, and all of the keys and values;
- ``heads``: on its ``share`` of all rows' heads, counted row by row, of operands (T, M);
- none: nothing is known.

An operand that a split does not name, a cache for example, is anybody's.
"""

from collections.abc import Hashable, Mapping, Sequence

from edgellm import ops
from edgellm.ops import Port
from edgellm.runtime.kernels import find
from edgellm.runtime.plan import Dim, Plan, Step

Part = Hashable | None
"""Which elements of a value each thread touches: equal parts are the same elements; None is any."""

ALWAYS_COLUMNS = 1 << 62
"""Rows from which ``splits_of`` divides ``cells`` by rows: never."""

Splits = Mapping[str, str]
"""How the work of each step is divided, by its name."""


def splits_of(plan: Plan, most: Mapping[str, int], least_rows: int = ALWAYS_COLUMNS) -> Splits:
    """Return how the steps are divided: ``cells`` by rows where there are many, else by columns.

    By columns, threads share the weights, and meet wherever whole rows are needed; by rows, each
    reads all weights, and goes on with what it has made itself.

    Args:
        plan: whose steps.
        most: the largest value of each dynamic size.
        least_rows: so many rows are divided by rows.
    """
    splits = {}
    for step in plan.steps:
        split = find(step.op_type).split
        if split == "cells":
            rows = ops.evaluate_dim(plan.values[step.outputs[0]].shape[0], most)
            split = "rows" if rows >= least_rows else "columns"
        splits[step.name] = split
    return splits


def cut_into_phases(plan: Plan, splits: Splits) -> list[list[Step]]:
    """Return the steps in an order in which each can run, as few phases as a greedy choice finds.

    A phase takes every step whose inputs are there: from an earlier phase, or from this one if the
    thread that reads an element is the thread that wrote it.
    """
    touched = {step.name: parts(plan, step, splits[step.name]) for step in plan.steps}
    phases = []
    waiting: Sequence[Step] = plan.steps
    while waiting:
        phase: list[Step] = []
        later: list[Step] = []
        written: dict[str, Part] = {}
        blocked: set[str] = set()
        for step in waiting:
            reads, writes = touched[step.name]
            if any(name in blocked or not _own(name, reads[name], written) for name in reads):
                later.append(step)
                blocked.update(writes)
            else:
                phase.append(step)
                written.update(writes)
        phases.append(_newest_first(phase))
        waiting = later
    return phases


def _newest_first(phase: Sequence[Step]) -> list[Step]:
    """Return the steps in an order in which what was made last is read next: it is in the cache."""
    made_by = {name: step.name for step in phase for name in step.outputs}
    waiting = list(phase)
    order: list[Step] = []
    place: dict[str, int] = {}

    def newest(step: Step) -> int:
        """Return when the newest input was made; before all if one is still to be made."""
        inside = [place.get(made_by[name], -2) for name in step.inputs if name in made_by]
        return min(inside) if -2 in inside else max(inside, default=-1)

    while waiting:
        chosen = max(waiting, key=newest)
        waiting.remove(chosen)
        place[chosen.name] = len(order)
        order.append(chosen)
    return order


def _own(name: str, part: Part, written: Mapping[str, Part]) -> bool:
    """Tell whether a thread that reads a part of a value finds nothing of other threads in it."""
    return name not in written or (part is not None and part == written[name])


def private_values(plan: Plan, phases: Sequence[Sequence[Step]], splits: Splits) -> set[str]:
    """Return the values that the executor divides by rows wherever they are, all in one phase.

    So each thread can have its rows in memory of its own.
    """
    outside = {*plan.inputs, *plan.outputs, *plan.constants}
    private: set[str] = set()
    for phase in phases:
        rows: dict[str, bool] = {}
        for step in phase:
            split = splits[step.name]
            for touched in parts(plan, step, split):
                for name, part in touched.items():
                    rows[name] = rows.get(name, True) and split == part == "rows"
        private -= rows.keys()
        private |= {name for name, own in rows.items() if own and name not in outside}
        outside |= rows.keys()
    return private


def meetings(
    plan: Plan, steps: Sequence[Step], splits: Splits, neighbours: Mapping[str, set[str]]
) -> list[bool]:
    """Return for each of some steps in order whether threads have to meet before it.

    Args:
        plan: whose steps.
        steps: in order.
        splits: how they are divided.
        neighbours: for a value those which have some of its memory at other times.
    """
    written: dict[str, Part] = {}
    touched: set[str] = set()
    before = []
    for step in steps:
        reads, writes = parts(plan, step, splits[step.name])
        meet = not all(_own(name, part, written) for name, part in reads.items())
        meet |= any(not touched.isdisjoint(neighbours.get(name, ())) for name in writes)
        if meet:
            written.clear()
            touched.clear()
        written.update(writes)
        touched.update(reads, writes)
        before.append(meet)
    return before


def parts(plan: Plan, step: Step, split: str) -> tuple[dict[str, Part], dict[str, Part]]:
    """Return which part of each input and output of a step a thread touches."""
    kernel = find(step.op_type)
    sizes = kernel.schema.bind([plan.values[name].shape for name in step.inputs])
    reads: dict[str, Part] = {}
    for name, port in zip(step.inputs, kernel.schema.inputs, strict=True):
        part = _part(split, port, sizes)
        reads[name] = part if reads.get(name, part) == part else None
    outputs = zip(step.outputs, kernel.schema.outputs, strict=True)
    return reads, {name: _part(split, port, sizes) for name, port in outputs}


def _part(split: str, port: Port, sizes: Mapping[str, Dim]) -> Part:
    if split == "rows" and port.dims[0] == "T":
        return "rows"
    if split == "queries" and port.name in ("query", "y"):
        return "rows"
    if split == "columns" and port.dims == ("T", "N"):
        return "columns"
    if split == "heads" and port.dims == ("T", "M"):
        pairs = sizes.get("P")
        return "heads", 2 * int(pairs) if pairs is not None else sizes["D"]
    return None
