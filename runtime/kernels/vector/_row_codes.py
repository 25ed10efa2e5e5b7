"""Products with levels that codes choose, as LLVM: a byte shuffle looks up a vector of weights.

The table of a row and group is in every 16 bytes of a vector, and the codes of a block, brought to
the order of their columns, are its indices. What comes out is int8 weights.
"""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"
# Numba's internals have no types.

from collections.abc import Callable
from dataclasses import dataclass

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from edgellm.runtime.kernels.simd._bytes import flip_sign_bits
from edgellm.runtime.kernels.simd._lane_sums import sum_one
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
    VectorUnit,
    load_vector,
    move,
    per_quarter,
    repeat,
    splat,
)
from edgellm.runtime.kernels.vector._tiles import matrix_rows, open_arrays, prefetch

UNROLL = 2
"""Blocks at once, each with its own sum: a group of 128 columns is two."""
AHEAD_BYTES = 4096
FIELDS_BYTES = 16
"""Of a block with two bits a code."""


@dataclass(frozen=True)
class RowCodes:
    """Rows of codes of so many bits, on a vector unit."""

    unit: VectorUnit
    bits: int

    @property
    def block_bytes(self) -> int:
        """Bytes of a block of codes."""
        return BLOCK // 8 * self.bits

    def tile(self, tokens: int) -> Intrinsic:
        """Return the intrinsic ``add(x, codes, levels, acc, t, n, group)``.

        Add to ``acc[t, n]``, for so many tokens, the products with row n; group is the blocks of a
        group, and the rows of x are as many whole blocks as those of codes.
        """

        def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
            x, codes, levels, acc = open_arrays(context, builder, signature, args[:4])
            t, n, group = args[4:]
            xs = matrix_rows(builder, x, t, tokens)
            zero = ir.Constant(self.unit.totals_type, None)
            sums = [[cgutils.alloca_once_value(builder, zero) for _ in xs] for _ in range(UNROLL)]

            def add_block(turn: int, block: Value, weights: Values) -> None:
                column = builder.mul(block, INT64(BLOCK))
                for place, row in zip(sums[turn], xs, strict=True):
                    activations = self.unit.byte_vectors(builder, move(builder, row, column))
                    total = builder.load(place)
                    total = self.unit.dot_levels(builder, total, weights, activations)
                    builder.store(total, place)

            self._walk(builder, (codes, levels, n, group), add_block, biased=True)
            for i, row in enumerate(matrix_rows(builder, acc, t, tokens)):
                parts = [builder.load(of_turn[i]) for of_turn in sums]
                total = sum_one(builder, builder.add(*parts))
                place = move(builder, row, builder.mul(n, INT64(4)))
                place = builder.bitcast(place, INT32.as_pointer())
                builder.store(builder.add(builder.load(place, align=4), total), place, align=4)
            return context.get_dummy_value()

        @intrinsic
        def add(
            _: Context, x: Type, codes: Type, levels: Type, acc: Type, t: Type, n: Type, group: Type
        ) -> Intrinsic:
            return types.void(x, codes, levels, acc, t, n, group), generate

        return add

    def unpack(self) -> Intrinsic:
        """Return the intrinsic ``write(codes, levels, out, i, n, group)``.

        Write the levels of row n as row i of out.
        """

        def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
            codes, levels, out = open_arrays(context, builder, signature, args[:3])
            i, n, group = args[3:]
            (target,) = matrix_rows(builder, out, i, 1)

            def store_block(_turn: int, block: Value, weights: Values) -> None:
                place = move(builder, target, builder.mul(block, INT64(BLOCK)))
                for number, vector in enumerate(weights):
                    at = move(builder, place, INT64(number * vector.type.count))
                    builder.store(vector, builder.bitcast(at, vector.type.as_pointer()), align=1)

            self._walk(builder, (codes, levels, n, group), store_block, biased=False)
            return context.get_dummy_value()

        @intrinsic
        def write(
            _: Context, codes: Type, levels: Type, out: Type, i: Type, n: Type, group: Type
        ) -> Intrinsic:
            return types.void(codes, levels, out, i, n, group), generate

        return write

    def _walk(
        self,
        builder: Builder,
        row: tuple[Value, Value, Value, Value],
        use: Callable[[int, Value, Values], None],
        *,
        biased: bool,
    ) -> None:
        """Emit ``use(turn, block, weights)`` for each block of a row; turns are below UNROLL.

        Args:
            builder: where to emit.
            row: the matrices of codes and of levels, the number of the row, blocks of a group.
            use: emits what is done with the weights of a block.
            biased: look up levels + byte_bias.
        """
        codes, levels, n, group = row
        (packed,) = matrix_rows(builder, codes, n, 1)
        (tables,) = matrix_rows(builder, levels, n, 1)
        row_bytes = cgutils.unpack_tuple(builder, codes.shape)[1]
        blocks = builder.udiv(row_bytes, INT64(self.block_bytes))
        groups = cgutils.unpack_tuple(builder, levels.shape)[1]
        with cgutils.for_range(builder, groups) as outer:
            first = builder.mul(outer.index, group)
            left = builder.sub(blocks, first)
            count = builder.select(builder.icmp_signed("<", left, group), left, group)
            at = move(builder, tables, builder.mul(outer.index, INT64(1 << self.bits)))
            table = self._table(builder, at, biased=biased)

            def look_up(turn: int, block: Value) -> None:
                place = move(builder, packed, builder.mul(block, INT64(self.block_bytes)))
                keys = self._keys(builder, place)
                use(turn, block, [self.unit.shuffle_bytes(builder, table, key) for key in keys])

            with cgutils.for_range(builder, builder.udiv(count, INT64(UNROLL))) as inner:
                begin = builder.add(first, builder.mul(inner.index, INT64(UNROLL)))
                offset = builder.mul(begin, INT64(self.block_bytes))
                ahead = builder.add(offset, INT64(AHEAD_BYTES))
                prefetch(builder, move(builder, packed, ahead))
                for turn in range(UNROLL):
                    look_up(turn, builder.add(begin, INT64(turn)))
            odd = builder.urem(count, INT64(UNROLL))
            with builder.if_then(builder.icmp_unsigned("!=", odd, INT64(0))):
                look_up(0, builder.add(first, builder.sub(count, INT64(1))))

    def _table(self, builder: Builder, pointer: Value, *, biased: bool) -> Value:
        """Return a table in every 16 bytes of a vector."""
        element = ir.IntType(8 << self.bits)
        whole = load_vector(builder, pointer, ir.VectorType(element, 1))
        times = 4 * self.unit.lanes >> self.bits
        table = builder.bitcast(repeat(builder, whole, times), self.unit.bytes_type)
        return flip_sign_bits(builder, [table])[0] if biased and self.unit.byte_bias else table

    def _keys(self, builder: Builder, pointer: Value) -> list[Value]:
        """Return the codes of a block in the order of their columns."""
        width = 4 * self.unit.lanes
        return [self._some_keys(builder, pointer, begin) for begin in range(0, BLOCK, width)]

    def _some_keys(self, builder: Builder, pointer: Value, begin: int) -> Value:
        """Return a vector of codes, from a column on."""
        width, kind = 4 * self.unit.lanes, self.unit.bytes_type
        field = 4 if self.bits == 4 else 2
        held = BLOCK * field // 8  # bytes that have fields of as many columns
        loaded = min(width, held)
        at = move(builder, pointer, INT64(begin % held // loaded * loaded))
        bytes_ = repeat(
            builder, load_vector(builder, at, ir.VectorType(INT8, loaded)), width // loaded
        )
        shifts = [(begin + part) // held * field for part in range(0, width, loaded)]
        if any(shifts):  # in 32 bits: there is no shift of bytes, and the mask is needed anyway
            words = builder.bitcast(bytes_, self.unit.totals_type)
            words = builder.lshr(words, per_quarter(self.unit.totals_type, shifts))
            bytes_ = builder.bitcast(words, kind)
        keys = builder.and_(bytes_, splat(kind, (1 << field) - 1))
        if self.bits != 3:
            return keys
        at = move(builder, pointer, INT64(FIELDS_BYTES))
        eighth = load_vector(builder, at, ir.VectorType(INT64, 1))
        places = [1 << bit for bit in range(begin // 8, (begin + width) // 8)]
        bits = builder.bitcast(repeat(builder, eighth, width // 8), kind)
        third = builder.and_(bits, per_quarter(kind, places))
        none = ir.Constant(kind, None)
        is_set = builder.icmp_unsigned("!=", third, none)
        return builder.or_(keys, builder.select(is_set, splat(kind, 4), none))
