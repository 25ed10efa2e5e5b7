"""MixPE (arXiv 2411.16158): an output-stationary array that dequantises after each group.

Processing elements multiply an activation by a weight of few bits with shifts and additions: one
shifted activation for each bit of the code. Scale and zero are shared by a group, so the array sums
codes, and a unit at its edge subtracts zero times the sum of the activations and scales. The
arrays that the paper compares with (INT8, BitFusion, ANT, FP16) are descriptions of this class.

Cycles are those of the authors' simulator (yuzhang712/mixpe_simulator): tiles * K, a processing
element taking ``high_bits / max(bits, low_bits)`` operands of each side at once.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from edgellm.device import Array, Call, Cost, MatMul, Refusal
from edgellm.devices import _model
from edgellm.devices._chunks import Chunk, cut
from edgellm.devices._description import Description
from edgellm.devices._events import DeviceMemory, Instruction, simulate
from edgellm.devices._linear_weights import DECODERS, LinearWeights, decode
from edgellm.devices._mixpe_program import (
    DEQUANT,
    GEMM,
    LOAD,
    MEMORY,
    OUTPUT_BYTES,
    STORE,
    Program,
    Schedule,
    stored,
)
from edgellm.devices._model import Demand
from edgellm.devices._pipeline import Streamed, chain
from edgellm.errors import DeviceError

PARAMETERS = {
    "high_bits": (1, 64),
    "low_bits": (1, 64),
    "least_stored_bits": (1, 64),
    "pe_pj": (1e-6, 1e3),
    "outputs_per_cycle": (1, 1e6),
}
"""Operand widths of a processing element, and of what memory holds; pJ a cycle of one; how many
outputs are dequantised, or stored, in a cycle."""
ARRAY = "PE"


class Device:
    """A MixPE array, or one of those that it is compared with."""

    def __init__(self, description: Description) -> None:
        """Build the device of a description."""
        self.name = description.name
        self.description = description
        self._array = description.array_named(ARRAY)
        self._sizes = {buffer.id: buffer.bytes // 2 for buffer in description.buffer}  # doubled
        if missing := {"weights", "activations", "outputs"} - set(self._sizes):
            raise DeviceError(f"{self.name}: no [[buffer]] {', '.join(sorted(missing))}")

    def supports(self, call: Call) -> Refusal | None:
        """Take products with integer codes that fit into a processing element."""
        if not isinstance(call.work, MatMul) or call.op_type not in {"Linear", *DECODERS}:
            return Refusal(f"the array multiplies codes: {', '.join(DECODERS)}")
        widest = int(self.description.parameters["high_bits"])
        if max(call.work.activation_bits, call.work.weight_bits) > widest:
            return Refusal(f"processing elements take operands of {widest} bits at most")
        return None

    def cost(self, call: Call) -> Cost:
        """Overlap the four units; before the busiest comes its first input, behind it the rest."""
        work = self._work(call)
        stages = self._stages(work)
        first = self._first_piece(work)
        bound = max(stages, key=lambda unit: stages[unit])
        fill = sum(cycles for unit, cycles in first.items() if unit != bound)
        cycle = 1 / self.description.hz()
        reads = self._width(work, "weight") * self._array.n + self._width(work, "act") * (
            self._array.m
        )
        parameters = self.description.parameters
        read, written = self._read_bytes(work), OUTPUT_BYTES * work.m * work.n
        demand = Demand(
            busy_s={unit: cycles * cycle for unit, cycles in stages.items()},
            fill_s=fill * cycle,
            read={MEMORY: read},
            written={MEMORY: written},
            sram_bytes=stages[GEMM] * reads / 8 + read + written,
            compute_pj=stages[GEMM] * self._array.m * self._array.n * parameters["pe_pj"],
        )
        return _model.cost(self.description, call, demand)

    def compile(self, calls: Iterable[Call]) -> list[Instruction]:
        """Return LOAD, GEMM, DEQUANT and STORE of each call; buffers hold two of each."""
        return chain([self._streamed(call, None) for call in calls])

    def run(self, call: Call, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Execute the call's instructions; the array shifts and adds."""
        weights = decode(call.op_type, inputs, call.attributes)
        memory = DeviceMemory({"x": inputs[0].astype(np.int64), "codes": weights.codes})
        simulate(chain([self._streamed(call, weights)]), memory)
        work = self._work(call)
        total = np.empty((work.m, work.n), np.int64)
        for block, chunk in enumerate(chunk for chunk in self._chunks(work) if chunk.last):
            total[np.ix_(chunk.rows, chunk.columns)] = memory[stored(block)]
        return (weights.finish(total),)

    def _streamed(self, call: Call, weights: LinearWeights | None) -> Streamed:
        work = self._work(call)
        schedule = Schedule(
            self._chunks(work),
            loaded=lambda chunk: self._loaded(work, chunk),
            cycles={
                LOAD: lambda chunk, _: self._moving(self._loaded(work, chunk)),
                GEMM: lambda chunk, group: self._multiplying(work, chunk, group),
                DEQUANT: lambda chunk, _: chunk.area / self._outputs_per_cycle,
                STORE: lambda chunk, _: self._moving(OUTPUT_BYTES * chunk.area),
            },
        )
        return Streamed(call.name, Program(schedule, weights).stages())

    def _work(self, call: Call) -> MatMul:
        if (refusal := self.supports(call)) or not isinstance(call.work, MatMul):
            raise DeviceError(f"{self.name}: {call.name}: {refusal and refusal.reason}")
        return call.work

    def _fused(self, work: MatMul) -> tuple[int, int]:
        """Return how many activations and weights a processing element takes in a cycle."""
        high, low = (int(self.description.parameters[key]) for key in ("high_bits", "low_bits"))
        weight_bits = math.ceil(work.weight_bits)
        return high // max(work.activation_bits, low), high // max(weight_bits, low)

    def _width(self, work: MatMul, side: str) -> float:
        least = self.description.parameters["least_stored_bits"]
        return max(work.weight_bits if side == "weight" else work.activation_bits, least)

    def _block(self, work: MatMul) -> tuple[int, int, int]:
        """Return the rows, columns and inputs whose sums, codes and activations fit on the chip."""
        fused = self._fused(work)
        rows, columns = self._array.m * fused[0], self._array.n * fused[1]
        sums = self._sizes["outputs"] // OUTPUT_BYTES
        high = min(_model.padded(work.m, rows), max(sums // columns // rows, 1) * rows)
        wide = min(_model.padded(work.n, columns), max(sums // high // columns, 1) * columns)
        deep = 8 * self._sizes["weights"] / (wide * self._width(work, "weight"))
        deep = min(deep, 8 * self._sizes["activations"] / (high * self._width(work, "act")))
        group = work.group_size or work.k
        whole = int(deep) // group * group if work.group_size else int(deep)
        return high, wide, max(min(whole, work.k), min(group, work.k, max(int(deep), 1)))

    def _chunks(self, work: MatMul) -> list[Chunk]:
        high, wide, deep = self._block(work)
        return cut(work, (high, wide, deep))

    def _read_bytes(self, work: MatMul) -> float:
        """Return what is loaded: weights for each block of rows, inputs for each of columns."""
        high, wide, _ = self._block(work)
        activations = work.m * work.k * self._width(work, "act") / 8
        weights = self._weight_bytes(work, work.k, work.n)
        return weights * math.ceil(work.m / high) + activations * math.ceil(work.n / wide)

    def _weight_bytes(self, work: MatMul, inputs: int, outputs: int) -> float:
        scales = inputs / work.group_size * work.group_bits if work.group_size else 0.0
        return outputs * (inputs * self._width(work, "weight") + scales) / 8

    def _stages(self, work: MatMul) -> dict[str, float]:
        """Return the cycles that each unit works."""
        return {
            LOAD: self._moving(self._read_bytes(work)),
            GEMM: _model.output_stationary_cycles(self._array, work, self._fused(work)),
            DEQUANT: work.m * work.n * self._groups(work) / self._outputs_per_cycle,
            STORE: self._moving(OUTPUT_BYTES * work.m * work.n),
        }

    def _first_piece(self, work: MatMul) -> dict[str, float]:
        """Return the cycles of one piece in each unit: of a chunk, of a group, of a block."""
        chunk = self._chunks(work)[0]
        return {
            LOAD: self._moving(self._loaded(work, chunk)),
            GEMM: self._multiplying(work, chunk, chunk.groups[0]),
            DEQUANT: chunk.area / self._outputs_per_cycle,
            STORE: self._moving(OUTPUT_BYTES * chunk.area),
        }

    def _groups(self, work: MatMul) -> int:
        _, _, deep = self._block(work)
        return math.ceil(work.k / min(work.group_size or deep, deep))

    @property
    def _outputs_per_cycle(self) -> float:
        return self.description.parameters["outputs_per_cycle"]

    def _moving(self, amount: float) -> float:
        memory = self.description.memory_named(MEMORY)
        return amount / _model.bytes_per_s(memory) * self.description.hz()

    def _loaded(self, work: MatMul, chunk: Chunk) -> float:
        activations = len(chunk.rows) * len(chunk.inputs) * self._width(work, "act") / 8
        return activations + self._weight_bytes(work, len(chunk.inputs), len(chunk.columns))

    def _multiplying(self, work: MatMul, chunk: Chunk, group: range) -> float:
        part = MatMul(
            m=len(chunk.rows),
            k=len(group),
            n=len(chunk.columns),
            activation_bits=work.activation_bits,
            weight_bits=work.weight_bits,
        )
        return _model.output_stationary_cycles(self._array, part, self._fused(work))
