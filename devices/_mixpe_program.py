"""MixPE's instructions: load a chunk, multiply a group, dequantise it, store a block.

Four units run at once. Buffers for chunks, for the sums of a group and for the outputs of a block
hold two each; the tokens say when one is full, and when it is free again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgellm.device import Array
from edgellm.devices._events import DeviceMemory, Effect, Instruction
from edgellm.devices._linear_weights import Int64, LinearWeights

LOAD, GEMM, DEQUANT, STORE = "LOAD", "GEMM", "DEQUANT", "STORE"
MEMORY = "dram"
OUTPUT_BYTES = 4
BUFFERS = 2


@dataclass(frozen=True)
class Chunk:
    """What one load brings: rows of activations, columns (outputs) of weights, inputs of both.

    Attributes:
        rows: of the activations.
        columns: of the outputs.
        inputs: along k.
        group: inputs that are multiplied before they are dequantised.
        k: all inputs of the product.
    """

    rows: range
    columns: range
    inputs: range
    group: int
    k: int

    @property
    def area(self) -> int:
        """Outputs that it contributes to."""
        return len(self.rows) * len(self.columns)

    @property
    def groups(self) -> list[range]:
        """The inputs of each group."""
        starts = range(self.inputs.start, self.inputs.stop, self.group)
        return [range(start, min(start + self.group, self.inputs.stop)) for start in starts]

    @property
    def first(self) -> bool:
        """Whether a block of outputs begins with it."""
        return self.inputs.start == 0

    @property
    def last(self) -> bool:
        """Whether a block of outputs is complete after it."""
        return self.inputs.stop == self.k


@dataclass(frozen=True)
class Schedule:
    """Chunks in order, the bytes one loads, and the cycles of each unit for a chunk's group."""

    chunks: Sequence[Chunk]
    loaded: Callable[[Chunk], float]
    cycles: Mapping[str, Callable[[Chunk, range], float]]


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """Whether a call runs before, whose outputs this one reads, and whether one runs behind."""

    before: bool = False
    behind: bool = False


