"""Products of one token with planes of bits, as LLVM: bytes of turned bits times eight columns.

Fields stay where they are in their bytes: the sums of each are shifted back in the end.
"""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"
# Numba's internals have no types.

from collections.abc import Sequence

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from edgellm.runtime import cpu
from edgellm.runtime.kernels._bit_planes import BLOCKS, ROWS
from edgellm.runtime.kernels.simd._lane_sums import shift_back
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
    load_vector,
    move,
    repeat,
    shuffle,
    splat,
    splat_value,
)
from edgellm.runtime.kernels.vector._codes import LANE, OCTET, Turned
from edgellm.runtime.kernels.vector._tiles import (
    LINE_BYTES,
    NEAR,
    bytes_of,
    open_arrays,
    prefetch,
    row_stride,
)

MOST_PLANES = 4
"""At once; then a byte has the fields of two rows or more."""
BESIDE = 2
"""Blocks that are multiplied side by side, octet by octet."""
BY_TURNS = {"znver4": BESIDE, "znver5": BESIDE}.get(cpu.host().name, BLOCKS)
"""Blocks that one token takes by turns, a group of each. (Zen 5 likes one place after the other: 2
take 0.74 to 0.88 of the time of 4 with 4 bits, 8 take 0.88 to 1.09; 1, not side by side, takes 0.96
to 1.15 of that of 2. Zen 4: 2 take 0.77 to 0.83, and 0.61 to 0.64 with the second cache prefetched
into; 4 with that 0.71 to 0.77.)"""
AHEAD_BYTES = {"znver5": 3072}.get(cpu.host().name, 1536)
"""How far ahead weights are prefetched, into the first cache. (A server of 2023, one core, 4096 x
4096 from memory. With two blocks side by side 1.16 times as fast with 4 bits and 1.22 with 2 as one
block that prefetches 8 KiB ahead into the second cache; 512 bytes ahead 1.10 and 1.10. One block
with this distance 1.03 and 1.07, not prefetched 0.7. Zen 5 takes 0.95 to 0.99 of the time with
twice that, 1.04 to 1.14 with 8 KiB. Zen 4 prefetches into the second, see BY_TURNS: with 4 bits 2
to 12 KiB ahead take 1.14 to 1.4 times as long, 0.5 to 1 KiB, or no prefetches, as long.)"""
FEW_AHEAD_BYTES = {"znver4": 3072}.get(cpu.host().name, AHEAD_BYTES)
"""As far with FEW_PLANES at most. (Zen 4: with 2 bits 0.81 to 0.97 of the time of 1.5 KiB.)"""
FEW_PLANES = 2
INTO_LEVEL_2 = 2
"""Where scales and terms of the next group are prefetched: all at once, and not wanted at once."""


def plane_dots(unit: VectorUnit) -> Intrinsic:
    """Return the intrinsic ``dots(keys, stride, octets, planes, x, sums)``.

    keys is the first byte of 1 to MOST_PLANES planes, stride the bytes from octet to octet. For
    each of 64 rows the product of its codes and of the eight columns an octet from x on is written
    to ``sums``.
    """

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        chosen = [0, 4, 5]
        kinds = types.void(*(signature.args[i] for i in chosen))
        keys, x, sums = open_arrays(context, builder, kinds, [args[i] for i in chosen])
        stride, octets, count = args[1:4]
        for planes in range(1, MOST_PLANES + 1):
            with builder.if_then(builder.icmp_unsigned("==", count, INT64(planes))):
                for begin in range(0, ROWS, 4 * unit.lanes):
                    at = move(builder, bytes_of(builder, keys), INT64(begin))
                    part = _Part(unit, Turned(planes), at, stride)
                    (totals,) = _multiply(builder, [part], octets, bytes_of(builder, x))
                    part.store(
                        builder, totals, move(builder, bytes_of(builder, sums), INT64(4 * begin))
                    )
        return context.get_dummy_value()

    @intrinsic
    def dots(
        _: Context, keys: Type, stride: Type, octets: Type, planes: Type, x: Type, sums: Type
    ) -> Intrinsic:
        return types.void(keys, stride, octets, planes, x, sums), generate

    return dots


