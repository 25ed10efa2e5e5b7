"""The event-driven engine: instruction streams, run in time and, if asked, in fact.

Each unit has a queue that runs in order. An instruction starts when its unit is free and every unit
that it waits for has released a token to its unit; the token is used up. When it ends it releases
tokens. Nothing else orders two units, so a missing token shows: an instruction reads device memory
when it starts, and what it writes is there when it ends. What it reads too early is old (a wrong
answer) or was never written (an error), and nothing may be overwritten while it is read (an error).
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from edgellm.device import Call
from edgellm.errors import DeadlockError, DeviceError

Array = npt.NDArray[np.generic]


class DeviceMemory(dict[str, Array]):
    """What lies in a device's buffers, by name; reading what was never written is an error."""

    def __init__(self, arrays: Mapping[str, Array] | None = None) -> None:
        """Start with arrays that lie there, such as inputs and weights."""
        super().__init__(arrays or {})
        self.noted: set[str] = set()

    def __getitem__(self, name: str) -> Array:
        """Return what lies there, and note that it is read.

        Raises:
            DeviceError: nothing was written there: an instruction came too early.
        """
        if name in self:
            self.noted.add(name)
            return super().__getitem__(name)
        raise DeviceError(f"an instruction reads {name!r} before it is written: a token is missing")


Effect = Callable[[DeviceMemory], Mapping[str, Array]]
"""What an instruction does: it reads device memory, and returns what it writes."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction of a unit.

    Attributes:
        unit: whose queue it is in: "LD".
        cycles: that the unit is busy with it.
        label: for people and traces: "LD q_proj.weight[3]".
        waits: units of which it takes a token.
        releases: units to which it gives a token when it ends.
        memory: what it moves bytes to or from; "" if nothing.
        bytes: that it moves.
        effect: what it does to device memory, where the answer is wanted.
    """

    unit: str
    cycles: float
    label: str
    waits: tuple[str, ...] = ()
    releases: tuple[str, ...] = ()
    memory: str = ""
    bytes: float = 0.0
    effect: Effect | None = None


@runtime_checkable
class Compiler(Protocol):
    """A device that makes instruction streams; only such a device has event-driven results."""

    def compile(self, calls: Iterable[Call]) -> list[Instruction]:
        """Return the instructions of calls, one after the other, in the order of issue.

        Raises:
            DeviceError: there is no rule for a call.
        """


@dataclass(frozen=True)
class Event:
    """An instruction that was run: when, in cycles."""

    instruction: Instruction
    start: float
    end: float


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """A run of instruction streams.

    Attributes:
        cycles: from the first start to the last end.
        busy: cycles that each unit worked.
        stall: cycles that each unit had an instruction which waited for tokens.
        bytes: moved, by memory.
        events: in the order of their starts, if they were asked for.
        memory: device memory after the run.
        tokens_left: released, and never waited for.
    """

    cycles: float
    busy: Mapping[str, float]
    stall: Mapping[str, float]
    bytes: Mapping[str, float]
    events: tuple[Event, ...]
    memory: DeviceMemory
    tokens_left: int


@dataclass
class _Unit:
    queue: deque[Instruction] = field(default_factory=deque)
    running: Instruction | None = None
    reads: set[str] = field(default_factory=set)
    writes: Mapping[str, Array] = field(default_factory=dict)
    ended: float = 0.0
    busy: float = 0.0
    stall: float = 0.0


