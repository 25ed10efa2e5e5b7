"""What plain loops cannot say about memory: a row is contiguous, soon wanted, or holds words."""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"
# Numba's internals have no types.

from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from edgellm.runtime.kernels.simd._unit import (
    INT64,
    Builder,
    Context,
    Intrinsic,
    Type,
    Value,
    Values,
    move,
)
from edgellm.runtime.kernels.vector._tiles import matrix_rows, open_arrays, prefetch

WORDS = types.Array(types.int64, 1, "C")


@intrinsic
def row_of(_: Context, matrix: Type, t: Type) -> Intrinsic:
    """``row_of(matrix, t)``: a row of a matrix, or of a slice of its columns, as contiguous."""

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        (source,) = open_arrays(context, builder, signature, args[:1])
        (row,) = matrix_rows(builder, source, args[1], 1)
        vector = context.make_array(signature.return_type)(context, builder)
        populate_array(
            vector,
            data=builder.bitcast(row, source.data.type),
            shape=[cgutils.unpack_tuple(builder, source.shape)[1]],
            strides=[cgutils.unpack_tuple(builder, source.strides)[1]],
            itemsize=source.itemsize,
            meminfo=None,
        )
        return vector._getvalue()

    return types.Array(matrix.dtype, 1, "C")(matrix, types.int64), generate


@intrinsic
def expect_at(_: Context, matrix: Type, t: Type, k: Type) -> Intrinsic:
    """``expect_at(matrix, t, k)``: begin to read the cache line of an element, or behind a row."""

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        (source,) = open_arrays(context, builder, signature, args[:1])
        (row,) = matrix_rows(builder, source, args[1], 1)
        size = cgutils.unpack_tuple(builder, source.strides)[1]
        prefetch(builder, move(builder, row, builder.mul(args[2], size)))
        return context.get_dummy_value()

    return types.void(matrix, types.int64, types.int64), generate


def view_of_words(kind: Type) -> Intrinsic:
    """Return the intrinsic ``view(words)``: the memory of contiguous int64 as other integers."""
    vector_type = types.Array(kind, 1, "C")
    size = kind.bitwidth // 8

    def generate(context: Context, builder: Builder, _signature: Type, args: Values) -> Value:
        source = context.make_array(WORDS)(context, builder, args[0])
        (count,) = cgutils.unpack_tuple(builder, source.shape)
        vector = context.make_array(vector_type)(context, builder)
        populate_array(
            vector,
            data=builder.bitcast(source.data, context.get_data_type(kind).as_pointer()),
            shape=[builder.mul(count, INT64(8 // size))],
            strides=[INT64(size)],
            itemsize=INT64(size),
            meminfo=None,
        )
        return vector._getvalue()

    @intrinsic
    def view(_: Context, words: Type) -> Intrinsic:
        return vector_type(WORDS), generate

    return view


as_int32, as_int64 = view_of_words(types.int32), view_of_words(types.int64)


@intrinsic
def store_word(_: Context, matrix: Type, t: Type, k: Type, word: Type) -> Intrinsic:
    """``store_word(matrix, t, k, word)``: store an int64 from the byte k of a row on."""

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        (array,) = open_arrays(context, builder, signature, args[:1])
        (row,) = matrix_rows(builder, array, args[1], 1)
        place = builder.bitcast(move(builder, row, args[2]), INT64.as_pointer())
        builder.store(args[3], place, align=1)
        return context.get_dummy_value()

    return types.void(matrix, types.int64, types.int64, types.int64), generate
