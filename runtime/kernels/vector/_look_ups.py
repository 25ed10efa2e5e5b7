"""Look-ups in bit planes with byte shuffles: 16 rows and more, four columns each, an instruction.

A table has the 16 sums of four activations that four bits choose, less the least of them: 0 to 512
(T-MAC's tables, but exact). Where all of a span are bytes, a look-up is one shuffle, and its bytes
are added up in 16 bits: so are 84 % of the spans of rows of 1,024 codes of a normal distribution,
and 95 % where rows have 4,096. Else the lower four bits are one vector of bytes, what is above them
another: so many look-ups are added up as bytes before the sums have to be widened. The
keys of 64 rows and 8 columns are 64 bytes.
"""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"
# Numba's internals have no types.

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

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
    load_vector,
    move,
    repeat,
    shuffle,
    splat,
)
from edgellm.runtime.kernels.vector._look_up_tables import (
    LANE,
    LOWER_BITS,
    OCTET_TABLES,
    SPAN_OCTETS,
    has_bytes,
)
from edgellm.runtime.kernels.vector._tiles import LINE_BYTES, bytes_of, open_arrays, prefetch

LOWER_OCTETS, UPPER_OCTETS = 8, 4
"""Whose entries add up in a byte: 8 * (15 + 16), and 4 * (32 + 31)."""
UNROLL = 2
"""Octets a step where entries are bytes."""
BESIDE = 2
"""Vectors of rows that are looked up side by side, in the same tables."""
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
        self._all, self._odd = (cgutils.alloca_once(builder, self._kind) for _ in range(2))

    def begin(self, builder: Builder) -> None:
        """Set the sum to 0."""
        for place in (self._all, self._odd):
            builder.store(ir.Constant(self._kind, None), place)

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
    kind = ir.VectorType(INT16, 2 * unit.lanes)
    places = [[cgutils.alloca_once(builder, kind) for _ in range(2)] for _ in span.keys]
    with builder.if_else(has_bytes(builder, span.tables)) as ways:
        for way, add in zip(ways, (_sums_of_bytes, _sums_of_halves), strict=True):
            with way:
                for own, found in zip(places, add(builder, unit, span), strict=True):
                    for place, value in zip(own, found, strict=True):
                        builder.store(value, place)
    return [(builder.load(even), builder.load(odd)) for even, odd in places]


def _sums_of_bytes(builder: Builder, unit: VectorUnit, span: Span) -> list[tuple[Value, Value]]:
    """Do it where the entries of all tables are bytes."""
    sums = [_Sum(builder, unit) for _ in span.keys]

    def add(octet: Value) -> None:
        for own, found in zip(sums, _look_up(builder, unit, span, octet, 2), strict=True):
            for vector in found:
                own.add(builder, vector)

    for own in sums:
        own.begin(builder)
    with cgutils.for_range(builder, builder.udiv(span.octets, INT64(UNROLL))) as loop:
        first = builder.mul(loop.index, INT64(UNROLL))
        for i in range(UNROLL):
            add(builder.add(first, INT64(i)))
    done = builder.and_(span.octets, INT64(-UNROLL))
    with cgutils.for_range(builder, span.octets, start=done) as loop:
        add(loop.index)
    return [_even_and_odd(builder, *own.parts(builder)) for own in sums]


def _sums_of_halves(builder: Builder, unit: VectorUnit, span: Span) -> list[tuple[Value, Value]]:
    """Do it where the lower and the upper bits of entries are in tables of their own."""
    sums = [(_Sum(builder, unit), _Sum(builder, unit)) for _ in span.keys]
    octets = span.octets

    def look_up(octet: Value) -> list[tuple[Value, Value]]:
        found = _look_up(builder, unit, span, octet, 4)
        return [(builder.add(*own[:2]), builder.add(*own[2:])) for own in found]

    for total in (total for pair in sums for total in pair):
        total.begin(builder)
    with cgutils.for_range(builder, builder.udiv(octets, INT64(LOWER_OCTETS))) as loop:
        first = builder.mul(loop.index, INT64(LOWER_OCTETS))
        lows: list[list[Value]] = [[] for _ in sums]
        for begin in range(0, LOWER_OCTETS, UPPER_OCTETS):
            numbers = (INT64(i) for i in range(begin, begin + UPPER_OCTETS))
            found = [look_up(builder.add(first, one)) for one in numbers]
            for own, (_, upper), parts in zip(lows, sums, zip(*found, strict=True), strict=True):
                own += [low for low, _ in parts]
                upper.add(builder, reduce(builder.add, [high for _, high in parts]))
        for own, (lower, _) in zip(lows, sums, strict=True):
            lower.add(builder, reduce(builder.add, own))
    done = builder.and_(octets, INT64(-LOWER_OCTETS))
    with cgutils.for_range(builder, octets, start=done) as loop:
        for pair, part in zip(sums, look_up(loop.index), strict=True):
            for total, found_bytes in zip(pair, part, strict=True):
                total.add(builder, found_bytes)
    return [_join(builder, *pair) for pair in sums]


def _look_up(
    builder: Builder, unit: VectorUnit, span: Span, octet: Value, count: int
) -> list[list[Value]]:
    """Return what is found in the first tables of an octet, by vector of keys."""
    for wanted in span.wanted:
        prefetch(builder, move(builder, wanted, builder.mul(octet, INT64(LINE_BYTES))))
    narrow, times = ir.VectorType(INT8, LANE), 4 * unit.lanes // LANE
    own = move(builder, span.tables, builder.mul(octet, INT64(OCTET_TABLES)))
    once = (load_vector(builder, move(builder, own, INT64(LANE * i)), narrow) for i in range(count))
    tables = [repeat(builder, entries, times) for entries in once]
    results = []
    for keys in span.keys:
        at = move(builder, keys, builder.mul(octet, span.stride))
        bytes_ = load_vector(builder, at, unit.bytes_type)
        nibbles = (
            builder.and_(bytes_, splat(unit.bytes_type, 15)),
            builder.lshr(bytes_, splat(unit.bytes_type, 4)),
        )
        results.append(
            [unit.shuffle_bytes(builder, table, nibbles[i % 2]) for i, table in enumerate(tables)]
        )
    return results


def _join(builder: Builder, lower: _Sum, upper: _Sum) -> tuple[Value, Value]:
    """Return the sums of even bytes, and of odd."""
    all_, odd = (
        builder.add(low, builder.shl(high, splat(high.type, LOWER_BITS)))
        for low, high in zip(lower.parts(builder), upper.parts(builder), strict=True)
    )
    return _even_and_odd(builder, all_, odd)


def _even_and_odd(builder: Builder, all_: Value, odd: Value) -> tuple[Value, Value]:
    return builder.sub(all_, builder.shl(odd, splat(odd.type, 8))), odd


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