def block_dots(unit: VectorUnit) -> Intrinsic:
    """Return the intrinsic ``dots(planes, x, whole, scale, zero, numbers, totals)``.

    For blocks of 64 rows, a multiple of BESIDE, planes (blocks, octets, 1 to MOST_PLANES, 64): add
    the sum over groups of ``scale * (codes . x - zero * whole)`` to totals. whole are the sums of x
    by group; numbers are the octets of a group, and the first row's column in scale and zero
    (G, N).
    """

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        chosen = [0, 1, 2, 3, 4, 6]
        kinds = types.void(*(signature.args[i] for i in chosen))
        arrays = open_arrays(context, builder, kinds, [args[i] for i in chosen])
        size, first = cgutils.unpack_tuple(builder, args[5])
        count = cgutils.unpack_tuple(builder, arrays[0].shape)[2]
        for planes in range(1, MOST_PLANES + 1):
            with builder.if_then(builder.icmp_unsigned("==", count, INT64(planes))):
                _BlockDots(unit, planes, builder, arrays).generate(builder, size, first)
        return context.get_dummy_value()

    @intrinsic
    def dots(
        _: Context,
        planes: Type,
        x: Type,
        whole: Type,
        scale: Type,
        zero: Type,
        numbers: Type,
        totals: Type,
    ) -> Intrinsic:
        return types.void(planes, x, whole, scale, zero, numbers, totals), generate

    return dots


