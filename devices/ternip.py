"""The MatMul-free core (Ternip): ternary tiles, row-wise units, one in-order issue port.

A core keeps vectors of D numbers in a file with a single port, and multiplies one by a D x D matrix
of -1, 0 and 1 that streams from memory. An instruction is issued when all units are idle; only the
fetch of the next one overlaps. ``lanes`` vectors, of other texts or tokens, go through a core side
by side and share the stream. Sources: arXiv 2406.02528, and sifferman/ternip, whose instructions
these are. What is different: registers hold the operators' integers, and the RMS unit finds the
largest magnitude with the sum of squares, so that the answers are those of every other executor.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from edgellm.device import Array, Call, Cost, Elementwise, MatMul, Refusal
from edgellm.devices import _model, _ternip_functions
from edgellm.devices._description import Description
from edgellm.devices._events import Instruction, simulate
from edgellm.devices._model import Demand
from edgellm.errors import DeviceError
from edgellm.ternary_layouts import GATED_OPERATORS

PARAMETERS = {
    "lanes": (1, 4096),
    "vector_parallelism": (1, 65_536),
    "read_passes": (0.1, 16),
    "unary_passes": (0.1, 16),
    "binary_passes": (0.1, 16),
    "finish_cycles": (0, 65_536),
    "number_bytes": (1, 8),
    "weight_bits": (1, 8),
}
"""Of ``[parameters]``: name to (low, high)."""
ARRAY = "tmatmul"
FETCH, LOADSTORE, ROWWISE, TMATMUL, RMS = "FETCH", "LOADSTORE", "ROWWISE", "TMATMUL", "RMS"
ELEMENTWISE = (
    "RmsNorm", "RmsNormQuantize", "HeadRmsNorm", "AbsmaxQuantize", "Requantize", "AddBias",
    "ResidualAdd", "SiluGate", "GatedRecurrence",
    "Norm", "Activation", "Add", "Recurrence",
)  # fmt: skip
"""Operators whose arithmetic the units have, and what shapes of papers call them."""


@dataclass(frozen=True)
class Step:
    """An instruction before it is known where: its unit and name, and how it is timed."""

    unit: str
    name: str
    timing: str


@dataclass(frozen=True)
class Phase:
    """Steps that are done once for a row, or for each of its vectors."""

    steps: tuple[Step, ...]
    each: bool = True


LDV, SV = Step(LOADSTORE, "LDV", "memory"), Step(LOADSTORE, "SV", "memory")
SILU, CSIG = Step(ROWWISE, "SILU", "unary"), Step(ROWWISE, "CSIG", "unary")
SCALE = Step(ROWWISE, "MUL immediate", "unary")
MUL, ADD, SUB = (Step(ROWWISE, name, "binary") for name in ("MUL", "ADD", "SUB"))
IMPORT, EXPORT = Step(TMATMUL, "IMPORT", "unary"), Step(TMATMUL, "EXPORT", "unary")
GO = Step(TMATMUL, "GO", "tile")
SUM_UP = (
    Phase((Step(RMS, "CLEAR", "issue"),), each=False),
    Phase((Step(RMS, "ACCUMULATE", "read"),)),
    Phase((Step(RMS, "FINISH_ACCUMULATE", "finish"),), each=False),
)
NORM = Step(RMS, "NORM", "unary")

PROGRAMS: Mapping[tuple[str, bool], tuple[Phase, ...]] = {
    ("norm", False): (*SUM_UP, Phase((NORM, LDV, MUL))),
    ("quantize", False): (*SUM_UP, Phase((NORM,))),
    ("requantize", False): (Phase((SCALE,)),),
    ("add", False): (Phase((LDV, ADD)),),
    ("add", True): (Phase((SCALE, ADD)),),
    ("activation", True): (Phase((SILU, MUL)),),
    # state += (1 - bound) * csig(forget) * (silu(x) - state)
    ("recurrence", True): (Phase((LDV, CSIG, MUL, SILU, LDV, SUB, MUL, ADD, SV)),),
}
"""By the kind of Elementwise, and whether it has two vectors."""


@dataclass(frozen=True)
class Work:
    """What a call is for the core: how many rows of how many vectors; tiles of a matrix or none."""

    rows: int
    vectors: int
    inputs: int = 0
    phases: tuple[Phase, ...] = ()
    one_by_one: bool = False

    @property
    def imports(self) -> int:
        """Times that a row's vectors go into the matrix unit."""
        return 1 if self.inputs == 1 else self.inputs * self.vectors


