"""One token times blocks of 64 rows of codes of groups, as LLVM.

What the planes choose has 16 bits, what they make together 32; times the scale it has 64.
"""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"
# Numba's internals have no types.

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, register_jitable

from edgellm.runtime.kernels._bit_planes import BLOCK_TOTALS, ROWS
from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._scalar import Int, stack_int64
from edgellm.runtime.kernels.simd._unit import (
    INT16,
    INT32,
    INT64,
    Builder,
    Context,
    Intrinsic,
    Type,
    Value,
    Values,
    VectorUnit,
    load_vector,
    move,
    shuffle,
    splat,
    splat_value,
)
from edgellm.runtime.kernels.vector._plane_blocks import (
    PAIR,
    PlaneBlocks,
    Turn,
    begin_blocks,
    in_order,
    octets_ahead,
)
from edgellm.runtime.kernels.vector._tiles import (
    LINE_BYTES,
    bytes_of,
    open_arrays,
    prefetch,
    row_stride,
)

Codes = npt.NDArray[np.int8]
Planes = npt.NDArray[np.uint8]
Sums = npt.NDArray[np.int32]
Totals = npt.NDArray[np.int64]
Grid = tuple[npt.NDArray[np.int16], npt.NDArray[np.uint8]]


def code_blocks(unit: VectorUnit) -> Callable[..., int]:
    """Return ``whole_blocks`` of ``CodeSums``, from the tables of ``fill_tables``."""
    add_pair, put = _pair_sums(unit), in_order(unit)

    @register_jitable(**PART_POLICY)
    def whole_blocks(
        octets: Planes,
        tables: Codes,
        by_group: tuple[Sums, Sums],
        grid: Grid,
        numbers: tuple[Int, Int],
        totals: Totals,
    ) -> int:
        mixed = stack_int64(BLOCK_TOTALS)
        mixed[:] = 0
        (whole, least), (scale, zero), (size, first) = by_group, grid, numbers
        ahead = octets_ahead(size, octets.shape[2])
        begin_blocks(octets[:PAIR], ahead)
        for block in range(0, octets.shape[0], PAIR):
            some = octets[block : block + PAIR]
            next_blocks = min(PAIR, octets.shape[0] - PAIR - block)
            places = (size, next_blocks, ahead, first + block * ROWS)
            add_pair(some, tables, whole, least, scale, zero, places, mixed[block * ROWS :])
        put(mixed, octets.shape[0] * ROWS, totals)
        return octets.shape[0]

    return whole_blocks


def _pair_sums(unit: VectorUnit) -> Intrinsic:
    """Return the intrinsic ``add(planes, tables, whole, least, scale, zero, places, totals)``.

    places are the octets of a group, how many blocks on the next ones are, how far ahead octets are
    prefetched, and the first row.
    """

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        chosen = [0, 1, 2, 3, 4, 5, 7]
        kinds = types.void(*(signature.args[i] for i in chosen))
        arrays = open_arrays(context, builder, kinds, [args[i] for i in chosen])
        *places, first = cgutils.unpack_tuple(builder, args[6])
        _CodeBlocks(unit, builder, arrays, first).generate(builder, *places)
        return context.get_dummy_value()

    @intrinsic
    def add(
        _: Context,
        planes: Type,
        tables: Type,
        whole: Type,
        least: Type,
        scale: Type,
        zero: Type,
        places: Type,
        totals: Type,
    ) -> Intrinsic:
        return types.void(planes, tables, whole, least, scale, zero, places, totals), generate

    return add


