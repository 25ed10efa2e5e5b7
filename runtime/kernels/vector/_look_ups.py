"""Look-ups in bit planes with byte shuffles: 16 rows and more, four columns each, an instruction.

A table has the 16 sums of four activations that four bits choose, less the least of them: 0 to 508
(T-MAC's tables, but exact). Their lower four bits are one vector of bytes, what is above them
another, at most 31: so many look-ups are added up as bytes before the sums have to be widened. The
keys of 64 rows and 8 columns are 64 bytes.
"""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"
# Numba's internals have no types.

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, register_jitable

from edgellm.runtime.kernels._bit_planes import ROWS
from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._scalar import Int, stack_int16
from edgellm.runtime.kernels.simd._unit import (
    INT8,
    INT16,
    INT64,
    Builder,
    Context,
    Intrinsic,
    Type,
    Value,
    Values,
    VectorUnit,
    call,
    load_vector,
    move,
    repeat,
    shuffle,
    splat,
)
from edgellm.runtime.kernels.vector._tiles import LINE_BYTES, bytes_of, open_arrays, prefetch

LANE = 16
"""Bytes of a vector that a shuffle treats as one; the entries of a table."""
OCTET = 8
OCTET_TABLES = 4 * LANE
"""Bytes of the tables of an octet: the lower bits of both, then the upper bits of both."""
LOWER_BITS = 4
LOWER_OCTETS, UPPER_OCTETS = 8, 4
"""Whose entries add up in a byte: 16 * 15, and 8 * 31."""
MAX_COLUMNS = 65_536
TABLE_BYTES = MAX_COLUMNS // OCTET * OCTET_TABLES
"""Bytes of tables for the longest row: 512 KiB of the stack."""
BESIDE = 2
"""Vectors of rows that are looked up side by side, in the same tables."""
SPAN_OCTETS = 16
"""Octets whose sums, less the least one and doubled, fit in int16: 128 * 127 * 2."""
AHEAD_BYTES = 4096
"""How far ahead weights are prefetched: a group of 128 columns and 4 bits; nearer is slower, and
any other order than that of memory much slower: on one core of a server of 2021, 158 MB of 4 bits
took 40 instead of 18 ms."""

Codes = npt.NDArray[np.int8]
Planes = npt.NDArray[np.uint8]
Sums = npt.NDArray[np.int32]


class _Sum:
    """A sum of vectors of bytes in 16 bits: of all, as if two bytes were a number, and of the odd.

    That takes no mask: the even bytes are what all are less 256 times the odd.
    """

    def __init__(self, builder: Builder, unit: VectorUnit) -> None:
        self._kind = ir.VectorType(INT16, 2 * unit.lanes)
        nothing = ir.Constant(self._kind, None)
        self._all, self._odd = (cgutils.alloca_once(builder, self._kind) for _ in range(2))
        builder.store(nothing, self._all)
        builder.store(nothing, self._odd)

    def add(self, builder: Builder, vector: Value) -> None:
        """Add bytes."""
        pairs = builder.bitcast(vector, self._kind)
        upper = builder.lshr(pairs, splat(self._kind, 8))
        for place, part in ((self._all, pairs), (self._odd, upper)):
            builder.store(builder.add(builder.load(place), part), place)

    def parts(self, builder: Builder) -> list[Value]:
        """Return the sum of all, and of the odd bytes."""
        return [builder.load(self._all), builder.load(self._odd)]


@dataclass(frozen=True)
class Span:
    """Some octets of a plane.

    Attributes:
        keys: where the bytes of rows are, of one vector or of more side by side.
        stride: bytes from octet to octet.
        octets: at most SPAN_OCTETS.
        tables: of these octets.
        wanted: from where on cache lines are prefetched, one each with each octet.
    """

    keys: Sequence[Value]
    stride: Value
    octets: Value
    tables: Value
    wanted: Sequence[Value]


