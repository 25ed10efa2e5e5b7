"""LUT Tensor Core (arXiv 2408.06003): tensor cores of a GPU that look up instead of multiplying.

LMMA instructions multiply tiles of 2 rows, 64 columns and 4 inputs, one bit of the weights a cycle.
A vector unit makes the tables: fused with the operator before, or as a kernel of its own that
writes them to memory. Everything else runs on the GPU as ever: attention on its fp16 tensor cores
(unfused: scores go through memory), elementwise operators on its vector units, fused with the
product before them (Welder): their first input is on the chip. A description with
``dataflow = "os"`` is the GPU before: its tensor cores multiply.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from edgellm import ops
from edgellm.device import Array, Attention, Call, Cost, Elementwise, MatMul, Move, Refusal
from edgellm.devices import _model
from edgellm.devices._chunks import Chunk, cut
from edgellm.devices._description import Description
from edgellm.devices._events import DeviceMemory, Instruction, simulate
from edgellm.devices._lut_program import (
    LMMA,
    LOAD,
    MEMORY,
    PRECOMPUTE,
    STORE,
    Program,
    Schedule,
    Tables,
    stored,
)
from edgellm.devices._lut_tables import QUAD
from edgellm.devices._lut_weights import DECODERS, SignWeights, decode
from edgellm.devices._model import Demand
from edgellm.devices._pipeline import Piece, Stage, Streamed, chain
from edgellm.errors import DeviceError

PARAMETERS = {
    "macs_per_cycle": (1, 1e6),
    "attention_macs_per_cycle": (1, 1e6),
    "score_passes": (1, 16),
    "lut_bits": (2, 32),
    "fused": (0, 1),
    "block_rows": (1, 1 << 20),
    "block_columns": (1, 1 << 20),
    "block_inputs": (4, 1 << 20),
    "area_mm2": (1e-6, 1e3),
    "baseline_area_mm2": (1e-6, 1e3),
    "unit_um2": (1e-6, 1e9),
    "unpu_um2": (1e-6, 1e9),
    "unit_mw": (1e-6, 1e6),
    "unit_mhz": (1e-3, 1e5),
}
"""macs_per_cycle: of a core, at one bit a weight (with dataflow "os": at any). score_passes: how
often scores go through memory. fused: whether tables are made by the operator before. block_*: what
one load brings. area_mm2: of the tensor cores of a core, and of those that multiply. unit_*: of one
that does 2 x 64 x 4 products of one bit a cycle, and of UNPU's."""
ARRAY = "TC"
VECTOR = "VEC"
PIECES = 64
HALF_BYTES = 2
"""Activations between operators, and scores, are fp16."""
ADDS = 2
"""Additions an input: eight entries for four inputs, each one addition from another."""


