"""Products on FlightLLM: weights decoded to int8 on the way into a buffer, tiles, int32 sums.

Weights with a scale a group are dequantised after the sum of the group, by MISC; ShiftAddLinear
goes through the array plane after plane. All of it is exact, and rounded once, at the end.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellm.device import Array, Call, MatMul
from edgellm.devices import _flightllm_sparse as sparse
from edgellm.devices._events import DeviceMemory, Effect
from edgellm.devices._flightllm_isa import slot
from edgellm.devices._flightllm_schedule import Tiling
from edgellm.dtypes import (
    unpack_bit_planes,
    unpack_planes,
    unpack_ternary_columns,
)
from edgellm.errors import DeviceError
from edgellm.int4 import unpack_int4
from edgellm.ops._bit_planes import rounded
from edgellm.ops._integers import INT32_MAX, Int64, exact_matmul, requantize, saturate
from edgellm.ops._shift_alphas import unpack_alphas
from edgellm.ternary_layouts import GATED_OPERATORS, LAYOUT_OF, TernaryLayout

Numbers = npt.NDArray[Any]
Decoder = Callable[[Sequence[Numbers]], Numbers]


def _group_codes(inputs: Sequence[Numbers]) -> Numbers:
    """Return codes of P bits, moved to the middle of int8: (1, N, K)."""
    planes, scale = inputs[1], inputs[2]
    bits = unpack_bit_planes(planes, scale.shape[1], inputs[0].shape[1]).astype(np.int64)
    codes = np.tensordot(1 << np.arange(len(bits)), bits, axes=1)
    return (codes - (1 << (len(bits) - 1)))[None].astype(np.int8)


def _signs(inputs: Sequence[Numbers]) -> Numbers:
    """Return +1 and -1 of each plane: (P, N, K)."""
    bits = unpack_bit_planes(inputs[1], len(inputs[2]), inputs[0].shape[1])
    return 2 * bits.astype(np.int8) - 1


def _ternary(layout: TernaryLayout) -> Decoder:
    return lambda inputs: layout.unpack(inputs[1], inputs[0].shape[1])[None]


DECODERS: dict[str, Decoder] = {
    **{op_type: _ternary(layout) for op_type, layout in LAYOUT_OF.items()},
    "ColumnBitLinear": lambda inputs: unpack_ternary_columns(inputs[1])[None],
    "Int8Linear": lambda inputs: inputs[1][None],
    "LogitsHead": lambda inputs: inputs[2][None],
    "PlanarLogitsHead": lambda inputs: unpack_planes(inputs[2], inputs[3])[None],
    "Int4LogitsHead": lambda inputs: unpack_int4(inputs[2])[None],
    "GroupLinear": _group_codes,
    "ShiftAddLinear": _signs,
}
"""How the weights of an operator become int8: (planes, N, K)."""
LOGIT_ROWS = {"LogitsHead": 4, "Int4LogitsHead": 4, "PlanarLogitsHead": 6}
"""Which input says what rows are scored; the multiplier is the input in front of it."""


class ProductEffects:
    """What the instructions of one product compute."""

    def __init__(
        self, call: Call, inputs: Sequence[Numbers], tiling: Tiling, roles: Collection[str]
    ) -> None:
        """Put weights and activations into memory.

        Raises:
            DeviceError: the operator's arithmetic is not known here.
        """
        if call.op_type not in DECODERS or not isinstance(call.work, MatMul):
            raise DeviceError(
                f"{call.name}: {call.op_type} has no arithmetic here; known are "
                f"{', '.join(DECODERS)}"
            )
        self._call, self._inputs, self._tiling = call, inputs, tiling
        self._stores, self._loads = "store" in roles, "activations" in roles
        self._sparse = bool(call.work.index_bits)
        self._group = call.work.group_size
        rows = LOGIT_ROWS.get(call.op_type)
        x = inputs[0] if rows is None else inputs[0][inputs[rows]]
        self._shape = (len(x), call.work.n)
        self.memory = DeviceMemory({"hbm.x": x, "hbm.weights": DECODERS[call.op_type](inputs)})
        self._post = call.op_type in GATED_OPERATORS or rows is not None

    def effect(self, pipeline: int, role: str, tile: int) -> Effect:
        """Return what a step of a tile does; pipelines of a block of rows follow one another."""
        if role == "post":
            return self._finish(*divmod(tile, self._tiling.n_tiles))
        # Before a block of rows, its activations are loaded, if they do not lie on the chip.
        block = pipeline // 2 if self._loads else pipeline
        if role == "activations":
            return self._activations(block)
        steps: dict[str, Callable[[int, int], Effect]] = {
            "weights": self._weights,
            "multiply": self._multiply,
            "scale": self._scale,
            "store": self._store,
        }
        return steps[role](block, tile)

    def outputs(self) -> tuple[Array, ...]:
        """Return the accumulators, or what MISC made of them."""
        out = np.empty(self._shape, np.int32)
        name = "post" if self._post else "out"
        for block in range(self._tiling.row_blocks):
            for number in range(self._tiling.n_tiles):
                place = (self._rows(block), self._columns(number))
                out[place] = self.memory[f"{name}.{block}.{number}"]
        return (out,)

    def _activations(self, block: int) -> Effect:
        return lambda memory: {"A.x": memory["hbm.x"][self._rows(block)]}

    def _weights(self, block: int, tile: int) -> Effect:
        del block
        number, inputs = self._place(tile)

        def load(memory: DeviceMemory) -> Mapping[str, Array]:
            codes = memory["hbm.weights"][:, self._columns(number), inputs]
            if not self._sparse:
                return {slot("weights", tile): codes}
            stored = sparse.encode(codes[0], self._tiling.kept)
            return {
                slot("weights", tile): stored.values,
                slot("meta", tile): stored.meta,
                slot("fsb", tile): stored.kept,
            }

        return load

    def _multiply(self, block: int, tile: int) -> Effect:
        number, inputs = self._place(tile)

        def multiply(memory: DeviceMemory) -> Mapping[str, Array]:
            kept: Numbers = memory["A.x"] if self._loads else memory["hbm.x"][self._rows(block)]
            x = kept[:, inputs]
            if self._group:
                return {
                    slot("sums", tile): self._group_sums(x, memory[slot("weights", tile)], inputs)
                }
            product = self._product(memory, x, tile, number)
            if inputs.start:
                before: Numbers = memory[self._out(block, number)]
                product = before + product
            return {self._out(block, number): product}

        return multiply

    def _product(self, memory: DeviceMemory, x: Numbers, tile: int, number: int) -> Int64:
        weights: Numbers = memory[slot("weights", tile)]
        if not self._sparse:
            return exact_matmul(x, weights[0].T)
        meta: Numbers = memory[slot("meta", tile)]
        kept: Numbers = memory[slot("fsb", tile)]
        columns = self._columns(number)
        stored = sparse.SparseTile(weights, meta, kept, columns.stop - columns.start)
        return sparse.multiply(x, stored)

    def _group_sums(self, x: Numbers, weights: Numbers, inputs: slice) -> Int64:
        """Return (planes + 1, groups in the tile, rows, N): sums of products; last, of inputs."""
        parts = [
            np.stack([exact_matmul(x[:, cut], plane[:, cut].T) for cut in self._cuts(inputs)])
            for plane in weights
        ]
        shape = parts[0].shape
        sums = np.stack([x[:, cut].astype(np.int64).sum(axis=1) for cut in self._cuts(inputs)])
        return np.stack([*parts, np.broadcast_to(sums[:, :, None], shape)])

    def _cuts(self, inputs: slice) -> list[slice]:
        """Return the inputs of each group, counted from the first of the tile."""
        edges = [inputs.start]
        while edges[-1] < inputs.stop:
            edges.append(min((edges[-1] // self._group + 1) * self._group, inputs.stop))
        begin = inputs.start
        return [slice(a - begin, b - begin) for a, b in pairwise(edges)]

    def _scale(self, block: int, tile: int) -> Effect:
        number, inputs = self._place(tile)
        last = inputs.stop == self._inputs[0].shape[1]

        def scale(memory: DeviceMemory) -> Mapping[str, Array]:
            sums: Numbers = memory[slot("sums", tile)]
            total = self._scaled(sums, inputs, self._columns(number))
            if inputs.start:
                before: Numbers = memory[f"wide.{number % 2}"]
                total = total + before
            if not last:
                return {f"wide.{number % 2}": total}
            return {self._out(block, number): rounded(total, self._call.attributes["shift"])}

        return scale

    @cached_property
    def _alphas(self) -> Int64:
        """(G, P, N)."""
        planes, terms = self._inputs[1].shape[2], self._call.attributes["terms"]
        return unpack_alphas(self._inputs[2], planes, terms)

    def _scaled(self, sums: Int64, inputs: slice, columns: slice) -> Int64:
        """Return the sum over the groups of a tile, each times its scales."""
        first = inputs.start // self._group
        groups = slice(first, first + sums.shape[1])
        products, of_inputs = sums[:-1], sums[-1]
        if self._call.op_type == "ShiftAddLinear":
            alphas = self._alphas[groups, :, columns]
            return (products * alphas.transpose(1, 0, 2)[:, :, None]).sum(axis=(0, 1))
        scale, zero = (item[groups, columns].astype(np.int64)[:, None] for item in self._inputs[2:])
        middle = 1 << (self._inputs[1].shape[2] - 1)
        return ((products[0] - (zero - middle) * of_inputs) * scale).sum(axis=0)

    def _store(self, block: int, tile: int) -> Effect:
        number, inputs = self._place(tile)

        def store(memory: DeviceMemory) -> Mapping[str, Array]:
            if inputs.stop < self._inputs[0].shape[1]:
                return {}
            return {f"out.{block}.{number}": memory[self._out(block, number)]}

        return store

    def _finish(self, block: int, number: int) -> Effect:
        rows, columns = self._rows(block), self._columns(number)

        def finish(memory: DeviceMemory) -> Mapping[str, Array]:
            acc = memory[f"out.{block}.{number}"]
            if self._call.op_type in GATED_OPERATORS:
                gate = self._inputs[2][rows, columns]
                return {f"post.{block}.{number}": np.where(gate > 0, acc, 0)}
            at = LOGIT_ROWS[self._call.op_type]
            scale = self._inputs[1][self._inputs[at]][rows]
            multiplier = self._inputs[at - 1][columns].astype(np.int64)
            wide = requantize(
                acc.astype(np.int64), scale, multiplier, self._call.attributes["shift"]
            )
            return {f"post.{block}.{number}": saturate(wide, INT32_MAX)}

        return finish

    def _out(self, block: int, number: int) -> str:
        """Return where sums collect: two places if they are stored, else one for each tile."""
        return slot("global.sums", number) if self._stores else f"out.{block}.{number}"

    def _place(self, tile: int) -> tuple[int, slice]:
        """Return which outputs, and which inputs, are in a tile."""
        tiling, total = self._tiling, self._inputs[0].shape[1]
        if tiling.unit == "MM":
            return tile, slice(0, total)
        number, part = divmod(tile, tiling.k_slices)
        return number, slice(min(part * tiling.k, total), min((part + 1) * tiling.k, total))

    def _rows(self, block: int) -> slice:
        begin = block * self._tiling.rows
        return slice(begin, min(begin + self._tiling.rows, self._shape[0]))

    def _columns(self, number: int) -> slice:
        begin = number * self._tiling.n
        return slice(begin, min(begin + self._tiling.n, self._shape[1]))
