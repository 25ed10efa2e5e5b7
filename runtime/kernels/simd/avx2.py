"""AVX2 (Haswell, Zen and later): bytes are multiplied in pairs, into 16 bits."""

from collections.abc import Sequence
from functools import reduce

from llvmlite import ir

from edgellm.runtime.kernels.simd._bytes import unpack
from edgellm.runtime.kernels.simd._unit import (
    INT8,
    INT16,
    INT32,
    INT64,
    Builder,
    Value,
    Values,
    VectorUnit,
    call,
    load_vector,
    per_quarter,
    repeat,
    shuffle,
    splat,
    splat_value,
)

WORDS = ir.VectorType(INT16, 16)


class Avx2(VectorUnit):
    """``vpmaddubsw`` and ``vpmaddwd``: products of neighbours, added in 16 and in 32 bits."""

    machines = ("x86_64", "AMD64")
    features: tuple[str, ...] = ("avx2",)
    rank = 20
    lanes = 8
    ternary_shifts = (0, 2)
    bit_shifts = (0, 1, 2, 3)
    looks_up_ternary = True
    looks_up_eights = True
    multiplies_words = True
    has_int32_rows = True
    tokens = 2

    def ternary_codes(self, builder: Builder, packed: Value) -> list[Value]:
        """Return two vectors: columns 0..15 | 16..31 times 4, and columns 32..47 | 48..63 times 4.

        The 16 bytes go to both halves; bits 0..3 and bits 4..7 hold two columns each.
        """
        bytes_ = repeat(builder, load_vector(builder, packed, ir.VectorType(INT8, 16)), 2)
        return _nibbles(builder, bytes_, per_quarter(self.bytes_type, (0x03, 0x0C)))

    def nibble_codes(self, builder: Builder, packed: Value) -> list[Value]:
        """Return two vectors: the lower nibbles and the upper ones."""
        bytes_ = load_vector(builder, packed, self.bytes_type)
        return _nibbles(builder, bytes_, splat(self.bytes_type, 0x0F))

    def bit_codes(self, builder: Builder, packed: Value) -> list[Value]:
        """Return two vectors: bits 0..3 times 1, 2, 4, 8, a quarter each, and so bits 4..7."""
        eighth = load_vector(builder, packed, ir.VectorType(INT64, 1))
        bytes_ = builder.bitcast(repeat(builder, eighth, 4), self.bytes_type)
        return _nibbles(builder, bytes_, per_quarter(self.bytes_type, (1, 2, 4, 8)))

    def shuffle_bytes(self, builder: Builder, table: Value, keys: Value) -> Value:
        return call(builder, "llvm.x86.avx2.pshuf.b", table.type, [table, keys])

    def look_up_8(self, builder: Builder, table: Sequence[int], indices: Value) -> Value:
        entries = ir.Constant(indices.type, list(table))
        return call(builder, "llvm.x86.avx2.permd", indices.type, [entries, indices])

    def look_up_ints(self, builder: Builder, table: Value, places: Value) -> Value:
        """Gather twice: there are 16 places."""
        kind = ir.VectorType(INT32, self.lanes)
        nothing, all_lanes = ir.Constant(kind, None), ir.Constant(kind, [-1] * self.lanes)
        pointer, size = builder.bitcast(table, INT8.as_pointer()), INT8(4)
        found = [
            call(
                builder,
                "llvm.x86.avx2.gather.d.d.256",
                kind,
                [nothing, pointer, shuffle(builder, places, places, part), all_lanes, size],
            )
            for part in (range(self.lanes), range(self.lanes, 2 * self.lanes))
        ]
        return shuffle(builder, *found, range(2 * self.lanes))

    def add_byte_pairs(self, builder: Builder, total: Value, found: Value) -> Value:
        ones = splat(self.bytes_type, 1)
        return builder.add(total, call(builder, "llvm.x86.avx2.pmadd.ub.sw", WORDS, [found, ones]))

    def dot_codes(self, builder: Builder, total: Value, codes: Values, x: Values) -> Value:
        """Add in 16 bits as long as that is exact: eight vectors, |sum| <= 8 * 2 * 15 * 128."""
        sums = [
            call(builder, "llvm.x86.avx2.pmadd.ub.sw", WORDS, [code, activation])
            for code, activation in zip(codes, x, strict=True)
        ]
        return _add_pairs(builder, total, reduce(builder.add, sums), splat(WORDS, 1))

    def dot_levels(self, builder: Builder, total: Value, levels: Values, x: Values) -> Value:
        """Move the signs of x to the levels; pairs fit in 16 bits: |sum| <= 2 * 128 * 127."""
        for level, activation in zip(levels, x, strict=True):
            magnitude = call(builder, "llvm.abs.v32i8", level.type, [activation, ir.IntType(1)(0)])
            signed = call(builder, "llvm.x86.avx2.psign.b", level.type, [level, activation])
            pairs = call(builder, "llvm.x86.avx2.pmadd.ub.sw", WORDS, [magnitude, signed])
            total = _add_pairs(builder, total, pairs, splat(WORDS, 1))
        return total

    @property
    def int8_columns(self) -> int:
        return WORDS.count

    def int8_vector(self, builder: Builder, pointer: Value) -> Value:
        """Load int8 as 16 bits."""
        return builder.sext(load_vector(builder, pointer, ir.VectorType(INT8, WORDS.count)), WORDS)

    def dot_bytes(self, builder: Builder, total: Value, weights: Values, x: Values) -> Value:
        for weight, activation in zip(weights, x, strict=True):
            total = _add_pairs(builder, total, weight, activation)
        return total

    def dot_words(self, builder: Builder, words: Value, first: Value, second: Value) -> Value:
        return builder.add(
            words, call(builder, "llvm.x86.avx2.pmadd.ub.sw", WORDS, [first, second])
        )

    def word_pairs(self, builder: Builder, a: Value, b: Value) -> list[Value]:
        return unpack(builder, a, b)

    def word_factors(self, builder: Builder, x: Value, first: int) -> Value:
        return shuffle(builder, x, x, [first, first + 1] * (2 * self.lanes))

    def dot_int16(self, builder: Builder, total: Value, a: Value, b: Value) -> Value:
        return _add_pairs(builder, total, a, b)

    def add_words(self, builder: Builder, total: Value, words: Value) -> Value:
        return _add_pairs(builder, total, words, splat(WORDS, 1))

    def add_row_pair(
        self, builder: Builder, sums: Sequence[Values], rows: Values, words: Values
    ) -> None:
        """Interleave the widened rows in each 128 bits, so that ``vpmaddwd`` adds both."""
        wide = [builder.sext(row, WORDS) for row in rows]
        pairs = []
        for begin in (0, 4):
            columns = [column for half in (begin, begin + 8) for column in range(half, half + 4)]
            order = [row + column for column in columns for row in (0, 16)]
            pairs.append(shuffle(builder, *wide, order))
        for own, word in zip(sums, words, strict=True):
            both = builder.bitcast(splat_value(builder, word, self.lanes), WORDS)
            for total, pair in zip(own, pairs, strict=True):
                builder.store(_add_pairs(builder, builder.load(total), pair, both), total)

    def settle_row_pair(self, builder: Builder, sums: Values) -> list[Value]:
        """Exchange the inner quarters: the first has columns 0 to 3 and 8 to 11."""
        return [shuffle(builder, *sums, [*range(i, i + 4), *range(i + 8, i + 12)]) for i in (0, 4)]


def _nibbles(builder: Builder, bytes_: Value, masks: Value) -> list[Value]:
    """Return the masked lower and upper nibbles of bytes.

    There is no shift of bytes: what comes in from the neighbour is masked off.
    """
    upper = builder.lshr(builder.bitcast(bytes_, WORDS), splat(WORDS, 4))
    return [builder.and_(part, masks) for part in (bytes_, builder.bitcast(upper, bytes_.type))]


def _add_pairs(builder: Builder, total: Value, a: Value, b: Value) -> Value:
    """Add to each int32 lane the products of two neighbours of 16 bits."""
    products = call(builder, "llvm.x86.avx2.pmadd.wd", ir.VectorType(INT32, 8), [a, b])
    return builder.add(total, products)


UNIT = Avx2()
