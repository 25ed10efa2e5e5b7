"""MixPE's instructions: load a chunk, multiply a group, dequantise it, store a block."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgellm.device import Array
from edgellm.devices._chunks import Chunk
from edgellm.devices._events import DeviceMemory, Effect
from edgellm.devices._linear_weights import Int64, LinearWeights
from edgellm.devices._pipeline import BUFFERS, Piece, Stage

LOAD, GEMM, DEQUANT, STORE = "LOAD", "GEMM", "DEQUANT", "STORE"
MEMORY = "dram"
OUTPUT_BYTES = 4


@dataclass(frozen=True)
class Schedule:
    """Chunks in order, the bytes one loads, and the cycles of each unit for a chunk's group."""

    chunks: Sequence[Chunk]
    loaded: Callable[[Chunk], float]
    cycles: Mapping[str, Callable[[Chunk, range], float]]


class Program:
    """The pieces of a product; with weights they compute."""

    def __init__(self, schedule: Schedule, weights: LinearWeights | None) -> None:
        """Take the chunks in order."""
        self._schedule = schedule
        self._weights = weights

    def stages(self) -> list[Stage]:
        """Return the four units with their pieces."""
        load, gemm, dequant, store = [], [], [], []
        group = block = 0
        for index, chunk in enumerate(self._schedule.chunks):
            load.append(self._load(index, chunk))
            for part in chunk.groups:
                gemm.append(self._multiply(index, chunk, group, part))
                dequant.append(self._dequantise(chunk, group, part, block))
                group += 1
            if chunk.last:
                store.append(self._store(chunk, block))
                block += 1
        units = ((LOAD, load), (GEMM, gemm), (DEQUANT, dequant), (STORE, store))
        return [Stage(unit, pieces) for unit, pieces in units]

    def _load(self, index: int, chunk: Chunk) -> Piece:
        def effect(memory: DeviceMemory) -> dict[str, Array]:
            x = memory["x"][np.ix_(chunk.rows, chunk.inputs)]
            codes = memory["codes"][np.ix_(chunk.columns, chunk.inputs)]
            return {f"x{index % BUFFERS}": x, f"codes{index % BUFFERS}": codes}

        return Piece(
            cycles=self._schedule.cycles[LOAD](chunk, chunk.inputs),
            fills=index,
            memory=MEMORY,
            bytes=self._schedule.loaded(chunk),
            effect=effect if self._weights else None,
        )

    def _multiply(self, index: int, chunk: Chunk, group: int, part: range) -> Piece:
        """Sum a group's products of shifted activations, and its activations."""
        inside = slice(part.start - chunk.inputs.start, part.stop - chunk.inputs.start)
        effect = self._weights and _products(index, group, inside, self._weights.bits)
        return Piece(
            cycles=self._schedule.cycles[GEMM](chunk, part),
            empties=index,
            fills=group,
            effect=effect or None,
        )

    def _dequantise(self, chunk: Chunk, group: int, part: range, block: int) -> Piece:
        """Subtract the zero, scale, and add to the outputs of the block."""
        effect = self._weights and _dequantised(chunk, group, part, block, self._weights)
        return Piece(
            cycles=self._schedule.cycles[DEQUANT](chunk, part),
            empties=group,
            fills=block,
            effect=effect or None,
        )

    def _store(self, chunk: Chunk, block: int) -> Piece:
        def effect(memory: DeviceMemory) -> dict[str, Array]:
            return {stored(block): memory[f"outputs{block % BUFFERS}"]}

        return Piece(
            cycles=self._schedule.cycles[STORE](chunk, chunk.inputs),
            empties=block,
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
