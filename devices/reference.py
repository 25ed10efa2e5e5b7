"""The reference device: one product a cycle, one memory; the shortest device that is complete.

Read it to write another. It computes by the operators' definitions, costs by the shared equations,
and compiles each call to a load, a computation and a store for each tile of ``TILES``.
"""

from collections.abc import Iterable, Sequence

from edgellm import ops
from edgellm.device import Array, Attention, Call, Cost, Elementwise, MatMul, Move, Refusal
from edgellm.devices import _model
from edgellm.devices._description import Description
from edgellm.devices._events import Instruction
from edgellm.devices._model import Demand

TILES = 64
"""Tiles a call is cut into; while one is computed, the next is loaded."""
MEMORY = "ram"
ARRAY = "mac"


class Device:
    """Runs everything, slowly."""

    def __init__(self, description: Description) -> None:
        """Build the device of a description."""
        self.name = description.name
        self.description = description

    def supports(self, call: Call) -> Refusal | None:
        """Take everything; a device with limits looks at ``call.work`` first."""
        del call
        return None

    def run(self, call: Call, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Compute by the operator's definition."""
        results = ops.find(call.op_type).reference(*inputs, **call.attributes)
        return results if isinstance(results, tuple) else (results,)

    def cost(self, call: Call) -> Cost:
        """Overlap reading and computing; the first tile is read, and the last computed, alone."""
        cycles, read, energy = self._parts(call)
        seconds = cycles / self.description.hz()
        reading = read / self._bytes_per_s()
        busy = {ARRAY: seconds, MEMORY: reading}
        demand = Demand(
            busy_s=busy,
            fill_s=min(seconds, reading) / TILES,
            read={MEMORY: read},
            compute_pj=energy,
        )
        return _model.cost(self.description, call, demand)

    def compile(self, calls: Iterable[Call]) -> list[Instruction]:
        """Return loads and computations, a tile each; two tiles fit into the buffer."""
        program: list[Instruction] = []
        for call in calls:
            cycles, read, _ = self._parts(call)
            reading = read / self._bytes_per_s() * self.description.hz()
            for tile in range(TILES):
                # The third load waits for the first computation: it takes the place of its tile.
                # The next call waits for this one, because it reads what this one makes.
                freed = ("COMPUTE",) if tile >= 2 else ("COMPUTE",) if program and tile == 0 else ()
                program.append(
                    Instruction(
                        "LOAD",
                        reading / TILES,
                        f"{call.name} load {tile}",
                        waits=freed,
                        releases=("COMPUTE",),
                        memory=MEMORY,
                        bytes=read / TILES,
                    )
                )
                ends = tile < TILES - 2 or tile == TILES - 1
                program.append(
                    Instruction(
                        "COMPUTE",
                        cycles / TILES,
                        f"{call.name} compute {tile}",
                        waits=("LOAD",),
                        releases=("LOAD",) if ends else (),
                    )
                )
        return program

    def _parts(self, call: Call) -> tuple[float, float, float]:
        """Return the cycles, the bytes read, and the energy of computing, in pJ."""
        match call.work:
            case MatMul() as work:
                array = self.description.array_named(ARRAY)
                products = _model.mac_pj(self.description, _model.precision(work)) * work.macs
                return _model.parallel_cycles(array, work), work.weight_bytes, products
            case Attention() as work:
                products = _model.mac_pj(self.description, "attention") * work.macs
                return work.macs, work.cache_bytes, products
            case Elementwise() as work:
                cycles = _model.element_cycles(self.description, work.kind, work.elements)
                return cycles, 0.0, self.description.energy.element_pj * work.elements
            case Move() as work:
                return work.bytes, work.bytes, 0.0

    def _bytes_per_s(self) -> float:
        return _model.bytes_per_s(self.description.memory_named(MEMORY))
