"""One token times blocks of 64 rows of sums of binary matrices, as LLVM.

What the planes choose and the scales of their rows stay in registers, in 16 bits each; the products
of a group are added up in 32 bits, the groups in 64.
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
    INT8,
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
    call,
    constant_bytes,
    load_vector,
    move,
    splat,
    splat_value,
)
from edgellm.runtime.kernels.vector._look_ups import (
    OCTET,
    OCTET_TABLES,
    SPAN_OCTETS,
    Span,
    sums_of_plane,
)
from edgellm.runtime.kernels.vector._plane_dots import INTO_LEVEL_2
from edgellm.runtime.kernels.vector._tiles import LINE_BYTES, bytes_of, open_arrays, prefetch

BESIDE = 2
"""Vectors of rows that are looked up side by side, in the same tables."""
MOST_PLANES = 4
"""4 * 32,767 * 128 * 127 < 2^31."""
LARGEST_SCALE = 32_767
POWERS = (0, *(1 << exponent for exponent in range(15)))
"""What the lower four bits of a term stand for."""
TERM_BYTES = len(POWERS)

Codes = npt.NDArray[np.int8]
Planes = npt.NDArray[np.uint8]
Sums = npt.NDArray[np.int32]
Totals = npt.NDArray[np.int64]


def shift_blocks(unit: VectorUnit) -> Callable[..., bool]:
    """Return ``add_blocks(planes, tables, magnitudes, terms, (octets, first row), totals)``.

    It writes the totals of up to BLOCKS blocks of rows, and tells whether they are right: not, if a
    scale does not fit in 16 bits, or there are too many planes. planes are (blocks, octets, P, 64),
    tables those of ``fill_tables``, magnitudes those of ``fill_magnitudes``, octets those of a
    group.
    """
    add_block = _block_sums(unit)
    lanes = unit.lanes

    @register_jitable(**PART_POLICY)
    def add_blocks(
        planes: Planes,
        tables: Codes,
        magnitudes: Sums,
        terms: Planes,
        numbers: tuple[Int, Int],
        totals: Totals,
    ) -> bool:
        if planes.shape[2] > MOST_PLANES or planes.shape[0] == 0:
            return False
        mixed = stack_int64(BLOCK_TOTALS)
        mixed[:] = 0
        largest = np.int64(add_block(planes, tables, magnitudes, terms, numbers, mixed))
        for row in range(planes.shape[0] * ROWS):
            part, place = row // (4 * lanes), row % (4 * lanes)
            word, field = place // 4, place % 4
            half = 2 * field + word % 2
            totals[row] = mixed[part * 4 * lanes + half * (lanes // 2) + word // 2]
        return (
            largest < TERM_BYTES
            and terms.shape[2] << max(largest - 1, np.int64(0)) <= LARGEST_SCALE
        )

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
def magnitude(x: Codes) -> np.int32:
    """Return the sum of the magnitudes of activations."""
    total = np.int32(0)
    for column in range(x.shape[0]):
        total = np.int32(total + abs(np.int32(x[column])))
    return total


def _block_sums(unit: VectorUnit) -> Intrinsic:
    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        chosen = [0, 1, 2, 3, 5]
        kinds = types.void(*(signature.args[i] for i in chosen))
        arrays = open_arrays(context, builder, kinds, [args[i] for i in chosen])
        size, first = cgutils.unpack_tuple(builder, args[4])
        return _Block(unit, builder, arrays, first).generate(builder, size)

    @intrinsic
    def add_block(
        _: Context,
        planes: Type,
        tables: Type,
        magnitudes: Type,
        terms: Type,
        numbers: Type,
        totals: Type,
    ) -> Intrinsic:
        arguments = (planes, tables, magnitudes, terms, numbers, totals)
        return types.uint8(*arguments), generate

    return add_block


class _Block:
    """The products of some blocks of 64 rows."""

    def __init__(self, unit: VectorUnit, builder: Builder, arrays: Values, first: Value) -> None:
        self._unit = unit
        planes, terms = arrays[0], arrays[3]
        self._keys, self._tables, self._magnitudes, self._terms, self._totals = (
            bytes_of(builder, array) for array in arrays
        )
        self._terms = move(builder, self._terms, first)
        self._blocks, self._octets, self._planes, _ = cgutils.unpack_tuple(builder, planes.shape)
        self._block_bytes, self._stride, _, _ = cgutils.unpack_tuple(builder, planes.strides)
        self._groups, _, self._count, _ = cgutils.unpack_tuple(builder, terms.shape)
        strides = cgutils.unpack_tuple(builder, terms.strides)
        self._group_bytes, self._plane_bytes, self._term_bytes, _ = strides
        self._words = ir.VectorType(INT16, 2 * unit.lanes)
        self._largest = cgutils.alloca_once(builder, unit.bytes_type)

    def generate(self, builder: Builder, size: Value) -> Value:
        """Add to the totals, return the largest byte of the terms, signs aside.

        The totals are in the order of the registers: of each four rows the first, of even and of
        odd fours, then the others.
        """
        builder.store(ir.Constant(self._unit.bytes_type, None), self._largest)
        span = cgutils.alloca_once_value(builder, self._magnitudes)
        with cgutils.for_range(builder, self._groups) as loop:
            self._fetch(builder, loop.index)
            begin = builder.mul(loop.index, size)
            end = _lesser(builder, builder.add(begin, size), self._octets)
            step = INT64(SPAN_OCTETS)
            with cgutils.for_range_slice(builder, begin, end, step, INT64) as (octet, _):
                magnitude = builder.load(span)
                builder.store(move(builder, magnitude, INT64(4)), span)
                octets = _lesser(builder, builder.sub(end, octet), step)
                self._add_span(builder, loop.index, (octet, octets), magnitude)
        width = 4 * self._unit.lanes
        return call(
            builder, f"llvm.vector.reduce.umax.v{width}i8", INT8, [builder.load(self._largest)]
        )

    def _add_span(
        self, builder: Builder, group: Value, span: tuple[Value, Value], magnitude: Value
    ) -> None:
        """Add the products of a span of a group's octets: its first, and how many."""
        first, octets = span
        width = 4 * self._unit.lanes
        place = builder.bitcast(magnitude, INT32.as_pointer())
        least = builder.trunc(builder.load(place), INT16)
        least = splat_value(builder, least, self._words.count)
        keys = move(builder, self._keys, builder.mul(first, self._stride))
        tables = move(builder, self._tables, builder.mul(first, INT64(OCTET_TABLES)))
        kind = self._unit.totals_type
        sums = [[cgutils.alloca_once(builder, kind) for _ in range(4)] for _ in range(BESIDE)]
        rows, step = builder.mul(self._blocks, INT64(ROWS)), INT64(BESIDE * width)
        ahead = builder.mul(self._stride, octets)
        with cgutils.for_range_slice(builder, INT64(0), rows, step, INT64) as (row, _):
            # Where the rows end within BESIDE vectors, the last are read and multiplied again.
            out = [builder.add(row, INT64(width * i)) for i in range(BESIDE)]
            read = [_lesser(builder, one, builder.sub(rows, INT64(width))) for one in out]
            for place in (place for four in sums for place in four):
                builder.store(ir.Constant(kind, None), place)
            blocks = [self._block(builder, keys, one) for one in read]
            streams = blocks[:: max(1, ROWS // width)]
            with cgutils.for_range(builder, self._planes) as planes:
                byte = builder.mul(planes.index, INT64(ROWS))
                at = [
                    move(builder, block, builder.add(byte, builder.and_(one, INT64(ROWS - 1))))
                    for block, one in zip(blocks, read, strict=True)
                ]
                # All planes together prefetch line after line.
                lines = builder.mul(builder.mul(planes.index, octets), INT64(LINE_BYTES))
                line = builder.add(lines, ahead)
                wanted = [move(builder, stream, line) for stream in streams]
                plane = Span(at, self._stride, octets, tables, wanted)
                found = sums_of_plane(builder, self._unit, plane)
                for halves, one, four in zip(found, read, sums, strict=True):
                    # bits of 1 and 0 stand for +1 and -1
                    signed = [builder.sub(builder.add(half, half), least) for half in halves]
                    scales = self._scales(builder, (group, planes.index, one))
                    self._multiply(builder, signed, scales, four)
            for one, four in zip(out, sums, strict=True):
                self._widen(builder, one, [builder.load(place) for place in four])

    def _block(self, builder: Builder, keys: Value, row: Value) -> Value:
        """Return where the octets of the block of a row begin."""
        return move(builder, keys, builder.mul(builder.udiv(row, INT64(ROWS)), self._block_bytes))

    def _scales(self, builder: Builder, place: tuple[Value, Value, Value]) -> list[Value]:
        """Return the scales of the even rows of a vector, and of the odd."""
        group, plane, row = place
        own = builder.add(row, builder.mul(plane, self._plane_bytes))
        at = move(builder, self._terms, builder.add(own, builder.mul(group, self._group_bytes)))
        sums = [cgutils.alloca_once(builder, self._words) for _ in range(2)]
        for place in sums:
            builder.store(ir.Constant(self._words, None), place)
        with cgutils.for_range(builder, self._count) as loop:
            offset = builder.mul(loop.index, self._term_bytes)
            terms = load_vector(builder, move(builder, at, offset), self._unit.bytes_type)
            for place, part in zip(sums, self._powers(builder, terms), strict=True):
                builder.store(builder.add(builder.load(place), part), place)
        return [builder.load(place) for place in sums]

    def _fetch(self, builder: Builder, group: Value) -> None:
        """Begin to read the terms of the next group, or rows: of each row of memory all at once."""
        ahead = builder.add(group, INT64(1))
        inside = builder.icmp_signed("<", ahead, self._groups)
        next_rows = builder.mul(self._blocks, INT64(ROWS))
        own = builder.mul(ahead, self._group_bytes)
        at = move(builder, self._terms, builder.select(inside, own, next_rows))
        with cgutils.for_range(builder, self._planes) as planes:
            plane = move(builder, at, builder.mul(planes.index, self._plane_bytes))
            with cgutils.for_range(builder, self._count) as terms:
                term = move(builder, plane, builder.mul(terms.index, self._term_bytes))
                with cgutils.for_range(builder, self._blocks) as blocks:
                    line = builder.mul(blocks.index, INT64(LINE_BYTES))
                    prefetch(builder, move(builder, term, line), INTO_LEVEL_2)

    def _powers(self, builder: Builder, terms: Value) -> list[Value]:
        """Return the signed powers of two of even bytes, and of odd."""
        kind, words = terms.type, self._words
        magnitudes = builder.and_(terms, splat(kind, 127))
        name = f"llvm.umax.v{kind.count}i8"
        largest = call(builder, name, kind, [builder.load(self._largest), magnitudes])
        builder.store(largest, self._largest)
        keys = builder.and_(terms, splat(kind, len(POWERS) - 1))
        low, high = (self._look_up(builder, part, keys) for part in (0, 8))
        eight, fifteen = splat(words, 8), splat(words, 15)
        lower, upper = splat(words, 0x00FF), splat(words, 0xFF00)
        even = builder.or_(builder.and_(low, lower), builder.shl(high, eight))
        odd = builder.or_(builder.lshr(low, eight), builder.and_(high, upper))
        pairs = builder.bitcast(terms, words)
        signs = (builder.ashr(builder.shl(pairs, eight), fifteen), builder.ashr(pairs, fifteen))
        return [
            builder.sub(builder.xor(power, sign), sign)
            for power, sign in zip((even, odd), signs, strict=True)
        ]

    def _look_up(self, builder: Builder, part: int, keys: Value) -> Value:
        """Return the eight bits of POWERS from ``part`` on, as pairs of bytes."""
        entries = [power >> part & 255 for power in POWERS]
        table = constant_bytes(entries * (keys.type.count // len(entries)))
        return builder.bitcast(self._unit.shuffle_bytes(builder, table, keys), self._words)

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
