"""One token times blocks of 64 rows of sums of binary matrices, as LLVM.

What the planes choose stays in registers. It has 16 bits, as the scales of the rows have; the
products of a group are added up in 32 bits, the groups in 64.
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
    splat,
    splat_value,
)
from edgellm.runtime.kernels.vector._look_up_tables import OCTET, OCTET_TABLES, SPAN_OCTETS
from edgellm.runtime.kernels.vector._look_ups import BESIDE, Span, sums_of_plane
from edgellm.runtime.kernels.vector._plane_dots import INTO_LEVEL_2
from edgellm.runtime.kernels.vector._shift_scales import PAIR
from edgellm.runtime.kernels.vector._tiles import LINE_BYTES, bytes_of, open_arrays, prefetch

AHEAD_LINES = 64
"""How far ahead planes are prefetched at least: a span of 128 columns and 4 bits."""
MOST_PLANES = 4
"""4 * 32,767 * 128 * 127 < 2^31: scales are LARGEST_SCALE at most."""

Codes = npt.NDArray[np.int8]
Planes = npt.NDArray[np.uint8]
Sums = npt.NDArray[np.int32]
Totals = npt.NDArray[np.int64]


def shift_blocks(unit: VectorUnit) -> Callable[..., None]:
    """Return ``add_blocks(planes, tables, magnitudes, scales, (octets, next, ahead), totals)``.

    It writes the totals of up to PAIR blocks of rows and MOST_PLANES planes. planes are (blocks,
    octets, P, 64), tables those of ``fill_tables``, magnitudes those of ``fill_magnitudes``, scales
    those of ``fill_scales``. octets are those of a group; the next blocks are so many on; so many
    octets ahead are prefetched (``octets_ahead``).
    """
    add_block = _block_sums(unit)
    lanes = unit.lanes

    @register_jitable(**PART_POLICY)
    def add_blocks(
        planes: Planes,
        tables: Codes,
        magnitudes: Sums,
        scales: Codes,
        numbers: tuple[Int, Int, Int],
        totals: Totals,
    ) -> None:
        mixed = stack_int64(BLOCK_TOTALS)
        mixed[:] = 0
        add_block(planes, tables, magnitudes, scales, numbers, mixed)
        for row in range(planes.shape[0] * ROWS):
            part, place = row // (4 * lanes), row % (4 * lanes)
            word, field = place // 4, place % 4
            half = 2 * field + word % 2
            totals[row] = mixed[part * 4 * lanes + half * (lanes // 2) + word // 2]

    return add_blocks


@register_jitable(**PART_POLICY)
def fill_magnitudes(x: Codes, group_size: Int, magnitudes: Sums) -> None:
    """Write the sum of the magnitudes of each span of a group: at most SPAN_OCTETS octets."""
    i = 0
    for group in range(0, x.shape[0], group_size):
        own = x[group : group + group_size]
        for span in range(0, own.shape[0], SPAN_OCTETS * OCTET):
            magnitudes[i] = magnitude(own[span : span + SPAN_OCTETS * OCTET])
            i += 1


@register_jitable(**PART_POLICY)
def span_count(columns: Int, size: Int) -> Int:
    """Return how many sums ``fill_magnitudes`` writes for a row of groups of a size, or more."""
    span = SPAN_OCTETS * OCTET
    return ((columns + size - 1) // size) * ((min(size, columns) + span - 1) // span)


@register_jitable(**PART_POLICY)
def magnitude(x: Codes) -> np.int32:
    """Return the sum of the magnitudes of activations."""
    total = np.int32(0)
    for column in range(x.shape[0]):
        total = np.int32(total + abs(np.int32(x[column])))
    return total


@register_jitable(**PART_POLICY)
def octets_ahead(octets: Int, planes: Int) -> Int:
    """Return how many octets ahead are prefetched, in groups of so many: whole spans."""
    span = min(octets, SPAN_OCTETS)
    return span * max(AHEAD_LINES // (span * planes), 1)


@intrinsic
def begin_blocks(_: Context, planes: Type, octets: Type) -> Intrinsic:
    """``begin_blocks(planes, octets)``: begin to read the first octets of some blocks."""

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        (array,) = open_arrays(context, builder, types.void(signature.args[0]), args[:1])
        blocks, _, planes, _ = cgutils.unpack_tuple(builder, array.shape)
        size = cgutils.unpack_tuple(builder, array.strides)[0]
        lines = builder.mul(args[1], planes)
        with cgutils.for_range(builder, blocks) as loop:
            keys = move(builder, bytes_of(builder, array), builder.mul(loop.index, size))
            with cgutils.for_range(builder, lines) as inner:
                line = builder.mul(inner.index, INT64(LINE_BYTES))
                prefetch(builder, move(builder, keys, line), INTO_LEVEL_2)
        return context.get_dummy_value()

    return types.void(planes, octets), generate


def _block_sums(unit: VectorUnit) -> Intrinsic:
    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        chosen = [0, 1, 2, 3, 5]
        kinds = types.void(*(signature.args[i] for i in chosen))
        arrays = open_arrays(context, builder, kinds, [args[i] for i in chosen])
        _Block(unit, builder, arrays).generate(builder, *cgutils.unpack_tuple(builder, args[4]))
        return context.get_dummy_value()

    @intrinsic
    def add_block(
        _: Context,
        planes: Type,
        tables: Type,
        magnitudes: Type,
        scales: Type,
        numbers: Type,
        totals: Type,
    ) -> Intrinsic:
        return types.void(planes, tables, magnitudes, scales, numbers, totals), generate

    return add_block


class _Block:
    """The products of some blocks of 64 rows."""

    def __init__(self, unit: VectorUnit, builder: Builder, arrays: Values) -> None:
        self._unit, self._words = unit, ir.VectorType(INT16, 2 * unit.lanes)
        planes = arrays[0]
        self._keys, self._tables, magnitudes, self._scales, self._totals = (
            bytes_of(builder, array) for array in arrays
        )
        self._magnitude = cgutils.alloca_once_value(builder, magnitudes)
        self._blocks, self._octets, self._planes, _ = cgutils.unpack_tuple(builder, planes.shape)
        self._block_bytes, self._stride, _, _ = cgutils.unpack_tuple(builder, planes.strides)
        self._width = 4 * self._unit.lanes
        self._in_one_block = ROWS % (BESIDE * self._width) == 0

    def generate(self, builder: Builder, size: Value, next_blocks: Value, ahead: Value) -> None:
        """Add to the totals; size are the octets of a group, the rest as for ``add_blocks``.

        The totals are in the order of the registers: of each four rows the first, of even and of
        odd fours, then the others.
        """
        self._ahead = ahead
        self._next_bytes = builder.mul(next_blocks, self._block_bytes)
        group = cgutils.alloca_once_value(builder, INT64(0))
        step = INT64(SPAN_OCTETS)
        with cgutils.for_range_slice(builder, INT64(0), self._octets, size, INT64) as (begin, _):
            end = _lesser(builder, builder.add(begin, size), self._octets)
            with cgutils.for_range_slice(builder, begin, end, step, INT64) as (octet, _):
                octets = _lesser(builder, builder.sub(end, octet), step)
                self._add_span(builder, builder.load(group), (octet, octets))
                next_one = move(builder, builder.load(self._magnitude), INT64(4))
                builder.store(next_one, self._magnitude)
            builder.store(builder.add(builder.load(group), INT64(1)), group)

    def _add_span(self, builder: Builder, group: Value, span: tuple[Value, Value]) -> None:
        """Add the products of a span of a group's octets: its first, and how many."""
        first, octets = span
        width, kind = self._width, self._unit.totals_type
        magnitude = self._splat_magnitude(builder)
        keys = move(builder, self._keys, builder.mul(first, self._stride))
        tables = move(builder, self._tables, builder.mul(first, INT64(OCTET_TABLES)))
        sums = [[cgutils.alloca_once(builder, kind) for _ in range(4)] for _ in range(BESIDE)]
        rows, step = builder.mul(self._blocks, INT64(ROWS)), INT64(BESIDE * width)
        ahead = self._wanted(builder, first)
        with cgutils.for_range_slice(builder, INT64(0), rows, step, INT64) as (row, _):
            out = [builder.add(row, INT64(width * i)) for i in range(BESIDE)]
            read = out if self._in_one_block else self._clamp(builder, out, rows)
            for place in (place for four in sums for place in four):
                builder.store(ir.Constant(kind, None), place)
            blocks = [self._block(builder, keys, one) for one in read]
            streams = blocks[:1] if self._in_one_block else blocks
            with cgutils.for_range(builder, self._planes) as planes:
                byte = builder.mul(planes.index, INT64(ROWS))
                at = self._at(builder, blocks, read, byte)
                # All planes together prefetch line after line.
                lines = builder.mul(builder.mul(planes.index, octets), INT64(LINE_BYTES))
                line = builder.add(lines, ahead)
                wanted = [move(builder, stream, line) for stream in streams]
                plane = Span(at, self._stride, octets, tables, wanted)
                found = sums_of_plane(builder, self._unit, plane)
                for halves, one, four in zip(found, read, sums, strict=True):
                    # bits of 1 and 0 stand for +1 and -1
                    signed = [builder.sub(builder.add(half, half), magnitude) for half in halves]
                    scales = self._load_scales(builder, (group, planes.index, one))
                    self._multiply(builder, signed, scales, four)
            for one, four in zip(out, sums, strict=True):
                self._widen(builder, one, [builder.load(place) for place in four])

    def _clamp(self, builder: Builder, out: list[Value], rows: Value) -> list[Value]:
        """Return what is read where the rows end within BESIDE vectors: the last, once more."""
        return [_lesser(builder, one, builder.sub(rows, INT64(self._width))) for one in out]

    def _at(self, builder: Builder, blocks: Values, rows: Values, byte: Value) -> list[Value]:
        """Return where the keys of vectors of rows are, so many bytes behind those of octets."""
        at = [
            move(builder, block, builder.add(byte, builder.and_(row, INT64(ROWS - 1))))
            for block, row in zip(blocks, rows, strict=True)
        ]
        if self._in_one_block:  # one pointer, of which LLVM keeps one register and not BESIDE
            return [move(builder, at[0], INT64(self._width * i)) for i in range(BESIDE)]
        return at

    def _wanted(self, builder: Builder, first: Value) -> Value:
        """Return how far ahead of an octet keys are wanted: of these blocks, or the next ones."""
        end = builder.add(first, self._ahead)
        inside = builder.icmp_signed("<", end, self._octets)
        distance = builder.mul(self._ahead, self._stride)
        to_next = builder.sub(self._next_bytes, builder.mul(self._octets, self._stride))
        return builder.select(inside, distance, builder.add(distance, to_next))

    def _splat_magnitude(self, builder: Builder) -> Value:
        place = builder.bitcast(builder.load(self._magnitude), INT32.as_pointer())
        magnitude = builder.trunc(builder.load(place), INT16)
        return splat_value(builder, magnitude, self._words.count)

    def _block(self, builder: Builder, keys: Value, row: Value) -> Value:
        """Return where the octets of the block of a row begin."""
        return move(builder, keys, builder.mul(builder.udiv(row, INT64(ROWS)), self._block_bytes))

    def _load_scales(self, builder: Builder, place: tuple[Value, Value, Value]) -> list[Value]:
        """Return the scales of a vector of rows, as ``fill_scales`` wrote them."""
        group, plane, row = place
        vectors = INT64(PAIR * ROWS // self._width)
        number = builder.add(builder.mul(group, vectors), builder.udiv(row, INT64(self._width)))
        number = builder.add(builder.mul(number, self._planes), plane)
        at = move(builder, self._scales, builder.mul(number, INT64(2 * self._width)))
        places = (move(builder, at, INT64(self._width * i)) for i in range(2))
        return [load_vector(builder, one, self._words) for one in places]

    def _multiply(
        self, builder: Builder, signed: list[Value], scales: list[Value], sums: list[Value]
    ) -> None:
        """Add the products of pairs of int16: the lower ones of even and odd, then the upper."""
        kind = self._unit.totals_type
        sixteen = splat(kind, 16)
        for i, pair in enumerate(zip(signed, scales, strict=True)):
            pairs = [builder.bitcast(vector, kind) for vector in pair]
            lower = [builder.ashr(builder.shl(vector, sixteen), sixteen) for vector in pairs]
            upper = [builder.ashr(vector, sixteen) for vector in pairs]
            for place, factors in ((sums[i], lower), (sums[2 + i], upper)):
                product = builder.mul(*factors)
                builder.store(builder.add(builder.load(place), product), place)

    def _widen(self, builder: Builder, row: Value, sums: list[Value]) -> None:
        """Add sums of 32 bits to the totals: even lanes, then odd ones."""
        half = self._unit.lanes // 2
        wide = ir.VectorType(INT64, half)
        bits = splat(wide, 32)
        base = move(builder, self._totals, builder.mul(row, INT64(8)))
        for i, sum_ in enumerate(sums):
            pairs = builder.bitcast(sum_, wide)
            even = builder.ashr(builder.shl(pairs, bits), bits)
            for j, part in enumerate((even, builder.ashr(pairs, bits))):
                at = move(builder, base, INT64(8 * half * (2 * i + j)))
                place = builder.bitcast(at, wide.as_pointer())
                builder.store(builder.add(builder.load(place, align=8), part), place, align=8)


def _lesser(builder: Builder, a: Value, b: Value) -> Value:
    return builder.select(builder.icmp_signed("<", a, b), a, b)
