"""The tables in which bit planes are looked up, see ``_look_ups``: 16 sums of four activations.

What a column adds to an entry is its activation, if that is positive, where the bit is set; if it
is negative, its magnitude where the bit is not set: an entry is 0 to 512. Where all entries of a
span are bytes, a table is a vector of them; else it is two, of their lower four bits and of what is
above. 512 is 16 times 32 in the first table of an octet and 16 times 31 and 16 in the second: so
as many of either as are added up fit in a byte.
"""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"
# Numba's internals have no types.

from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, register_jitable

from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._scalar import Int
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
    call,
    load_vector,
    move,
    shuffle,
    splat,
)
from edgellm.runtime.kernels.vector._tiles import bytes_of, open_arrays

LANE = 16
"""Bytes of a vector that a shuffle treats as one; the entries of a table."""
OCTET = 8
OCTET_TABLES = 4 * LANE
"""Bytes of the tables of an octet: the lower bits of both, then the upper bits of both, or bytes of
both, then NO_UPPER."""
LOWER_BITS = 4
NO_UPPER = 255
"""What stands instead of upper bits."""
UPPER_LIMITS = [32] * LANE + [31] * LANE
"""Of both tables."""
MAX_COLUMNS = 65_536
TABLE_BYTES = MAX_COLUMNS // OCTET * OCTET_TABLES
"""Bytes of tables for the longest row: 512 KiB of the stack."""
TOGETHER_BYTES = 1 << 17
"""Of tables of tokens that blocks are read once for: with those blocks in the second cache."""
SPAN_OCTETS = 16
"""Octets whose sums, less the least one, are 128 * 128 at most: doubled, they fit in 16 bits, which
have no sign then."""
SPAN = SPAN_OCTETS * OCTET

Codes = npt.NDArray[np.int8]


@register_jitable(**PART_POLICY)
def fill_tables(x: Codes, group_size: Int, tables: Codes) -> None:
    """Write the tables of each octet of a row, span by span of each group."""
    columns = x.shape[0]
    for group in range(0, columns, group_size):
        end = min(group + group_size, columns)
        for first in range(group, end, SPAN):
            own = x[first : min(first + SPAN, end)]
            fill_span(own, are_bytes(own), tables[first // OCTET * OCTET_TABLES :])


@register_jitable(**PART_POLICY)
def table_size(columns: Int) -> Int:
    """Return the bytes of the tables of a row."""
    return (columns + OCTET - 1) // OCTET * OCTET_TABLES


@register_jitable(**PART_POLICY)
def are_bytes(x: Codes) -> bool:
    """Tell whether all entries of some tables are bytes."""
    most = np.int32(0)
    for first in range(0, x.shape[0], 4):
        total = np.int32(0)
        for column in range(first, min(first + 4, x.shape[0])):
            total += abs(np.int32(x[column]))
        most = max(most, total)
    return most < 256


@intrinsic
def fill_span(_: Context, x: Type, are_bytes: Type, tables: Type) -> Intrinsic:
    """``fill_span(x, are_bytes, tables)``: columns past the end count as 0."""

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        kinds = types.void(signature.args[0], signature.args[2])
        array, out = open_arrays(context, builder, kinds, [args[0], args[2]])
        tables = bytes_of(builder, out)
        with each_octet(builder, array) as (index, entries):
            target = move(builder, tables, builder.mul(index, INT64(OCTET_TABLES)))
            _store_tables(builder, entries, args[1], target)
        return context.get_dummy_value()

    return types.void(x, types.boolean, tables), generate


@contextmanager
def each_octet(builder: Builder, x: Value) -> Iterator[tuple[Value, Value]]:
    """Emit what follows for each eight columns of x: its number, and the entries of both tables."""
    (columns,) = cgutils.unpack_tuple(builder, x.shape)
    source = bytes_of(builder, x)
    whole = builder.and_(columns, INT64(-OCTET))
    last = _padded(builder, move(builder, source, whole), builder.sub(columns, whole))
    octets = builder.udiv(builder.add(columns, INT64(OCTET - 1)), INT64(OCTET))
    with cgutils.for_range(builder, octets) as loop:
        column = builder.mul(loop.index, INT64(OCTET))
        inside = builder.icmp_signed("<", column, whole)
        place = builder.select(inside, move(builder, source, column), last)
        yield loop.index, _entries(builder, place)


def has_bytes(builder: Builder, tables: Value) -> Value:
    """Tell whether the entries of a span, whose tables begin there, are bytes."""
    last = builder.load(move(builder, tables, INT64(OCTET_TABLES - 1)))
    return builder.icmp_unsigned("==", last, INT8(NO_UPPER))


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


def _entries(builder: Builder, source: Value) -> Value:
    """Return the entries of both tables of eight columns, in 16 bits."""
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
    return reduce(builder.add, parts)


def _store_tables(builder: Builder, entries: Value, are_bytes: Value, target: Value) -> None:
    bits = splat(entries.type, LOWER_BITS)
    limits = ir.Constant(entries.type, UPPER_LIMITS)
    name = f"llvm.umin.v{entries.type.count}i16"
    upper = call(builder, name, entries.type, [builder.lshr(entries, bits), limits])
    lower = builder.sub(entries, builder.shl(upper, bits))
    lower = builder.select(are_bytes, entries, lower)
    upper = builder.select(are_bytes, splat(entries.type, NO_UPPER), upper)
    for i, half in enumerate((lower, upper)):
        store_bytes(builder, half, move(builder, target, INT64(2 * LANE * i)))


def store_bytes(builder: Builder, entries: Value, target: Value) -> None:
    """Store the lower bytes of the entries of both tables."""
    bytes_ = builder.trunc(entries, ir.VectorType(INT8, 2 * LANE))
    builder.store(bytes_, builder.bitcast(target, bytes_.type.as_pointer()), align=1)