class Program:
    """Writes the instructions of a product; with weights they compute."""

    def __init__(
        self, name: str, schedule: Schedule, place: Neighbours, weights: LinearWeights | None
    ) -> None:
        """Count what there will be, so that no token is released that nobody waits for."""
        self._name = name
        self._schedule = schedule
        self._place = place
        self._weights = weights
        self._chunks = len(schedule.chunks)
        self._groups = sum(len(chunk.groups) for chunk in schedule.chunks)
        self._blocks = sum(chunk.last for chunk in schedule.chunks)

    def instructions(self) -> list[Instruction]:
        """Return them in the order of issue."""
        program = []
        group = block = 0
        for index, chunk in enumerate(self._schedule.chunks):
            program.append(self._load(index, chunk))
            for part in chunk.groups:
                program.append(self._multiply(index, chunk, group, part))
                program.append(self._dequantise(chunk, group, part, block))
                group += 1
            if chunk.last:
                program.append(self._store(chunk, block))
                block += 1
        return program

    def _load(self, index: int, chunk: Chunk) -> Instruction:
        """Load into the buffer that the chunk before the last has left."""
        waits = (GEMM,) if index >= BUFFERS else ()
        inputs = (STORE,) if index == 0 and self._place.before else ()

        def effect(memory: DeviceMemory) -> dict[str, Array]:
            x = memory["x"][np.ix_(chunk.rows, chunk.inputs)]
            codes = memory["codes"][np.ix_(chunk.columns, chunk.inputs)]
            return {f"x{index % BUFFERS}": x, f"codes{index % BUFFERS}": codes}

        return Instruction(
            LOAD,
            self._schedule.cycles[LOAD](chunk, chunk.inputs),
            f"{self._name} load {index}",
            waits=waits + inputs,
            releases=(GEMM,),
            memory=MEMORY,
            bytes=self._schedule.loaded(chunk),
            effect=effect if self._weights else None,
        )

    def _multiply(self, index: int, chunk: Chunk, group: int, part: range) -> Instruction:
        """Sum a group's products of shifted activations, and its activations."""
        begins, ends = part.start == chunk.inputs.start, part.stop == chunk.inputs.stop
        waits = ((LOAD,) if begins else ()) + ((DEQUANT,) if group >= BUFFERS else ())
        frees = (LOAD,) if ends and index + BUFFERS < self._chunks else ()
        inside = slice(part.start - chunk.inputs.start, part.stop - chunk.inputs.start)
        effect = self._weights and _products(index, group, inside, self._weights.bits)
        return Instruction(
            GEMM,
            self._schedule.cycles[GEMM](chunk, part),
            f"{self._name} gemm {group}",
            waits=waits,
            releases=(DEQUANT, *frees),
            effect=effect or None,
        )

    def _dequantise(self, chunk: Chunk, group: int, part: range, block: int) -> Instruction:
        """Subtract the zero, scale, and add to the outputs of the block."""
        opens = part.start == 0
        closes = part.stop == chunk.k
        effect = self._weights and _dequantised(chunk, group, part, block, self._weights)
        return Instruction(
            DEQUANT,
            self._schedule.cycles[DEQUANT](chunk, part),
            f"{self._name} dequantise {group}",
            waits=(GEMM, STORE) if opens and block >= BUFFERS else (GEMM,),
            releases=((GEMM,) if group + BUFFERS < self._groups else ())
            + ((STORE,) if closes else ()),
            effect=effect or None,
        )

    def _store(self, chunk: Chunk, block: int) -> Instruction:
        """Store a block; the last one lets the next call begin."""
        next_call = (LOAD,) if self._place.behind and block + 1 == self._blocks else ()

        def effect(memory: DeviceMemory) -> dict[str, Array]:
            return {stored(block): memory[f"outputs{block % BUFFERS}"]}

        return Instruction(
            STORE,
            self._schedule.cycles[STORE](chunk, chunk.inputs),
            f"{self._name} store {block}",
            waits=(DEQUANT,),
            releases=((DEQUANT,) if block + BUFFERS < self._blocks else ()) + next_call,
            memory=MEMORY,
            bytes=OUTPUT_BYTES * chunk.area,
            effect=effect if self._weights else None,
        )


def stored(block: int) -> str:
    """Return where a block of outputs lies in memory."""
    return f"y{block}"


def shift_and_add(x: Array, codes: Array, bits: int) -> Int64:
    """Return ``x @ codes.T`` without a multiplier: x shifted, and added where a bit is set."""
    left, right = x.astype(np.int64), codes.astype(np.int64)
    total = np.zeros((len(x), len(codes)), np.int64)
    for bit in range(bits):
        total += (left << bit) @ ((right >> bit) & 1).T
    return total


def _products(index: int, group: int, inside: slice, bits: int) -> Effect:
    def effect(memory: DeviceMemory) -> dict[str, Array]:
        x = memory[f"x{index % BUFFERS}"][:, inside]
        codes = memory[f"codes{index % BUFFERS}"][:, inside]
        products = shift_and_add(x, codes, bits)
        return {
            f"products{group % BUFFERS}": products,
            f"sums{group % BUFFERS}": x.sum(axis=1, keepdims=True),
        }

    return effect


def _dequantised(
    chunk: Chunk, group: int, part: range, block: int, weights: LinearWeights
) -> Effect:
    which = part.start // weights.group_size
    columns = slice(chunk.columns.start, chunk.columns.stop)
    zero, scale = weights.zero[which, columns], weights.scale[which, columns]
    place = f"outputs{block % BUFFERS}"

    def effect(memory: DeviceMemory) -> dict[str, Array]:
        products = memory[f"products{group % BUFFERS}"].astype(np.int64)
        sums = memory[f"sums{group % BUFFERS}"].astype(np.int64)
        scaled = (products - sums * zero) * scale
        return {place: scaled if part.start == 0 else memory[place].astype(np.int64) + scaled}

    return effect
