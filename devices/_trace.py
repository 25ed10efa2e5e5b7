"""A pass as a Chrome trace, which Perfetto (ui.perfetto.dev) and chrome://tracing open."""

from collections.abc import Iterator
from typing import TypedDict

from edgellm.device import Block, Device, Workload
from edgellm.devices._events import Compiler, simulate
from edgellm.devices._simulation import Simulation


class Slice(TypedDict, total=False):
    """An event of the trace format: "X" a slice, "M" the name of a process or a thread."""

    ph: str
    name: str
    cat: str
    pid: int
    tid: int
    ts: float
    dur: float
    args: dict[str, object]


class Trace(TypedDict):
    """A Chrome trace; times in microseconds."""

    traceEvents: list[Slice]
    displayTimeUnit: str


def trace(device: Device, workload: Workload, result: Simulation) -> Trace:
    """Return the last pass of a simulation: units as threads, layers that repeat once.

    A device with instructions shows each of them; another shows its operators on the units that
    they keep busy.
    """
    events: list[Slice] = []
    begin = 0.0
    cycles = result.last.cost.cycles or 1.0
    microseconds = result.last.cost.seconds / cycles * 1e6
    for block in workload.blocks(result.last.forward):
        taken = [call for call in block.calls if device.supports(call) is None]
        if not taken:
            continue
        own = Block(tuple(taken), block.repeats)
        slices = list(
            _instructions(device, own, begin, microseconds)
            if isinstance(device, Compiler)
            else _operators(device, own, begin)
        )
        begin = max((float(item["ts"]) + float(item["dur"]) for item in slices), default=begin)
        for item in slices:
            item["args"]["repeats"] = block.repeats
        events += slices
    return {"traceEvents": [*_names(device, events), *events], "displayTimeUnit": "ns"}


def _instructions(
    device: Compiler, block: Block, begin: float, microseconds: float
) -> Iterator[Slice]:
    timeline = simulate(device.compile(block.calls), keep_events=True)
    for event in timeline.events:
        instruction = event.instruction
        moved = {instruction.memory: instruction.bytes} if instruction.memory else {}
        yield _slice(
            (instruction.unit, instruction.label),
            begin + event.start * microseconds,
            (event.end - event.start) * microseconds,
            {"waits": list(instruction.waits), "releases": list(instruction.releases), **moved},
        )


def _operators(device: Device, block: Block, begin: float) -> Iterator[Slice]:
    for call in block.calls:
        cost = device.cost(call)
        for unit, busy in cost.busy_s.items():
            about: dict[str, object] = {"bound": cost.bound, "macs": cost.macs}
            yield _slice((unit, call.name), begin, busy * 1e6, about)
        begin += cost.seconds * 1e6


def _slice(names: tuple[str, str], begin: float, length: float, about: dict[str, object]) -> Slice:
    unit, label = names
    return {
        "ph": "X",
        "name": label,
        "cat": unit,
        "pid": 1,
        "tid": 0,
        "ts": begin,
        "dur": length,
        "args": about,
    }


def _names(device: Device, events: list[Slice]) -> Iterator[Slice]:
    """Number the units, and yield their names and the device's."""
    units = {unit: number for number, unit in enumerate(dict.fromkeys(e["cat"] for e in events), 1)}
    for event in events:
        event["tid"] = units[event["cat"]]
    yield {"ph": "M", "name": "process_name", "pid": 1, "args": {"name": device.name}}
    for unit, number in units.items():
        yield {"ph": "M", "name": "thread_name", "pid": 1, "tid": number, "args": {"name": unit}}
