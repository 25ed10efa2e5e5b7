"""Rows of int32 as LLVM, sixteen at a time: what the operators between products are made of.

A product of two int32 has 64 bits. Even lanes of a vector and odd ones are multiplied apart: for
the instruction an even lane is where its operands are, an odd one is a shift away, and no lane has
to be spread over two vectors and brought back. A vector may be two of a unit that has 8 lanes.
"""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"
# Numba's internals have no types.

from collections.abc import Callable

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from edgellm.runtime.kernels.simd._unit import (
    BLOCK,
    INT8,
    INT32,
    INT64,
    Builder,
    Context,
    Intrinsic,
    Type,
    Value,
    Values,
    call,
    load_vector,
    shuffle,
    splat,
)
from edgellm.runtime.kernels.vector._tiles import open_arrays

LANES = 16
INTS, WIDES = ir.VectorType(INT32, LANES), ir.VectorType(INT64, LANES // 2)
BYTES = ir.VectorType(INT8, BLOCK)
Emit = Callable[[Value, Value | None], None]
"""(index of the first element, mask of the last vector of a row that is not whole)."""


def each_vector(builder: Builder, count: Value, emit: Emit) -> None:
    """Emit a loop over vectors of ``count`` elements; the last one may have a mask."""
    whole = builder.and_(count, INT64(-LANES))
    loop = cgutils.for_range_slice(builder, INT64(0), whole, INT64(LANES), INT64)
    with loop as (index, _):
        emit(index, None)
    rest = builder.sub(count, whole)
    with builder.if_then(builder.icmp_signed(">", rest, INT64(0))):
        emit(whole, first_lanes(builder, rest))


def first_lanes(builder: Builder, count: Value) -> Value:
    """Return a mask of the first ``count`` lanes."""
    numbers = ir.Constant(INTS, list(range(LANES)))
    return builder.icmp_signed("<", numbers, fill(builder, builder.trunc(count, INT32), INTS))


def load(builder: Builder, data: Value, index: Value, mask: Value | None) -> Value:
    """Load sixteen elements of an array as int32; zeros where the mask has none."""
    element = data.type.pointee
    kind = ir.VectorType(element, LANES)
    place = builder.gep(data, [index], source_etype=element)
    if mask is None:
        vector = load_vector(builder, place, kind)
    else:
        name = f"llvm.masked.load.v{LANES}i{element.width}.p0"
        pointer = builder.bitcast(place, kind.as_pointer())
        arguments = [pointer, INT32(1), mask, ir.Constant(kind, None)]
        vector = call(builder, name, kind, arguments)
    return vector if element == INT32 else builder.sext(vector, INTS)


def store(builder: Builder, vector: Value, data: Value, index: Value, mask: Value | None) -> None:
    """Store sixteen numbers as the elements of an array, those of the mask."""
    element = data.type.pointee
    kind = ir.VectorType(element, LANES)
    if element != vector.type.element:
        vector = builder.trunc(vector, kind)
    place = builder.bitcast(builder.gep(data, [index], source_etype=element), kind.as_pointer())
    if mask is None:
        builder.store(vector, place, align=1)
        return
    name = f"llvm.masked.store.v{LANES}i{element.width}.p0"
    call(builder, name, ir.VoidType(), [vector, place, INT32(1), mask])


def store_wide(
    builder: Builder, parts: Values, data: Value, index: Value, mask: Value | None
) -> None:
    """Store sixteen int64, the even ones and the odd ones, those of the mask."""
    lanes = [lane for i in range(LANES // 2) for lane in (i, LANES // 2 + i)]
    store(builder, shuffle(builder, *parts, lanes), data, index, mask)


def fill(builder: Builder, value: Value, kind: Type) -> Value:
    """Return a vector whose elements are all ``value``."""
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, INT32(0))
    return shuffle(builder, one, one, [0] * kind.count)


def halves(builder: Builder, vector: Value) -> tuple[Value, Value]:
    """Return the even and the odd int32 as the lower halves of int64; the upper are anything."""
    even = builder.bitcast(vector, WIDES)
    return even, builder.lshr(even, splat(WIDES, 32))


def join(builder: Builder, even: Value, odd: Value) -> Value:
    """Return the lower halves of two vectors of int64 as even and odd int32."""
    lanes = [lane for even_lane in range(0, LANES, 2) for lane in (even_lane, LANES + even_lane)]
    return shuffle(builder, builder.bitcast(even, INTS), builder.bitcast(odd, INTS), lanes)


def multiply(builder: Builder, a: Value, b: Value) -> Value:
    """Return the products of the lower halves of int64, as signed numbers."""
    upper = splat(WIDES, 32)
    signed = [builder.ashr(builder.shl(part, upper), upper) for part in (a, b)]
    return builder.mul(*signed)


def multiply_unsigned(builder: Builder, a: Value, b: Value) -> Value:
    """Return the products of the lower halves of int64, as unsigned numbers."""
    lower = splat(WIDES, 2**32 - 1)
    return builder.mul(*(builder.and_(part, lower) for part in (a, b)))


def largest(builder: Builder, name: str, vector: Value) -> Value:
    """Return the ``smax``, ``smin`` or ``umax`` of the lanes of a vector of int32."""
    return call(builder, f"llvm.vector.reduce.{name}.v{LANES}i32", INT32, [vector])


def pairwise(builder: Builder, name: str, a: Value, b: Value) -> Value:
    """Return the ``smax``, ``smin`` or ``umax`` of each two elements."""
    return call(builder, f"llvm.{name}.v{a.type.count}i{a.type.element.width}", a.type, [a, b])


def magnitude(builder: Builder, vector: Value) -> Value:
    """Return the absolute values of int32, as unsigned numbers."""
    flag = ir.Constant(ir.IntType(1), 0)
    return call(builder, f"llvm.abs.v{LANES}i32", INTS, [vector, flag])


@intrinsic
def copy_bytes(_: Context, source: Type, out: Type) -> Intrinsic:
    """``copy_bytes(source, out)``: copy a row of int8 to one of whole 64s, zeros behind."""

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        arrays = open_arrays(context, builder, signature, args)
        (count,), (size,) = (cgutils.unpack_tuple(builder, array.shape) for array in arrays)
        with cgutils.for_range_slice(builder, INT64(0), size, INT64(BLOCK), INT64) as (index, _):
            left = builder.sub(count, index)
            many = builder.icmp_signed(">", left, INT64(BLOCK))
            left = builder.trunc(builder.select(many, INT64(BLOCK), left), INT8)
            mask = builder.icmp_signed(
                "<", ir.Constant(BYTES, list(range(BLOCK))), fill(builder, left, BYTES)
            )
            source_at, out_at = (
                builder.bitcast(builder.gep(array.data, [index]), BYTES.as_pointer())
                for array in arrays
            )
            nothing = ir.Constant(BYTES, None)
            arguments = [source_at, INT32(1), mask, nothing]
            vector = call(builder, f"llvm.masked.load.v{BLOCK}i8.p0", BYTES, arguments)
            builder.store(vector, out_at, align=1)
        return context.get_dummy_value()

    return types.void(source, out), generate