class _BlockDots:
    """The products of some blocks of 64 rows, group by group."""

    def __init__(self, unit: VectorUnit, planes: int, builder: Builder, arrays: Values) -> None:
        self._unit, self._planes = unit, planes
        self._keys, self._x, self._whole, self._scale, self._zero, self._totals = (
            bytes_of(builder, array) for array in arrays
        )
        self._blocks, self._octets = cgutils.unpack_tuple(builder, arrays[0].shape)[:2]
        self._block_bytes, self._stride = cgutils.unpack_tuple(builder, arrays[0].strides)[:2]
        self._groups = cgutils.unpack_tuple(builder, arrays[3].shape)[0]
        self._scale_bytes, self._zero_bytes = (row_stride(builder, array) for array in arrays[3:5])
        scratch = cgutils.alloca_once(builder, ir.ArrayType(INT32, BESIDE * ROWS))
        self._sums = builder.bitcast(scratch, INT8.as_pointer())

    def generate(self, builder: Builder, size: Value, first: Value) -> None:
        """Add to the totals; size are the octets of a group."""
        with cgutils.for_range(builder, self._groups) as groups:
            self._fetch(builder, groups.index, first)
            begin = builder.mul(groups.index, size)
            left = builder.sub(self._octets, begin)
            some = builder.select(builder.icmp_signed("<", left, size), left, size)
            pairs = builder.udiv(self._blocks, INT64(BESIDE))
            with cgutils.for_range(builder, pairs) as loop:
                block = builder.mul(loop.index, INT64(BESIDE))
                self._add_blocks(builder, groups.index, (begin, some), block, first)

    def _add_blocks(
        self, builder: Builder, group: Value, octets: tuple[Value, Value], block: Value, row: Value
    ) -> None:
        """Add a group's products of BESIDE blocks: octets are its first, and how many."""
        begin, count = octets
        columns = move(builder, self._x, builder.mul(begin, INT64(OCTET)))
        blocks = [builder.add(block, INT64(i)) for i in range(BESIDE)]
        for within in range(0, ROWS, 4 * self._unit.lanes):
            parts = []
            for one in blocks:
                keys = move(builder, self._keys, builder.mul(one, self._block_bytes))
                keys = move(builder, keys, builder.mul(begin, self._stride))
                at = move(builder, keys, INT64(within))
                parts.append(_Part(self._unit, Turned(self._planes), at, self._stride))
            for i, totals in enumerate(_multiply(builder, parts, count, columns)):
                at = move(builder, self._sums, INT64(4 * (ROWS * i + within)))
                parts[i].store(builder, totals, at)
        for i, one in enumerate(blocks):
            sums = move(builder, self._sums, INT64(4 * ROWS * i))
            first = builder.add(row, builder.mul(one, INT64(ROWS)))
            out = move(builder, self._totals, builder.mul(one, INT64(8 * ROWS)))
            self._add_scaled(builder, group, sums, first, out)

    def _fetch(self, builder: Builder, group: Value, row: Value) -> None:
        """Begin to read the scales and zeros of the next group, or rows: all at once."""
        ahead = builder.add(group, INT64(1))
        inside = builder.icmp_signed("<", ahead, self._groups)
        group = builder.select(inside, ahead, INT64(0))
        next_row = builder.add(row, builder.mul(self._blocks, INT64(ROWS)))
        row = builder.select(inside, row, next_row)
        scales, zeros = self._place(builder, group, row)
        for at, lines in ((scales, 2 * ROWS // LINE_BYTES), (zeros, ROWS // LINE_BYTES)):
            count = builder.mul(self._blocks, INT64(lines))
            with cgutils.for_range(builder, count) as loop:
                line = builder.mul(loop.index, INT64(LINE_BYTES))
                prefetch(builder, move(builder, at, line), INTO_LEVEL_2)

    def _place(self, builder: Builder, group: Value, row: Value) -> tuple[Value, Value]:
        """Return where the scales and the zeros of a group are, from a row on."""
        scales = builder.add(builder.mul(group, self._scale_bytes), builder.mul(row, INT64(2)))
        zeros = builder.add(builder.mul(group, self._zero_bytes), row)
        return move(builder, self._scale, scales), move(builder, self._zero, zeros)

    def _add_scaled(
        self, builder: Builder, group: Value, sums: Value, row: Value, out: Value
    ) -> None:
        """Add the sums of a group and a block, times their scales, to the totals at ``out``."""
        scales, zeros = self._place(builder, group, row)
        lanes = self._unit.lanes
        narrow, half = self._unit.totals_type, lanes // 2
        wide = ir.VectorType(INT64, half)
        place = move(builder, self._whole, builder.mul(group, INT64(4)))
        whole = builder.load(builder.bitcast(place, INT32.as_pointer()))
        all_ = splat_value(builder, whole, lanes)
        for i in range(ROWS // lanes):
            at = move(builder, sums, INT64(4 * lanes * i))
            codes = load_vector(builder, at, narrow)
            at = move(builder, zeros, INT64(lanes * i))
            zero = builder.zext(load_vector(builder, at, ir.VectorType(INT8, lanes)), narrow)
            centered = builder.sub(codes, builder.mul(zero, all_))
            at = move(builder, scales, INT64(2 * lanes * i))
            scale = load_vector(builder, at, ir.VectorType(INT16, lanes))
            for j in range(2):
                rows = range(j * half, j * half + half)
                a = builder.sext(shuffle(builder, centered, centered, rows), wide)
                b = builder.sext(shuffle(builder, scale, scale, rows), wide)
                at = move(builder, out, INT64(8 * half * (2 * i + j)))
                total = builder.bitcast(at, wide.as_pointer())
                added = builder.add(builder.load(total, align=8), builder.mul(a, b))
                builder.store(added, total, align=8)


class _Part:
    """As many rows of a block as a vector has bytes."""

    def __init__(self, unit: VectorUnit, turned: Turned, keys: Value, stride: Value) -> None:
        self.unit, self._turned = unit, turned
        self._keys, self._stride = keys, stride

    def places(self, builder: Builder) -> list[list[Value]]:
        """Return where the sums of each vector of ``turn`` are, of each row of it, all zero."""
        turned, zero = self._turned, ir.Constant(self.unit.totals_type, None)
        return [
            [cgutils.alloca_once_value(builder, zero) for _ in range(turned.fields)]
            for _ in range(turned.vectors)
        ]

    def add(self, builder: Builder, octet: Value, eight: Value, places: list[list[Value]]) -> None:
        """Add the products with the columns of an octet."""
        turned = self._turned
        keys = move(builder, self._keys, builder.mul(octet, self._stride))
        ahead = FEW_AHEAD_BYTES if turned.planes <= FEW_PLANES else AHEAD_BYTES
        for plane in range(turned.planes):
            prefetch(builder, move(builder, keys, INT64(ahead + plane * LINE_BYTES)), NEAR)
        for row, vector in zip(places, turned.turn(builder, self.unit, keys), strict=True):
            for r, place in enumerate(row):
                codes = builder.and_(vector, splat(vector.type, turned.mask(r)))
                total = self.unit.dot_lanes(builder, builder.load(place), codes, eight)
                builder.store(total, place)

    def sums(self, builder: Builder, places: list[list[Value]]) -> list[list[Value]]:
        """Return the sums: two lanes a row."""
        return [
            [
                shift_back(builder, builder.load(place), (self._turned.shift(r),))
                for r, place in enumerate(row)
            ]
            for row in places
        ]

    def store(self, builder: Builder, totals: list[list[Value]], sums: Value) -> None:
        """Write the sums in the order of the rows."""
        fours = [four for row in totals for four in _in_order(builder, row)]
        for place, vector in enumerate(fours):
            for lane in range(self.unit.lanes // 4):
                part = shuffle(builder, vector, vector, range(4 * lane, 4 * lane + 4))
                at = move(builder, sums, INT64(4 * (LANE * lane + 4 * place)))
                builder.store(part, builder.bitcast(at, part.type.as_pointer()), align=4)


def _multiply(
    builder: Builder, parts: Sequence[_Part], octets: Value, x: Value
) -> list[list[list[Value]]]:
    """Return the sums of parts that are multiplied side by side."""
    unit = parts[0].unit
    places = [part.places(builder) for part in parts]
    with cgutils.for_range(builder, octets) as loop:
        at = move(builder, x, builder.mul(loop.index, INT64(OCTET)))
        eight = repeat(builder, load_vector(builder, at, ir.VectorType(INT64, 1)), unit.lanes // 2)
        columns = builder.bitcast(eight, unit.bytes_type)
        for part, own in zip(parts, places, strict=True):
            part.add(builder, loop.index, columns, own)
    return [part.sums(builder, own) for part, own in zip(parts, places, strict=True)]


def _in_order(builder: Builder, rows: Values) -> list[Value]:
    """Return the sums of pairs of lanes: of 2 * len(rows) rows, four a lane of 16 bytes."""
    pairs = [_add_pairs(builder, *rows[i : i + 2]) for i in range(0, len(rows), 2)]
    if len(pairs) == 1:
        return pairs
    lanes = pairs[0].type.count
    ordered = []
    for half in (0, 2):
        places = [
            start + half + i for start in range(0, lanes, 4) for i in (0, 1, lanes, lanes + 1)
        ]
        ordered += [shuffle(builder, *pairs[i : i + 2], places) for i in range(0, len(pairs), 2)]
    return ordered


def _add_pairs(builder: Builder, a: Value, b: Value) -> Value:
    """Return a0 + a1, b0 + b1, a2 + a3, b2 + b3, and so on."""
    lanes = a.type.count
    even, odd = (
        [source + i for i in range(half, lanes, 2) for source in (0, lanes)] for half in (0, 1)
    )
    return builder.add(shuffle(builder, a, b, even), shuffle(builder, a, b, odd))
