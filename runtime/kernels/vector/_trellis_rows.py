"""Weights in the layout ``trellis/v1``, 64 columns of a row at a time, as LLVM.

The state of a weight is in two or three planes of bytes, at the same bits for all columns of a row:
so shifts by one number, a multiplication of 16 bits and two shuffles of bytes give 64 weights.
"""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"
# Numba's internals have no types.

from collections.abc import Callable
from dataclasses import dataclass

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from edgellm.runtime.kernels._trellis_rows import LEVELS, MULTIPLIER
from edgellm.runtime.kernels.simd._bytes import unpack
from edgellm.runtime.kernels.simd._lane_sums import sum_one
from edgellm.runtime.kernels.simd._unit import (
    BLOCK,
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
from edgellm.runtime.kernels.vector._tiles import matrix_rows, open_arrays

PLANES = 3
"""Planes that may have bits of a state."""
IN_TWO = 4
"""The last bit of a byte from which on 12 bits are in two bytes."""

Use = Callable[[Value, Values], None]
"""(number of a block, its weights) -> None: emits what is done with them."""


@dataclass(frozen=True)
class TrellisRows:
    """Rows of such weights on a vector unit."""

    unit: VectorUnit

    def tile(self, tokens: int) -> Intrinsic:
        """Return the intrinsic ``add(x, codes, acc, t, n, columns)``.

        Add to ``acc[t, n]``, for so many tokens, the products with row n, which has so many
        columns, at least 64. The last 64 of x, and of each row, are a block of their own: where
        they were in blocks before, x is zero there.
        """

        def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
            x, codes, acc = open_arrays(context, builder, signature, args[:3])
            t, n, columns = args[3:]
            xs = matrix_rows(builder, x, t, tokens)
            zero = ir.Constant(self.unit.totals_type, None)
            sums = [cgutils.alloca_once_value(builder, zero) for _ in xs]

            def add_block(block: Value, weights: Values) -> None:
                column = builder.mul(block, INT64(BLOCK))
                for place, row in zip(sums, xs, strict=True):
                    activations = self.unit.byte_vectors(builder, move(builder, row, column))
                    total = builder.load(place)
                    total = self.unit.dot_levels(builder, total, weights, activations)
                    builder.store(total, place)

            self._walk(builder, codes, (n, columns), add_block, self.unit.byte_bias)
            for place, row in zip(sums, matrix_rows(builder, acc, t, tokens), strict=True):
                at = move(builder, row, builder.mul(n, INT64(4)))
                at = builder.bitcast(at, INT32.as_pointer())
                total = sum_one(builder, builder.load(place))
                builder.store(builder.add(builder.load(at, align=4), total), at, align=4)
            return context.get_dummy_value()

        @intrinsic
        def add(
            _: Context, x: Type, codes: Type, acc: Type, t: Type, n: Type, columns: Type
        ) -> Intrinsic:
            return types.void(x, codes, acc, t, n, columns), generate

        return add

    def unpack(self) -> Intrinsic:
        """Return the intrinsic ``write(codes, out, i, n, columns)``: row n as row i of out."""

        def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
            codes, out = open_arrays(context, builder, signature, args[:2])
            i, n, columns = args[2:]
            (target,) = matrix_rows(builder, out, i, 1)

            def store_block(block: Value, weights: Values) -> None:
                place = move(builder, target, self._begin(builder, block, columns))
                for number, vector in enumerate(weights):
                    at = move(builder, place, INT64(number * vector.type.count))
                    builder.store(vector, builder.bitcast(at, vector.type.as_pointer()), align=1)

            self._walk(builder, codes, (n, columns), store_block, 0)
            return context.get_dummy_value()

        @intrinsic
        def write(_: Context, codes: Type, out: Type, i: Type, n: Type, columns: Type) -> Intrinsic:
            return types.void(codes, out, i, n, columns), generate

        return write

    def _walk(
        self, builder: Builder, codes: Value, row: tuple[Value, Value], use: Use, bias: int
    ) -> None:
        """Emit ``use`` for each block of a row; a bias is added to the weights.

        Args:
            builder: where to emit.
            codes: (N, B).
            row: its number and its columns.
            use: see there.
            bias: 0 or 128.
        """
        n, columns = row
        rows, row_bytes = cgutils.unpack_tuple(builder, codes.shape)
        planes = builder.udiv(builder.mul(rows, row_bytes), columns)
        first = builder.udiv(builder.mul(n, builder.mul(planes, INT64(8))), rows)
        plane, shift = builder.lshr(first, INT64(3)), builder.and_(first, INT64(7))
        (data,) = matrix_rows(builder, codes, INT64(0), 1)
        pointers = []
        for i in range(PLANES):
            number = builder.urem(builder.add(plane, INT64(i)), planes)
            pointers.append(move(builder, data, builder.mul(number, columns)))
        blocks = builder.udiv(builder.add(columns, INT64(BLOCK - 1)), INT64(BLOCK))

        def emit(count: int) -> None:
            with cgutils.for_range(builder, blocks) as loop:
                begin = self._begin(builder, loop.index, columns)
                places = [move(builder, pointer, begin) for pointer in pointers[:count]]
                use(loop.index, self._weights(builder, places, shift, bias))

        fits = builder.icmp_unsigned("<=", shift, INT64(IN_TWO))
        with builder.if_else(fits) as (yes, no):
            with yes:
                emit(2)
            with no:
                emit(PLANES)

    def _begin(self, builder: Builder, block: Value, columns: Value) -> Value:
        """Return the column where a block begins."""
        begin, last = builder.mul(block, INT64(BLOCK)), builder.sub(columns, INT64(BLOCK))
        return builder.select(builder.icmp_unsigned("<", begin, last), begin, last)

    def _weights(self, builder: Builder, places: Values, shift: Value, bias: int) -> list[Value]:
        """Return 64 weights of a row, from where its planes have them."""
        kind = self.unit.bytes_type
        size = kind.count
        return [
            self._some_weights(
                builder,
                [load_vector(builder, move(builder, at, INT64(begin)), kind) for at in places],
                builder.trunc(shift, INT16),
                bias,
            )
            for begin in range(0, BLOCK, size)
        ]

    def _some_weights(self, builder: Builder, planes: Values, shift: Value, bias: int) -> Value:
        """Return a vector of weights from its bytes of two or three planes."""
        kind = self.unit.bytes_type
        words_type = ir.VectorType(INT16, kind.count // 2)
        down = splat_value(builder, shift, words_type.count)
        words = [
            builder.lshr(builder.bitcast(pair, words_type), down)
            for pair in unpack(builder, planes[0], planes[1])
        ]
        if len(planes) == PLANES:
            zero = ir.Constant(kind, None)
            up = splat_value(builder, builder.sub(INT16(8), shift), words_type.count)
            highest = [
                builder.shl(builder.bitcast(pair, words_type), up)
                for pair in unpack(builder, zero, planes[2])
            ]
            words = [builder.or_(word, high) for word, high in zip(words, highest, strict=True)]
        # Times 16: the product, modulo 2^16, depends on the lowest 12 bits alone.
        factor = splat(words_type, MULTIPLIER * 16 % 2**16)
        mixed = [builder.bitcast(builder.mul(word, factor), kind) for word in words]
        keys = _upper_bytes(builder, *mixed)
        upper = builder.lshr(builder.bitcast(keys, words_type), splat(words_type, 4))
        # The bias, modulo 256, goes into one of the tables.
        found = [
            self.unit.look_up_nibbles(builder, [level + of & 255 for level in LEVELS], key)
            for of, key in ((0, keys), (bias, builder.bitcast(upper, kind)))
        ]
        return builder.add(*found)


def _upper_bytes(builder: Builder, a: Value, b: Value) -> Value:
    """Return the upper bytes of words that ``unpack`` made of two vectors, in their order."""
    count, half = a.type.count, 8
    places = [
        begin + 2 * i + 1 + of
        for begin in range(0, count, 2 * half)
        for of in (0, count)
        for i in range(half)
    ]
    return shuffle(builder, a, b, places)
