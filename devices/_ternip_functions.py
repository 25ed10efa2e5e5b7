"""What the instructions of the MatMul-free core do to its registers, in the operators' integers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgellm import dtypes, ops
from edgellm.device import Array, Call, MatMul
from edgellm.devices._events import DeviceMemory, Effect
from edgellm.errors import DeviceError
from edgellm.ops._integers import exact_matmul
from edgellm.ternary_layouts import GATED_OPERATORS, LAYOUT_OF, TernaryLayout

Place = tuple[int, int]
"""The vector of the result and the vector of what goes in."""
EffectOf = Callable[[str, Place, tuple[int, int, bool], range], Effect]
"""(name of the instruction, its place, (number of the pass, of the instruction, whether it is the
last), rows) -> what it does."""

Unpack = Callable[[Array, int], npt.NDArray[np.int8]]
"""(weights, columns) -> a matrix."""


def _ternary(layout: TernaryLayout) -> Unpack:
    return lambda packed, columns: layout.unpack(_bytes(packed), columns)


UNPACK: Mapping[str, Unpack] = {
    **{
        op_type: _ternary(layout)
        for op_type, layout in LAYOUT_OF.items()
        if op_type not in GATED_OPERATORS
    },
    "ColumnBitLinear": lambda packed, _: dtypes.unpack_ternary_columns(_bytes(packed)),
}
"""How the weights of an operator become the numbers of a matrix."""


@dataclass(frozen=True)
class Function:
    """A call as effects on memory."""

    memory: DeviceMemory
    effect: EffectOf
    results: Callable[[DeviceMemory], tuple[Array, ...]]


def find(call: Call, inputs: Sequence[Array], size: int) -> Function:
    """Return the function of a call on its inputs, for vectors of ``size`` numbers.

    Raises:
        DeviceError: the operator has a cost and no arithmetic.
    """
    if isinstance(call.work, MatMul):
        if call.op_type not in UNPACK:
            raise DeviceError(f"{call.name}: {call.op_type} has no arithmetic here")
        return _product(call, inputs, size)
    return _vectors(call, inputs)


def _product(call: Call, inputs: Sequence[Array], size: int) -> Function:
    """IMPORT a vector, GO through a tile, EXPORT the sums, ADD those of other tiles."""
    x = inputs[0]
    matrix = UNPACK[call.op_type](inputs[1], x.shape[1])
    memory = DeviceMemory({"x": x, "matrix": matrix})
    outputs = -(-len(matrix) // size)

    def effect(name: str, place: Place, turn: tuple[int, int, bool], rows: range) -> Effect:
        vector, tile = place
        columns = slice(tile * size, (tile + 1) * size)
        sums = f"sums {turn[0]} {vector}"
        exported = "exported" if tile else sums

        def load(memory: DeviceMemory) -> Mapping[str, Array]:
            return {"imported": memory["x"][rows.start : rows.stop, columns]}

        def go(memory: DeviceMemory) -> Mapping[str, Array]:
            weights = memory["matrix"][vector * size : (vector + 1) * size, columns]
            return {"product": exact_matmul(_codes(memory["imported"]), _codes(weights).T)}

        def export(memory: DeviceMemory) -> Mapping[str, Array]:
            return {exported: memory["product"]}

        def add(memory: DeviceMemory) -> Mapping[str, Array]:
            return {sums: np.add(_wide(memory[sums]), _wide(memory["exported"]))}

        return {"IMPORT": load, "GO": go, "EXPORT": export, "ADD": add}[name]

    def results(memory: DeviceMemory) -> tuple[Array, ...]:
        found = {name: _wide(memory[name]) for name in memory if name.startswith("sums ")}
        passes = len(found) // outputs
        rows = [
            np.concatenate([found[f"sums {number} {vector}"] for vector in range(outputs)], axis=1)
            for number in range(passes)
        ]
        empty = np.zeros((0, len(matrix)), np.int64)
        return (np.concatenate([empty, *rows]).astype(np.int32),)

    return Function(memory, effect, results)


def _vectors(call: Call, inputs: Sequence[Array]) -> Function:
    """Hand the rows from instruction to instruction; with the last one the result is there."""
    module = ops.find(call.op_type)
    schema = module.SCHEMA
    names = [port.name for port in schema.inputs]
    total = len(inputs[0])
    by_row = [
        port.dims[0] in ("T", "R") and len(array) == total
        for port, array in zip(schema.inputs, inputs, strict=True)
    ]
    memory = DeviceMemory(dict(zip(names, inputs, strict=True)))

    def effect(name: str, place: Place, turn: tuple[int, int, bool], rows: range) -> Effect:
        number, index, is_last = turn
        del name, place

        def run(memory: DeviceMemory) -> Mapping[str, Array]:
            held = np.array(rows) if index == 0 else memory[f"held {number} {index - 1}"]
            if not is_last:
                return {f"held {number} {index}": held}
            arguments = [
                memory[port][held] if split else memory[port]
                for port, split in zip(names, by_row, strict=True)
            ]
            made = module.reference(*arguments, **call.attributes)
            made = made if isinstance(made, tuple) else (made,)
            results = {
                f"{port.name} {number}": array
                for port, array in zip(schema.outputs, made, strict=True)
            }
            # The state after this token is the state before the next.
            return {**results, "past": made[1]} if "past" in names else results

        return run

    def results(memory: DeviceMemory) -> tuple[Array, ...]:
        return tuple(_joined(memory, port.name, port.dims[0] == "T") for port in schema.outputs)

    return Function(memory, effect, results)


def _joined(memory: DeviceMemory, name: str, by_row: bool) -> Array:
    """Return an output of all passes, or that of the last."""
    numbers = [int(key.split()[1]) for key in memory if key.split()[0] == name and " " in key]
    parts = [memory[f"{name} {number}"] for number in sorted(numbers)]
    return np.concatenate(parts) if by_row else parts[-1]


def _bytes(packed: Array) -> npt.NDArray[np.uint8]:
    return packed.astype(np.uint8, copy=False)


def _codes(values: Array) -> npt.NDArray[np.int8]:
    return values.astype(np.int8, copy=False)


def _wide(values: Array) -> npt.NDArray[np.int64]:
    return values.astype(np.int64, copy=False)