def sums_of_plane(builder: Builder, unit: VectorUnit, span: Span) -> list[tuple[Value, Value]]:
    """Return what rows of a plane choose, by vector of keys: the even rows, and the odd."""
    sums = [(_Sum(builder, unit), _Sum(builder, unit)) for _ in span.keys]
    octets = span.octets

    with cgutils.for_range(builder, builder.udiv(octets, INT64(LOWER_OCTETS))) as loop:
        first = builder.mul(loop.index, INT64(LOWER_OCTETS))
        lows: list[list[Value]] = [[] for _ in sums]
        for begin in range(0, LOWER_OCTETS, UPPER_OCTETS):
            numbers = (INT64(i) for i in range(begin, begin + UPPER_OCTETS))
            found = [_look_up(builder, unit, span, builder.add(first, one)) for one in numbers]
            for own, (_, upper), parts in zip(lows, sums, zip(*found, strict=True), strict=True):
                own += [low for low, _ in parts]
                upper.add(builder, _total(builder, [high for _, high in parts]))
        for own, (lower, _) in zip(lows, sums, strict=True):
            lower.add(builder, _total(builder, own))
    done = builder.and_(octets, INT64(-LOWER_OCTETS))
    with cgutils.for_range(builder, octets, start=done) as loop:
        for pair, part in zip(sums, _look_up(builder, unit, span, loop.index), strict=True):
            for total, found_bytes in zip(pair, part, strict=True):
                total.add(builder, found_bytes)
    return [_join(builder, *pair) for pair in sums]


def _look_up(
    builder: Builder, unit: VectorUnit, span: Span, octet: Value
) -> list[tuple[Value, Value]]:
    """Return what an octet adds to the lower bits and to the upper bits, by vector of keys."""
    for wanted in span.wanted:
        prefetch(builder, move(builder, wanted, builder.mul(octet, INT64(LINE_BYTES))))
    narrow, times = ir.VectorType(INT8, LANE), 4 * unit.lanes // LANE
    own = move(builder, span.tables, builder.mul(octet, INT64(OCTET_TABLES)))
    once = (load_vector(builder, move(builder, own, INT64(LANE * i)), narrow) for i in range(4))
    tables = [repeat(builder, entries, times) for entries in once]
    results = []
    for keys in span.keys:
        at = move(builder, keys, builder.mul(octet, span.stride))
        bytes_ = load_vector(builder, at, unit.bytes_type)
        nibbles = (
            builder.and_(bytes_, splat(unit.bytes_type, 15)),
            builder.lshr(bytes_, splat(unit.bytes_type, 4)),
        )
        found = [unit.shuffle_bytes(builder, tables[i], nibbles[i % 2]) for i in range(4)]
        results.append((builder.add(*found[:2]), builder.add(*found[2:])))
    return results


def _join(builder: Builder, lower: _Sum, upper: _Sum) -> tuple[Value, Value]:
    """Return the sums of even bytes, and of odd."""
    all_, odd = (
        builder.add(low, builder.shl(high, splat(high.type, LOWER_BITS)))
        for low, high in zip(lower.parts(builder), upper.parts(builder), strict=True)
    )
    return builder.sub(all_, builder.shl(odd, splat(odd.type, 8))), odd


def _total(builder: Builder, vectors: list[Value]) -> Value:
    total = vectors[0]
    for vector in vectors[1:]:
        total = builder.add(total, vector)
    return total


@intrinsic
def fill_tables(_: Context, x: Type, tables: Type) -> Intrinsic:
    """``fill_tables(x, tables)``: write the tables of each octet; columns past the end count as 0.

    What a column adds to an entry is its activation, if that is positive, where the bit is set; if
    it is negative, its magnitude where the bit is not set.
    """

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        array, out = open_arrays(context, builder, signature, args)
        (columns,) = cgutils.unpack_tuple(builder, array.shape)
        source, tables = bytes_of(builder, array), bytes_of(builder, out)
        whole = builder.and_(columns, INT64(-OCTET))
        last = _padded(builder, move(builder, source, whole), builder.sub(columns, whole))
        octets = builder.udiv(builder.add(columns, INT64(OCTET - 1)), INT64(OCTET))
        with cgutils.for_range(builder, octets) as loop:
            column = builder.mul(loop.index, INT64(OCTET))
            inside = builder.icmp_signed("<", column, whole)
            place = builder.select(inside, move(builder, source, column), last)
            target = move(builder, tables, builder.mul(loop.index, INT64(OCTET_TABLES)))
            _store_tables(builder, place, target)
        return context.get_dummy_value()

    return types.void(x, tables), generate


def _padded(builder: Builder, source: Value, count: Value) -> Value:
    """Return where a copy of less than 8 bytes is, with zeros behind."""
    kind = ir.ArrayType(INT8, OCTET)
    place = cgutils.alloca_once(builder, kind)
    builder.store(ir.Constant(kind, None), place)
    copy = builder.bitcast(place, INT8.as_pointer())
    with cgutils.for_range(builder, count) as loop:
        builder.store(
            builder.load(builder.gep(source, [loop.index])), builder.gep(copy, [loop.index])
        )
    return copy


