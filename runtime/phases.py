"""Cut a plan into phases: within one, no thread reads what another thread writes.

Threads meet between phases only. Each kernel says how it divides its work (``Kernel.split``):

- ``rows``: thread i of n works on rows i, i + n, i + 2n... of every operand whose first size is T;
- ``columns``: on its ``share`` of the columns of every operand of shape (T, N);
- ``heads``: on its ``share`` of all rows' heads, counted row by row, of operands (T, M);
- none: nothing is known.

An operand that a split does not name, a cache for example, is anybody's.
"""

from collections.abc import Hashable, Mapping, Sequence

from edgellm.ops import Port
from edgellm.runtime.kernels import Kernel, find
from edgellm.runtime.plan import Dim, Plan, Step

Part = Hashable | None
"""Which elements of a value each thread touches: equal parts are the same elements; None is any."""


def cut_into_phases(plan: Plan) -> list[list[Step]]:
    """Return the steps in an order in which each can run, as few phases as a greedy choice finds.

    A phase takes every step whose inputs are there: from an earlier phase, or from this one if the
    thread that reads an element is the thread that wrote it.
    """
    phases = []
    waiting: Sequence[Step] = plan.steps
    while waiting:
        phase: list[Step] = []
        later: list[Step] = []
        written: dict[str, Part] = {}
        blocked: set[str] = set()
        for step in waiting:
            reads, writes = parts(plan, step)
            if any(name in blocked or not _own(name, reads[name], written) for name in reads):
                later.append(step)
                blocked.update(writes)
            else:
                phase.append(step)
                written.update(writes)
        phases.append(phase)
        waiting = later
    return phases


def _own(name: str, part: Part, written: Mapping[str, Part]) -> bool:
    """Tell whether a thread that reads a part of a value finds nothing of other threads in it."""
    return name not in written or (part is not None and part == written[name])


def parts(plan: Plan, step: Step) -> tuple[dict[str, Part], dict[str, Part]]:
    """Return which part of each input and output of a step a thread touches."""
    kernel = find(step.op_type)
    sizes = kernel.schema.bind([plan.values[name].shape for name in step.inputs])
    reads: dict[str, Part] = {}
    for name, port in zip(step.inputs, kernel.schema.inputs, strict=True):
        part = _part(kernel, port, sizes)
        reads[name] = part if reads.get(name, part) == part else None
    outputs = zip(step.outputs, kernel.schema.outputs, strict=True)
    return reads, {name: _part(kernel, port, sizes) for name, port in outputs}


def _part(kernel: Kernel, port: Port, sizes: Mapping[str, Dim]) -> Part:
    if kernel.split == "rows" and port.dims[0] == "T":
        return "rows"
    if kernel.split == "columns" and port.dims == ("T", "N"):
        return "columns"
    if kernel.split == "heads" and port.dims == ("T", "M"):
        pairs = sizes.get("P")
        return "heads", 2 * int(pairs) if pairs is not None else sizes["D"]
    return None