class Device:
    """Runs ternary products and what is done row by row; refuses the rest."""

    def __init__(self, description: Description) -> None:
        """Build the device of a description.

        Raises:
            DeviceError: its tile is not square, or it does not say where weights are.
        """
        self.name = description.name
        self.description = description
        self._numbers = description.parameters
        array = description.array_named(ARRAY)
        if array.quantum.n != array.quantum.k or description.placement is None:
            raise DeviceError(f"{self.name}: a tile is square, and [placement] says where it is")
        if description.isa is None:
            raise DeviceError(f"{self.name}: has no [isa]")
        self.size = array.quantum.n
        self._issue = description.isa.issue_cycles
        self._memory = description.placement.weights
        self._lanes = int(self._numbers["lanes"])
        self._group = self._lanes * description.cores.count
        bandwidth = _model.bytes_per_s(description.memory_named(self._memory))
        self._bytes_a_cycle = bandwidth / description.cores.count / description.hz()

    def supports(self, call: Call) -> Refusal | None:
        """Take ternary products of whole rows, and vectors for which there is a program."""
        match call.work:
            case MatMul() as work:
                return self._refuse_product(call, work)
            case Elementwise() as work:
                return _refuse_elementwise(call, work)
            case _:
                return Refusal(f"{call.op_type}: no unit looks up rows or compares vectors")

    def run(self, call: Call, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Run the call's instructions, tile by tile and row by row."""
        function = _ternip_functions.find(call, inputs, self.size)
        program = list(self._program(call, function.effect))
        memory = simulate(self._issued(program), function.memory).memory
        return function.results(memory)

    def cost(self, call: Call) -> Cost:
        """Add up the instructions, none of which overlap."""
        work = self._work(call)
        passes, cores = self._passes(work)
        busy: dict[str, float] = {}
        cycles = read = written = 0.0
        for step, count in _counts(work).items():
            taken, moved = passes * count * self._cycles(step), cores * count * self._bytes(step)
            busy[step.unit] = busy.get(step.unit, 0.0) + taken
            cycles += max(taken, passes * count * self._issue)
            read, written = (read, written + moved) if step is SV else (read + moved, written)
        hz = self.description.hz()
        demand = Demand(
            busy_s={unit: taken / hz for unit, taken in busy.items()},
            fill_s=(cycles - max(busy.values())) / hz,
            read={self._memory: read} if read else {},
            written={self._memory: written} if written else {},
            compute_pj=self._compute_pj(call),
        )
        return _model.cost(self.description, call, demand)

    def compile(self, calls: Iterable[Call]) -> list[Instruction]:
        """Return the instructions of calls, in the order of issue, with their fetches."""
        return self._issued([item for call in calls for item in self._program(call)])

    def _program(
        self, call: Call, effect: _ternip_functions.EffectOf | None = None
    ) -> Iterator[Instruction]:
        """Yield the instructions of a call, without tokens."""
        work = self._work(call)
        group = 1 if work.one_by_one else self._group
        for number, begin in enumerate(range(0, work.rows, group)):
            rows = range(begin, min(begin + group, work.rows))
            cores = -(-len(rows) // self._lanes)
            steps = list(_order(work))
            for index, (step, place) in enumerate(steps):
                is_last = index == len(steps) - 1
                moved = cores * self._bytes(step)
                yield Instruction(
                    step.unit,
                    self._cycles(step),
                    f"{step.name} {call.name} {place} row {begin}",
                    memory=self._memory if moved else "",
                    bytes=moved,
                    effect=effect and effect(step.name, place, (number, index, is_last), rows),
                )

    def _issued(self, program: Sequence[Instruction]) -> list[Instruction]:
        """Add what orders the instructions: each waits for the one before, and for its fetch.

        The buffer holds one: the next fetch begins when the instruction before has been issued,
        which is when the one before that has ended.
        """
        issued = []
        for index, item in enumerate(program):
            before = (program[index - 2].unit,) if index >= 2 else ()
            fetch = Instruction(FETCH, self._issue, f"fetch {item.label}", before, (item.unit,))
            waits = [FETCH]
            if index and program[index - 1].unit != item.unit:
                waits.append(program[index - 1].unit)
            releases = [other.unit for other in program[index + 1 : index + 2]]
            releases = [unit for unit in releases if unit != item.unit]
            if index + 2 < len(program):
                releases.append(FETCH)
            issued += [fetch, replace(item, waits=tuple(waits), releases=tuple(releases))]
        return issued

    def _work(self, call: Call) -> Work:
        match call.work:
            case MatMul() as work:
                return Work(work.m, -(-work.n // self.size), inputs=-(-work.k // self.size))
            case Elementwise() as work:
                phases = PROGRAMS[work.kind, work.binary]
                rows, columns = call.inputs[0].shape if call.inputs else (1, work.elements)
                one_by_one = call.op_type == "GatedRecurrence"  # of the tokens of one text
                return Work(rows, -(-columns // self.size), 0, phases, one_by_one)
            case _:
                raise DeviceError(f"{self.name}: no rule for {call.op_type}")

    def _passes(self, work: Work) -> tuple[int, int]:
        """Return how often the rows' instructions run, and on how many cores, added up."""
        if work.one_by_one:
            return work.rows, work.rows
        whole, rest = divmod(work.rows, self._group)
        cores = whole * self.description.cores.count + -(-rest // self._lanes)
        return -(-work.rows // self._group), cores

    def _cycles(self, step: Step) -> float:
        vector = math.ceil(self.size / self._numbers["vector_parallelism"])
        array = self.description.array_named(ARRAY)
        streamed = self._bytes(step) / self._bytes_a_cycle
        match step.timing:
            case "tile":
                return max(self.size**2 / (array.m * array.n * array.k), streamed)
            case "memory":
                return max(self._numbers["read_passes"] * vector, streamed)
            case "issue":
                return max(self._issue, 1.0)
            case "finish":
                return self._numbers["finish_cycles"]
            case passes:
                return self._numbers[f"{passes}_passes"] * vector

    def _bytes(self, step: Step) -> float:
        """Return what a core moves to or from memory for a step."""
        if step.timing == "tile":
            return self.size**2 * self._numbers["weight_bits"] / 8
        return self.size * self._numbers["number_bytes"] if step.timing == "memory" else 0.0

    def _compute_pj(self, call: Call) -> float:
        if isinstance(call.work, MatMul):
            key = _model.precision(call.work)
            return call.work.macs * _model.mac_pj(self.description, key)
        elements = call.work.elements if isinstance(call.work, Elementwise) else 0
        return elements * self.description.energy.element_pj

    def _refuse_product(self, call: Call, work: MatMul) -> Refusal | None:
        if work.weight_bits > 2 or work.group_size:
            return Refusal("the matrix unit multiplies by -1, 0 and 1, with one scale a row")
        if call.op_type in GATED_OPERATORS:
            return Refusal("no unit skips the rows whose gate is closed")
        found = _model.rate(self.description.array_named(ARRAY), work)
        return found if isinstance(found, Refusal) else None


def _refuse_elementwise(call: Call, work: Elementwise) -> Refusal | None:
    if (work.kind, work.binary) not in PROGRAMS:
        known = ", ".join(sorted({kind for kind, _ in PROGRAMS}))
        return Refusal(f"no unit for {work.kind!r}; there are units for {known}")
    if call.op_type not in ELEMENTWISE:
        return Refusal(f"{call.op_type}: the row-wise unit has ADD, SUB, MUL, SIG, CSIG and SILU")
    if call.op_type == "HeadRmsNorm" and call.inputs[1].shape[0] != call.inputs[0].shape[1]:
        return Refusal("the RMS unit norms whole rows, not heads")
    return None


def _order(work: Work) -> Iterator[tuple[Step, tuple[int, int]]]:
    """Yield the steps of one row: with the vector of the result, and that of what goes in."""
    for phase in work.phases:
        for vector in range(work.vectors if phase.each else 1):
            yield from ((step, (vector, vector)) for step in phase.steps)
    if work.inputs:
        yield from _product_order(work)


def _product_order(work: Work) -> Iterator[tuple[Step, tuple[int, int]]]:
    for vector in range(work.vectors):
        for tile in range(work.inputs):
            if work.inputs > 1 or vector == 0:
                yield IMPORT, (vector, tile)
            yield GO, (vector, tile)
            yield EXPORT, (vector, tile)
            if tile:
                yield ADD, (vector, tile)


def _counts(work: Work) -> dict[Step, int]:
    """Return how often each step comes in one row."""
    counts: dict[Step, int] = {}
    for phase in work.phases:
        for step in phase.steps:
            counts[step] = counts.get(step, 0) + (work.vectors if phase.each else 1)
    if work.inputs:
        all_tiles = work.inputs * work.vectors
        counts = {IMPORT: work.imports, GO: all_tiles, EXPORT: all_tiles}
        counts[ADD] = all_tiles - work.vectors
    return {step: count for step, count in counts.items() if count}
