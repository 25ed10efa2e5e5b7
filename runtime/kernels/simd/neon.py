"""NEON, on every 64-bit Arm (Cortex-A53, A72: Raspberry Pi 3 and 4): products in 16 bits."""

from collections.abc import Sequence

from llvmlite import ir

from edgellm.runtime.kernels.simd._bytes import field_of
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
    constant_bytes,
    load_vector,
    move,
    per_quarter,
    repeat,
    shuffle,
    splat,
)

BYTES = ir.VectorType(INT8, 16)
WORDS = ir.VectorType(INT16, 8)


class Neon(VectorUnit):
    """``smull``, ``smlal`` and ``sadalp``: products in 16 bits, added in pairs to 32."""

    machines = ("aarch64", "arm64")
    features: tuple[str, ...] = ("neon",)
    rank = 20
    lanes = 4
    ternary_shifts = (0,)
    looks_up_ternary = True
    tokens = 4
    column_shifts = (0, 0, 0, 0)
    widens_halves = True

    def ternary_codes(self, builder: Builder, packed: Value) -> list[Value]:
        """Return four vectors: bits 2p..2p+1 are the codes of columns 16p..16p+15."""
        bytes_ = load_vector(builder, packed, ir.VectorType(INT8, 16))
        mask = splat(bytes_.type, 3)
        shifted = [builder.lshr(bytes_, splat(bytes_.type, shift)) for shift in (2, 4)]
        codes = [builder.and_(part, mask) for part in (bytes_, *shifted)]
        return [*codes, builder.lshr(bytes_, splat(bytes_.type, 6))]

    def nibble_codes(self, builder: Builder, packed: Value) -> list[Value]:
        """Return four vectors: the lower nibbles of 2 * 16 bytes, then the upper ones."""
        halves = [load_vector(builder, move(builder, packed, INT64(i)), BYTES) for i in (0, 16)]
        lower = [builder.and_(half, splat(BYTES, 0x0F)) for half in halves]
        return [*lower, *(builder.lshr(half, splat(BYTES, 4)) for half in halves)]

    def bit_codes(self, builder: Builder, packed: Value) -> list[Value]:
        """Return four vectors: bits 2i and 2i + 1 are the codes of columns 16i..16i+15."""
        eighth = load_vector(builder, packed, ir.VectorType(INT64, 1))
        bytes_ = builder.bitcast(repeat(builder, eighth, 2), BYTES)
        places = [per_quarter(BYTES, (bit, bit + 1)) for bit in range(0, 8, 2)]
        return [builder.and_(builder.lshr(bytes_, place), splat(BYTES, 1)) for place in places]

    def shuffle_bytes(self, builder: Builder, table: Value, keys: Value) -> Value:
        return call(builder, "llvm.aarch64.neon.tbl1.v16i8", table.type, [table, keys])

    def widen(self, builder: Builder, vector: Value) -> list[Value]:
        """Return the lower and the upper half: products of them are one instruction."""
        kind = ir.VectorType(INT64, 2)
        halves = (shuffle(builder, vector, vector, lanes) for lanes in ((0, 1), (2, 3)))
        return [builder.sext(half, kind) for half in halves]

    def narrow(self, builder: Builder, halves: Values) -> Value:
        low, high = (builder.trunc(half, ir.VectorType(INT32, 2)) for half in halves)
        return shuffle(builder, low, high, range(4))

    def multiply_words(self, builder: Builder, a: Value, b: Value) -> Value:
        words = [builder.trunc(factor, ir.VectorType(INT32, 2)) for factor in (a, b)]
        return call(builder, "llvm.aarch64.neon.umull.v2i64", a.type, words)

    def look_up_64(self, builder: Builder, table: Sequence[int], indices: Value) -> Value:
        """Look up bytes of four registers: those of an index past the last entry are 0."""
        kind, eight = indices.type, splat(indices.type, 8)
        keys = (
            builder.or_(indices, splat(kind, 0xFFFFFF00)),
            builder.or_(builder.shl(indices, eight), splat(kind, 0xFFFF00FF)),
        )
        found = []
        for part, key in zip((0, 8), keys, strict=True):
            entries = [entry >> part & 255 for entry in table]
            quarters = [constant_bytes(entries[i : i + 16]) for i in range(0, 64, 16)]
            arguments = [*quarters, builder.bitcast(key, BYTES)]
            found.append(call(builder, "llvm.aarch64.neon.tbl4.v16i8", BYTES, arguments))
        return builder.bitcast(builder.or_(*found), kind)

    def add_byte_pairs(self, builder: Builder, total: Value, found: Value) -> Value:
        return builder.add(
            total, call(builder, "llvm.aarch64.neon.uaddlp.v8i16.v16i8", total.type, [found])
        )

    def dot_codes(self, builder: Builder, total: Value, codes: Values, x: Values) -> Value:
        """Add eight vectors in 16 bits: 16 products a lane, |sum| <= 16 * 15 * 128."""
        return _add_pairs(builder, total, _products(builder, codes, x))

    def column_codes(self, builder: Builder, packed: Value, field: int) -> Value:
        """Return the codes as they are, for signed products."""
        return field_of(builder, packed, field)

    def dot_words(self, builder: Builder, words: Value, first: Value, second: Value) -> Value:
        for half in _halves(builder, first, second):
            product = call(builder, "llvm.aarch64.neon.smull.v8i16", WORDS, half)
            words = builder.add(words, product)
        return words

    def word_pairs(self, builder: Builder, a: Value, b: Value) -> list[Value]:
        return [shuffle(builder, a, b, [*range(h, h + 8), *range(16 + h, 24 + h)]) for h in (0, 8)]

    def word_factors(self, builder: Builder, x: Value, first: int) -> Value:
        return shuffle(builder, x, x, [first] * 8 + [first + 1] * 8)

    def scale_words(self, builder: Builder, words: Value, factor: Value) -> Value:
        name, pairs = "llvm.aarch64.neon.smull.v4i32", builder.bitcast(factor, WORDS)
        products = (
            call(builder, name, self.totals_type, half) for half in _halves(builder, words, pairs)
        )
        return builder.add(*products)

    def dot_int16(self, builder: Builder, total: Value, a: Value, b: Value) -> Value:
        for half in _halves(builder, a, b):
            product = call(builder, "llvm.aarch64.neon.smull.v4i32", total.type, half)
            total = builder.add(total, product)
        return total

    def add_words(self, builder: Builder, total: Value, words: Value) -> Value:
        return _add_pairs(builder, total, words)

    def add_row_pair(
        self, builder: Builder, sums: Sequence[Values], rows: Values, words: Values
    ) -> None:
        """Widen the rows; each four products of 16 bits are added to a lane each (``smlal``)."""
        narrow, wide = ir.VectorType(INT16, 4), ir.VectorType(INT32, 4)
        pairs = [builder.bitcast(word, ir.VectorType(INT16, 2)) for word in words]
        for r, row in enumerate(rows):
            whole = builder.sext(row, ir.VectorType(INT16, 16))
            fours = [
                shuffle(builder, whole, whole, range(begin, begin + 4)) for begin in (0, 4, 8, 12)
            ]
            for own, pair in zip(sums, pairs, strict=True):
                weight = shuffle(builder, pair, pair, [r] * narrow.count)
                for total, four in zip(own, fours, strict=True):
                    products = call(builder, "llvm.aarch64.neon.smull.v4i32", wide, [four, weight])
                    builder.store(builder.add(builder.load(total), products), total)

    def dot_levels(self, builder: Builder, total: Value, levels: Values, x: Values) -> Value:
        return self.dot_bytes(builder, total, levels, x)

    def dot_bytes(self, builder: Builder, total: Value, weights: Values, x: Values) -> Value:
        """Add one vector in 16 bits: two products a lane, |sum| <= 2 * 128 * 127."""
        for weight, activation in zip(weights, x, strict=True):
            total = _add_pairs(builder, total, _products(builder, [weight], [activation]))
        return total


def _products(builder: Builder, a: Values, b: Values) -> Value:
    """Return the sums, in 16 bits, of the products of all halves of the vectors."""
    halves = [half for pair in zip(a, b, strict=True) for half in _halves(builder, *pair)]
    products = [call(builder, "llvm.aarch64.neon.smull.v8i16", WORDS, half) for half in halves]
    result = products[0]
    for product in products[1:]:
        result = builder.add(result, product)
    return result


def _halves(builder: Builder, a: Value, b: Value) -> list[list[Value]]:
    """Return the first halves of both vectors, and the last ones."""
    half = a.type.count // 2
    return [
        [shuffle(builder, vector, vector, range(begin, begin + half)) for vector in (a, b)]
        for begin in (0, half)
    ]


def _add_pairs(builder: Builder, total: Value, words: Value) -> Value:
    name = "llvm.aarch64.neon.saddlp.v4i32.v8i16"
    return builder.add(total, call(builder, name, ir.VectorType(INT32, 4), [words]))


UNIT = Neon()