class _CodeBlocks(PlaneBlocks):
    """What rows choose, each plane twice what the one before is, less zeros, times scales."""

    def __init__(self, unit: VectorUnit, builder: Builder, arrays: Values, first: Value) -> None:
        planes, tables, whole, least, scale, zero, totals = arrays
        super().__init__(unit, builder, (planes, tables, totals))
        self._first, self._grid = first, (scale, zero)
        self._by_group = [bytes_of(builder, array) for array in (whole, least)]

    def begin(self, builder: Builder, turn: Turn) -> None:
        """Take the sums of the activations of a group, with its first span."""
        self._rows = [
            move(
                builder,
                bytes_of(builder, array),
                builder.mul(turn.group, row_stride(builder, array)),
            )
            for array in self._grid
        ]
        at = builder.mul(turn.group, INT64(4))
        whole, least = (
            builder.select(
                turn.is_first,
                builder.load(builder.bitcast(move(builder, one, at), INT32.as_pointer())),
                INT32(0),
            )
            for one in self._by_group
        )
        planes = builder.trunc(self.planes, INT32)
        codes = builder.sub(builder.shl(INT32(1), planes), INT32(1))
        start = builder.mul(codes, least)
        self._start, self._whole = (
            splat_value(builder, value, self.unit.lanes) for value in (start, whole)
        )

    def add_plane(
        self, builder: Builder, halves: Values, plane: Value, row: Value, sums: Values
    ) -> None:
        """Add what is chosen, shifted as far as the number of the plane says."""
        kind = self.unit.totals_type
        shift = splat_value(builder, builder.trunc(plane, INT32), kind.count)
        pairs = [builder.bitcast(half, kind) for half in halves]
        parts = [builder.and_(pair, splat(kind, 0xFFFF)) for pair in pairs]
        parts += [builder.lshr(pair, splat(kind, 16)) for pair in pairs]
        for place, part in zip(sums, parts, strict=True):
            shifted = builder.shl(part, shift)
            builder.store(builder.add(builder.load(place), shifted), place)

    def finish(self, builder: Builder, row: Value, sums: Values) -> list[list[Value]]:
        """Return ``scale * (codes . x - zero * whole)``."""
        results = []
        at = builder.add(self._first, row)
        scales, zeros = self._load_scales(builder, at), self._load_zeros(builder, at)
        for place, scale, zero in zip(sums, scales, zeros, strict=True):
            codes = builder.add(builder.load(place), self._start)
            centered = builder.sub(codes, builder.mul(zero, self._whole))
            factors = zip(
                self.unit.widen(builder, centered), self.unit.widen(builder, scale), strict=True
            )
            results.append([builder.mul(*pair) for pair in factors])
        return results

    def _load_scales(self, builder: Builder, row: Value) -> list[Value]:
        """Return the scales of rows 0, 4, 8 ..., of 1, 5 ..., of 2 ..., and of 3 ..., as int32."""
        lanes, kind = self.unit.lanes, self.unit.totals_type
        place = move(builder, self._rows[0], builder.mul(row, INT64(2)))
        self._expect(builder, place, self._grid[0], 2)
        words = ir.VectorType(INT16, 4 * lanes)
        pairs = builder.bitcast(load_vector(builder, place, words), ir.VectorType(INT32, 2 * lanes))
        sixteen, results = splat(kind, 16), []
        for i in range(2):
            own = shuffle(builder, pairs, pairs, range(i, 2 * lanes, 2))
            results.append(builder.ashr(builder.shl(own, sixteen), sixteen))
            results.append(builder.ashr(own, sixteen))
        return results

    def _load_zeros(self, builder: Builder, row: Value) -> list[Value]:
        """Return the zeros of the same rows, as int32."""
        kind = self.unit.totals_type
        place = move(builder, self._rows[1], row)
        self._expect(builder, place, self._grid[1], 1)
        fours = builder.bitcast(load_vector(builder, place, self.unit.bytes_type), kind)
        shifted = (builder.lshr(fours, splat(kind, 8 * i)) for i in range(4))
        return [builder.and_(part, splat(kind, 0xFF)) for part in shifted]

    def _expect(self, builder: Builder, place: Value, array: Value, size: int) -> None:
        """Begin to read what the same rows have of the next group."""
        next_one = move(builder, place, row_stride(builder, array))
        for offset in range(0, self.width * size, LINE_BYTES):
            prefetch(builder, move(builder, next_one, INT64(offset)))