def _store_tables(builder: Builder, source: Value, target: Value) -> None:
    narrow = load_vector(builder, source, ir.VectorType(INT8, OCTET))
    columns = builder.sext(narrow, ir.VectorType(INT16, OCTET))
    nothing = ir.Constant(columns.type, None)
    both = [
        call(builder, f"llvm.smax.v{OCTET}i16", columns.type, [part, nothing])
        for part in (columns, builder.neg(columns))
    ]
    parts = []
    for column in range(4):
        places = [
            4 * table + column + (0 if key >> column & 1 else OCTET)
            for table in range(2)
            for key in range(LANE)
        ]
        parts.append(shuffle(builder, *both, places))
    entries = _total(builder, parts)
    lower = builder.and_(entries, splat(entries.type, (1 << LOWER_BITS) - 1))
    upper = builder.lshr(entries, splat(entries.type, LOWER_BITS))
    for i, half in enumerate((lower, upper)):
        bytes_ = builder.trunc(half, ir.VectorType(INT8, 2 * LANE))
        place = move(builder, target, INT64(2 * LANE * i))
        builder.store(bytes_, builder.bitcast(place, bytes_.type.as_pointer()), align=1)


def plane_chooser(unit: VectorUnit) -> Intrinsic:
    """Return the intrinsic ``choose(keys, stride, octets, tables, words, ahead)``.

    What 64 rows of a plane choose, at most SPAN_OCTETS, is written to words, in their order. keys
    is the first byte, stride the bytes from octet to octet. For each octet a cache line is
    prefetched, one after the other from ``ahead`` bytes behind the keys on.
    """

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        chosen = [0, 3, 4]
        kinds = types.void(*(signature.args[i] for i in chosen))
        arrays = open_arrays(context, builder, kinds, [args[i] for i in chosen])
        keys, tables, words = (bytes_of(builder, array) for array in arrays)
        width = 4 * unit.lanes
        in_order = [i + odd for i in range(width // 2) for odd in (0, width // 2)]
        for first in range(0, ROWS, BESIDE * width):
            rows = range(first, min(first + BESIDE * width, ROWS), width)
            at = [move(builder, keys, INT64(row)) for row in rows]
            wanted = [move(builder, keys, args[5])] if first == 0 else []
            found = sums_of_plane(builder, unit, Span(at, args[1], args[2], tables, wanted))
            for row, parts in zip(rows, found, strict=True):
                sums = shuffle(builder, *parts, in_order)
                place = move(builder, words, INT64(2 * row))
                builder.store(sums, builder.bitcast(place, sums.type.as_pointer()), align=2)
        return context.get_dummy_value()

    @intrinsic
    def choose(
        _: Context, keys: Type, stride: Type, octets: Type, tables: Type, words: Type, ahead: Type
    ) -> Intrinsic:
        return types.void(keys, stride, octets, tables, words, ahead), generate

    return choose


def group_chooser(unit: VectorUnit) -> Callable[..., None]:
    """Return ``choose(planes, tables, least, sums)``: what ``_bit_planes.choose_group`` writes.

    planes are the octets of a group, tables those of ``fill_tables``; least is the sum of the
    group's negative activations.
    """
    choose_plane = plane_chooser(unit)

    @register_jitable(**PART_POLICY)
    def choose(planes: Planes, tables: Codes, least: Int, sums: Sums) -> None:
        words = stack_int16(ROWS)
        count = planes.shape[1]
        sums[: count * ROWS] = np.int32(least)
        for first in range(0, planes.shape[0], SPAN_OCTETS):
            octets = min(planes.shape[0] - first, SPAN_OCTETS)
            own = tables[first * OCTET_TABLES :]
            for plane in range(count):
                # All planes of these octets prefetch line after line.
                ahead = AHEAD_BYTES + plane * (octets - 1) * ROWS
                choose_plane(planes[first, plane], count * ROWS, octets, own, words, ahead)
                out = sums[plane * ROWS : plane * ROWS + ROWS]
                for row in range(ROWS):
                    out[row] += np.int32(words[row])

    return choose


@register_jitable(**PART_POLICY)
def least_sum(x: Codes) -> np.int32:
    """Return the sum of a group's negative activations."""
    total = np.int32(0)
    for column in range(x.shape[0]):
        total = np.int32(total + min(np.int32(x[column]), np.int32(0)))
    return total