class Device:
    """A GPU with tensor cores that look up, or that multiply."""

    def __init__(self, description: Description) -> None:
        """Build the device of a description."""
        self.name = description.name
        self.description = description
        self._array = description.array_named(ARRAY)
        self._looks_up = self._array.dataflow == "bitserial_lut"
        self._parameters = description.parameters

    def supports(self, call: Call) -> Refusal | None:
        """Take products with codes of few bits; the GPU's other units take the rest."""
        if isinstance(call.work, MatMul):
            if call.op_type not in {"Linear", *DECODERS}:
                return Refusal(f"LMMA multiplies codes and does no more: {', '.join(DECODERS)}")
            if self._looks_up and call.work.activation_bits != 8:
                return Refusal("tables are made of int8 activations")
        elif call.op_type not in _defined() | _PAPER_OPERATORS:
            return Refusal(f"{call.op_type} has no definition")
        return None

    def run(self, call: Call, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Look products up, in the order of the instructions; compute the rest by definition."""
        if not isinstance(call.work, MatMul):
            results = ops.find(call.op_type).reference(*inputs, **call.attributes)
            return results if isinstance(results, tuple) else (results,)
        weights = decode(call.op_type, inputs, call.attributes)
        memory = DeviceMemory({"x": inputs[0]})
        simulate(chain([Streamed(call.name, self._stages(call, weights))]), memory)
        total = np.empty((call.work.m, call.work.n), np.int64)
        blocks = [chunk for chunk in self._chunks(call.work) if chunk.last]
        for block, chunk in enumerate(blocks):
            total[np.ix_(chunk.rows, chunk.columns)] = memory[stored(block)]
        return (weights.finish(total),)

    def cost(self, call: Call) -> Cost:
        """Overlap the units; before the busiest comes its first input, behind it the rest."""
        stages = self._stages(call, None)
        busy = {stage.unit: sum(piece.cycles for piece in stage.pieces) for stage in stages}
        bound = max(busy, key=lambda unit: busy[unit])
        position = [stage.unit for stage in stages].index(bound)
        fill = _cycles_before(stages[:position]) + _cycles_behind(stages[position + 1 :])
        moved = {LOAD: 0.0, STORE: 0.0}
        for stage in stages:
            if stage.unit in moved:
                moved[stage.unit] += sum(piece.bytes for piece in stage.pieces)
        cycle = 1 / self.description.hz()
        demand = Demand(
            busy_s={unit: cycles * cycle for unit, cycles in busy.items()},
            fill_s=fill * cycle,
            read={MEMORY: moved[LOAD]},
            written={MEMORY: moved[STORE]},
            sram_bytes=moved[LOAD] + moved[STORE],
            compute_pj=self._compute_pj(call),
        )
        return _model.cost(self.description, call, demand)

    def compile(self, calls: Iterable[Call]) -> list[Instruction]:
        """Return LOAD, PRE (tables), LMMA, STORE of products; LOAD and a unit of others."""
        return chain([Streamed(call.name, self._stages(call, None)) for call in calls])

    def metric(self, name: str) -> float:
        """Return peak_tops (two-bit weights), area_ratio, unpu_ratio or tops_per_watt (one bit).

        Raises:
            DeviceError: it is none of these.
        """
        facts = self._parameters
        operations = 2 * facts["macs_per_cycle"] * self.description.cores.count
        unit_operations = 2 * self._array.m * self._array.n * self._array.k
        figures = {
            "peak_tops": operations * self.description.hz() / 1e12 / (2 if self._looks_up else 1),
            "area_ratio": facts["area_mm2"] / facts["baseline_area_mm2"],
            "unpu_ratio": facts["unpu_um2"] / facts["unit_um2"],
            "tops_per_watt": unit_operations * facts["unit_mhz"] / facts["unit_mw"] / 1e3,
        }
        if name not in figures:
            raise DeviceError(f"{self.name}: no metric {name!r}; there are {', '.join(figures)}")
        return figures[name]

    def _stages(self, call: Call, weights: SignWeights | None) -> list[Stage]:
        if refusal := self.supports(call):
            raise DeviceError(f"{self.name}: {call.name}: {refusal.reason}")
        match call.work:
            case MatMul() as work:
                return Program(self._schedule(work), weights).stages()
            case Attention() as work:
                pairs = work.sequences * work.tokens * work.length * work.heads
                scores = HALF_BYTES * pairs * self._parameters["score_passes"]
                macs = 2 * pairs * work.head_dim
                rate = self._parameters["attention_macs_per_cycle"] * self._cores()
                return self._simple(ARRAY, macs / rate, work.cache_bytes + scores)
            case Elementwise() as work:
                cycles = _model.element_cycles(self.description, work.kind, work.elements)
                moved = HALF_BYTES * work.elements * (2 if work.binary else 1)
                return self._simple(VECTOR, cycles / self._cores(), moved)
            case Move() as work:
                return self._simple(VECTOR, 0.0, 2 * work.bytes)

    def _simple(self, unit: str, cycles: float, moved: float) -> list[Stage]:
        """Return an operator that streams through one unit; reads and writes share the memory."""
        load = [
            Piece(
                cycles=self._moving(moved) / PIECES,
                fills=index,
                memory=MEMORY,
                bytes=moved / PIECES,
            )
            for index in range(PIECES)
        ]
        work = [Piece(cycles=cycles / PIECES, empties=index) for index in range(PIECES)]
        return [Stage(LOAD, load), Stage(unit, work)]

    def _schedule(self, work: MatMul) -> Schedule:
        return Schedule(
            chunks=self._chunks(work),
            cycles={
                LOAD: lambda chunk: self._moving(self._loaded(work, chunk)),
                PRECOMPUTE: lambda chunk: self._making_tables(chunk),
                LMMA: lambda chunk: self._multiplying(work, chunk),
                STORE: lambda chunk: self._moving(HALF_BYTES * chunk.area),
            },
            loaded=lambda chunk: self._loaded(work, chunk),
            stored=lambda chunk: HALF_BYTES * chunk.area,
            tables=None if self._parameters["fused"] else self._table_kernel(work),
            lut_bits=int(self._parameters["lut_bits"]),
        )

    def _chunks(self, work: MatMul) -> list[Chunk]:
        rows, columns, deep = (
            int(self._parameters[f"block_{side}"]) for side in ("rows", "columns", "inputs")
        )
        group = work.group_size or QUAD
        return cut(work, (rows, columns, max(deep // group, 1) * group))

    def _loaded(self, work: MatMul, chunk: Chunk) -> float:
        """Return a chunk's share of the weights and activations; both are read from memory once."""
        rows, columns = len(chunk.rows) / work.m, len(chunk.columns) / work.n
        weights = work.weight_bytes * columns * rows
        activations = work.m * work.k * work.activation_bits / 8 * rows * columns
        return (weights + activations) * len(chunk.inputs) / work.k

    def _table_kernel(self, work: MatMul) -> Tables:
        """Return the kernel that reads activations and writes tables, and their reading again."""
        table = self._parameters["lut_bits"] / 8 * (1 << (QUAD - 1)) / QUAD
        moved = work.m * work.k * (work.activation_bits / 8 + 2 * table)
        return Tables(bytes=moved, cycles=self._moving(moved))

    def _making_tables(self, chunk: Chunk) -> float:
        """Return the cycles for a chunk's tables; the first block of columns makes them for all."""
        if not self._looks_up or chunk.columns.start:
            return 0.0
        adds = ADDS * len(chunk.rows) * len(chunk.inputs)
        return _model.element_cycles(self.description, "table", adds) / self._cores()

    def _multiplying(self, work: MatMul, chunk: Chunk) -> float:
        tile = self._array
        rows, columns = len(chunk.rows), len(chunk.columns)
        tiles = math.ceil(rows / tile.m) * math.ceil(columns / tile.n)
        macs = tiles * math.ceil(len(chunk.inputs) / tile.k) * tile.m * tile.n * tile.k
        bits = math.ceil(work.weight_bits) if self._looks_up else 1
        return bits * macs / (self._parameters["macs_per_cycle"] * self._cores())

    def _compute_pj(self, call: Call) -> float:
        """Return the energy of products (a bit of a weight at a time) or of elements."""
        energy = self.description.energy
        match call.work:
            case MatMul() as work if self._looks_up:
                facts, tile = self._parameters, self._array
                products = tile.m * tile.n * tile.k * facts["unit_mhz"] * 1e6
                return work.macs * math.ceil(work.weight_bits) * facts["unit_mw"] * 1e9 / products
            case MatMul() as work:
                return work.macs * _model.mac_pj(self.description, _model.precision(work))
            case Attention() as work:
                return work.macs * _model.mac_pj(self.description, "attention")
            case Elementwise() as work:
                return work.elements * energy.element_pj
            case Move():
                return 0.0

    def _cores(self) -> float:
        return _model.speed_up(self.description)

    def _moving(self, amount: float) -> float:
        memory = self.description.memory_named(MEMORY)
        return amount / _model.bytes_per_s(memory) * self.description.hz()


def _defined() -> set[str]:
    return {module.SCHEMA.name for module in ops.modules()}


_PAPER_OPERATORS = {"Norm", "Add", "Activation", "Attention", "CacheAppend", "Embedding"}


def _cycles_before(stages: Sequence[Stage]) -> float:
    """Return the cycles until the stage behind these has its first buffer full."""
    return sum(
        sum(piece.cycles for piece in stage.pieces if piece.fills == stage.pieces[0].fills)
        for stage in stages
    )


def _cycles_behind(stages: Sequence[Stage]) -> float:
    """Return the cycles from the last buffer full until these are done with it."""
    return sum(
        sum(piece.cycles for piece in stage.pieces if piece.empties == stage.pieces[-1].empties)
        for stage in stages
    )