class _Run:
    """The state of a run: queues, tokens, and what is under way."""

    def __init__(
        self, instructions: Iterable[Instruction], memory: DeviceMemory, keep: bool
    ) -> None:
        self.units: dict[str, _Unit] = {}
        for instruction in instructions:
            self.units.setdefault(instruction.unit, _Unit()).queue.append(instruction)
        self.tokens: dict[tuple[str, str], int] = {}
        self.under_way: list[tuple[float, int, str]] = []
        self.bytes: dict[str, float] = {}
        self.memory = memory
        self.events: list[Event] | None = [] if keep else None
        self.started = 0

    def start(self, name: str, now: float) -> None:
        """Start the head of a unit's queue, if it may."""
        unit = self.units[name]
        if unit.running is not None or not unit.queue:
            return
        head = unit.queue[0]
        if not all(self.tokens.get((source, name)) for source in head.waits):
            return
        for source in head.waits:
            self.tokens[source, name] -= 1
        unit.queue.popleft()
        unit.running = head
        unit.stall += now - unit.ended
        unit.busy += head.cycles
        self.memory.noted = set()
        unit.writes = head.effect(self.memory) if head.effect else {}
        unit.reads = self.memory.noted
        if head.memory:
            self.bytes[head.memory] = self.bytes.get(head.memory, 0.0) + head.bytes
        if self.events is not None:
            self.events.append(Event(head, now, now + head.cycles))
        self.started += 1
        heapq.heappush(self.under_way, (now + head.cycles, self.started, name))

    def end(self, name: str, now: float) -> tuple[str, ...]:
        """End what a unit runs, and return the units that may be able to start then."""
        unit = self.units[name]
        done = unit.running
        if done is None:
            raise DeviceError(f"{name} ends an instruction that it does not run")
        unit.running, unit.reads, unit.ended = None, set(), now
        self.write(done, unit.writes)
        for target in done.releases:
            if target not in self.units:
                raise DeviceError(f"{done.label} releases a token to {target}, which runs nothing")
            self.tokens[name, target] = self.tokens.get((name, target), 0) + 1
        return (name, *done.releases)

    def write(self, done: Instruction, writes: Mapping[str, Array]) -> None:
        """Write what an instruction made; nobody may be reading what was there."""
        for unit in self.units.values() if writes else ():
            if unit.running is not None and (clash := unit.reads & writes.keys()):
                raise DeviceError(
                    f"{done.label} overwrites {', '.join(sorted(clash))} while "
                    f"{unit.running.label} reads it: a token is missing"
                )
        self.memory.update(writes)

    def check_all_ran(self) -> None:
        """Raise a DeadlockError if instructions are left."""
        heads = []
        for name, unit in self.units.items():
            if unit.queue:
                head = unit.queue[0]
                missing = [source for source in head.waits if not self.tokens.get((source, name))]
                heads.append(
                    f"{name}: {head.label} waits for {', '.join(missing)} "
                    f"({len(unit.queue)} instructions left)"
                )
        if heads:
            raise DeadlockError("deadlock; at the heads of the queues are: " + "; ".join(heads))


def simulate(
    instructions: Iterable[Instruction],
    memory: DeviceMemory | None = None,
    *,
    keep_events: bool = False,
) -> Timeline:
    """Run instruction streams.

    Args:
        instructions: in the order of issue; each unit runs its own in this order.
        memory: device memory, if effects are to be done; it is changed.
        keep_events: whether the timeline lists every instruction.

    Raises:
        DeadlockError: instructions are left, and wait for tokens that nobody releases.
        DeviceError: an instruction reads what was not written.
    """
    run = _Run(instructions, DeviceMemory() if memory is None else memory, keep_events)
    now = 0.0
    for name in run.units:
        run.start(name, now)
    while run.under_way:
        now = run.under_way[0][0]
        ready: list[str] = []
        # All that ends now ends before anything starts now.
        while run.under_way and run.under_way[0][0] == now:
            ready += run.end(heapq.heappop(run.under_way)[2], now)
        for name in dict.fromkeys(ready):
            run.start(name, now)
    run.check_all_ran()
    return Timeline(
        cycles=now,
        busy={name: unit.busy for name, unit in run.units.items()},
        stall={name: unit.stall for name, unit in run.units.items()},
        bytes=run.bytes,
        events=tuple(run.events or ()),
        memory=run.memory,
        tokens_left=sum(run.tokens.values()),
    )
