"""The pieces of a product by look-up: load, make tables, LMMA, store."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgellm.device import Array
from edgellm.devices import _lut_tables
from edgellm.devices._chunks import Chunk
from edgellm.devices._events import DeviceMemory, Effect
from edgellm.devices._lut_weights import SignWeights
from edgellm.devices._pipeline import BUFFERS, Piece, Stage

LOAD, PRECOMPUTE, LMMA, STORE = "LOAD", "PRE", "TC", "STORE"
MEMORY = "hbm"


@dataclass(frozen=True, kw_only=True)
class Tables:
    """A kernel of its own for the tables: what goes through memory, and the cycles it takes."""

    bytes: float
    cycles: float


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Chunks in order, the cycles of each unit for one, the bytes, and how tables are made.

    ``tables`` is None where the operator before makes them.
    """

    chunks: Sequence[Chunk]
    cycles: Mapping[str, Callable[[Chunk], float]]
    loaded: Callable[[Chunk], float]
    stored: Callable[[Chunk], float]
    tables: Tables | None
    lut_bits: int


class Program:
    """The stages of a product; with weights they compute."""

    def __init__(self, schedule: Schedule, weights: SignWeights | None) -> None:
        """Take the chunks in order."""
        self._schedule = schedule
        self._weights = weights

    def stages(self) -> list[Stage]:
        """Return the four units with their pieces."""
        load, make, multiply, store = [], [], [], []
        if kernel := self._schedule.tables:
            load.append(Piece(cycles=kernel.cycles, memory=MEMORY, bytes=kernel.bytes))
        block = 0
        for index, chunk in enumerate(self._schedule.chunks):
            load.append(self._load(index, chunk))
            make.append(self._tables(index, chunk))
            multiply.append(self._multiply(index, chunk, block))
            if chunk.last:
                store.append(self._store(chunk, block))
                block += 1
        units = ((LOAD, load), (PRECOMPUTE, make), (LMMA, multiply), (STORE, store))
        return [Stage(unit, pieces) for unit, pieces in units]

    def _load(self, index: int, chunk: Chunk) -> Piece:
        def effect(memory: DeviceMemory) -> dict[str, Array]:
            return {f"x{index % BUFFERS}": memory["x"][np.ix_(chunk.rows, chunk.inputs)]}

        return Piece(
            cycles=self._schedule.cycles[LOAD](chunk),
            fills=index,
            memory=MEMORY,
            bytes=self._schedule.loaded(chunk),
            effect=effect if self._weights else None,
        )

    def _tables(self, index: int, chunk: Chunk) -> Piece:
        bits, group = self._schedule.lut_bits, chunk.group

        def effect(memory: DeviceMemory) -> dict[str, Array]:
            x = memory[f"x{index % BUFFERS}"].astype(np.int64)
            parts = [x[:, start : start + group] for start in range(0, x.shape[1], group)]
            tables = [_lut_tables.tables(part, bits) for part in parts]
            sums = np.stack([part.sum(axis=1, keepdims=True) for part in parts])
            return {
                f"tables{index % BUFFERS}": np.concatenate(tables, axis=1),
                f"sums{index % BUFFERS}": sums,
            }

        return Piece(
            cycles=self._schedule.cycles[PRECOMPUTE](chunk),
            empties=index,
            fills=index,
            effect=effect if self._weights else None,
        )

    def _multiply(self, index: int, chunk: Chunk, block: int) -> Piece:
        return Piece(
            cycles=self._schedule.cycles[LMMA](chunk),
            empties=index,
            fills=block,
            effect=_looked_up(index, chunk, block, self._weights) if self._weights else None,
        )

    def _store(self, chunk: Chunk, block: int) -> Piece:
        def effect(memory: DeviceMemory) -> dict[str, Array]:
            return {stored(block): memory[f"outputs{block % BUFFERS}"]}

        return Piece(
            cycles=self._schedule.cycles[STORE](chunk),
            empties=block,
            memory=MEMORY,
            bytes=self._schedule.stored(chunk),
            effect=effect if self._weights else None,
        )


def stored(block: int) -> str:
    """Return where a block of outputs lies in memory."""
    return f"y{block}"


def _looked_up(index: int, chunk: Chunk, block: int, weights: SignWeights) -> Effect:
    place = f"outputs{block % BUFFERS}"
    quads = -(-chunk.group // _lut_tables.QUAD)

    def effect(memory: DeviceMemory) -> dict[str, Array]:
        tables, sums = memory[f"tables{index % BUFFERS}"], memory[f"sums{index % BUFFERS}"]
        total = np.zeros((len(chunk.rows), len(chunk.columns)), np.int64)
        if not chunk.first:
            total += memory[place].astype(np.int64)
        for number, inputs in enumerate(chunk.groups):
            table = tables[:, number * quads : (number + 1) * quads]
            total += weights.group_sums(table, sums[number], chunk.columns, inputs)
        return {place: total}

    return effect
