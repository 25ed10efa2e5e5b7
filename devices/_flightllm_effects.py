"""What FlightLLM's instructions compute: from buffer to buffer, tile by tile, in integers.

An effect reads and writes slots of device memory. Buffers that hold two tiles have two slots, those
of one tile one; so an instruction that comes too early reads what is not there, or what was there
before. Special functions are parts of the operators' references: all integers are theirs.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Protocol

import numpy as np

from edgellm import ops
from edgellm.device import Array, Attention, Call, MatMul, Move
from edgellm.devices._events import DeviceMemory, Effect
from edgellm.devices._flightllm_heads import HeadEffects
from edgellm.devices._flightllm_isa import Pipeline, nothing, slot
from edgellm.devices._flightllm_products import DECODERS, ProductEffects
from edgellm.devices._flightllm_schedule import Schedule

WHOLE = ("SequenceQuantize", "MeanPool", "L2Normalize")
"""Operators whose rows are not independent, or that are few: one instruction computes them."""


@cache
def is_unknown_product(op_type: str) -> bool:
    """Return whether an operator has weights that no decoder reads; a paper's has none at all."""
    known = {module.SCHEMA.name for module in ops.modules()}
    return op_type in known and op_type not in DECODERS


class Effects(Protocol):
    """What the instructions of one call compute on."""

    @property
    def memory(self) -> DeviceMemory:
        """Device memory, with the inputs in it."""

    def effect(self, pipeline: int, role: str, tile: int) -> Effect:
        """Return what a step of a tile does."""

    def outputs(self) -> tuple[Array, ...]:
        """Return the outputs, when all instructions have run."""


def bind(call: Call, inputs: Sequence[Array], schedule: Schedule) -> Effects:
    """Return the effects of a call on its inputs."""
    pipelines = schedule.pipelines(call)
    match call.work:
        case MatMul() as work:
            roles = {step.role for pipeline in pipelines for step in pipeline.steps}
            return ProductEffects(call, inputs, schedule.tiling(work), roles)
        case Attention():
            return HeadEffects(call, inputs, pipelines)
    return RowEffects(call, inputs, pipelines[0])


class RowEffects:
    """Rows through MISC; what has no independent rows goes through as a whole."""

    def __init__(self, call: Call, inputs: Sequence[Array], pipeline: Pipeline) -> None:
        """Put the inputs where they lie, and cut their rows into tiles."""
        module = ops.find(call.op_type)
        self._call, self._module = call, module
        self._roles = [step.role for step in pipeline.steps]
        self.memory = DeviceMemory(
            {f"in.{index}": np.asarray(value) for index, value in enumerate(inputs)}
        )
        schema = module.SCHEMA
        ports = schema.inputs if not isinstance(call.work, Move) else ()
        by_row = all(port.dims[0] == "T" for port in schema.outputs) and not any(
            port.name == "ends" for port in schema.inputs
        )
        rows = inputs[0].shape[0]
        self._split = [
            port.dims[0] in "TR" and inputs[index].shape[0] == rows
            for index, port in enumerate(ports)
        ]
        tiles = min(pipeline.tiles, rows) if ports and by_row and call.op_type not in WHOLE else 1
        self._bounds = [round(tile * rows / tiles) for tile in range(tiles + 1)]

    def effect(self, pipeline: int, role: str, tile: int) -> Effect:
        """Return what a step of a tile does."""
        del pipeline
        if tile >= len(self._bounds) - 1:
            return nothing
        last = self._roles[-1] == role
        if role == "operands" and not last:
            return lambda memory: self._load(memory, tile)
        if role == "compute" or (role == "operands" and last):
            return lambda memory: self._compute(memory, tile)
        return lambda memory: self._store(memory, tile)

    def outputs(self) -> tuple[Array, ...]:
        """Return the outputs, their rows joined."""
        tiles = range(len(self._bounds) - 1)
        ports = range(len(self._module.SCHEMA.outputs))
        if len(tiles) == 1:
            return tuple(self.memory[f"out.{port}.0"] for port in ports)
        return tuple(
            np.concatenate([self.memory[f"out.{port}.{tile}"] for tile in tiles]) for port in ports
        )

    def _operands(self, memory: DeviceMemory, tile: int) -> list[Array]:
        """Return a tile's rows of each input, where it has rows."""
        rows = slice(self._bounds[tile], self._bounds[tile + 1])
        count = len(self._module.SCHEMA.inputs)
        cut = self._split if len(self._bounds) > 2 else [False] * count
        return [
            memory[f"in.{index}"][rows] if cut[index] else memory[f"in.{index}"]
            for index in range(count)
        ]

    def _load(self, memory: DeviceMemory, tile: int) -> Mapping[str, Array]:
        return {
            slot(f"global.in.{index}", tile): value
            for index, value in enumerate(self._operands(memory, tile))
        }

    def _compute(self, memory: DeviceMemory, tile: int) -> Mapping[str, Array]:
        count = len(self._module.SCHEMA.inputs)
        loaded = self._roles[0] == "operands" and len(self._roles) > 1
        values = (
            [memory[slot(f"global.in.{index}", tile)] for index in range(count)]
            if loaded
            else self._operands(memory, tile)
        )
        results = self._result(values)
        if self._roles[-1] == "store":
            return {slot(f"global.out.{port}", tile): value for port, value in enumerate(results)}
        return {f"out.{port}.{tile}": value for port, value in enumerate(results)}

    def _store(self, memory: DeviceMemory, tile: int) -> Mapping[str, Array]:
        if "compute" not in self._roles:  # rows that are moved: from buffer to memory
            results = self._result(
                [
                    memory[slot(f"global.in.{index}", tile)]
                    for index in range(len(self._module.SCHEMA.inputs))
                ]
            )
            return {f"out.{port}.{tile}": value for port, value in enumerate(results)}
        ports = range(len(self._module.SCHEMA.outputs))
        return {f"out.{port}.{tile}": memory[slot(f"global.out.{port}", tile)] for port in ports}

    def _result(self, values: Sequence[Array]) -> tuple[Array, ...]:
        results = self._module.reference(*values, **self._call.attributes)
        return results if isinstance(results, tuple) else (results,)
