"""AVX-512 with VNNI (Ice Lake, Zen 4 and later): 64 products an instruction."""

from collections.abc import Sequence

from llvmlite import ir

from edgellm.runtime.kernels.simd._bytes import dot_unsigned, flip_sign_bits
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
    splat,
)


class Avx512Vnni(VectorUnit):
    """``vpdpbusd``: to each int32 lane, add four products of unsigned and signed bytes."""

    machines = ("x86_64", "AMD64")
    features: tuple[str, ...] = ("avx512f", "avx512bw", "avx512vl", "avx512vnni")
    rank = 40
    lanes = 16
    ternary_shifts = (0, 2, 4, 6)
    nibble_shifts = (0, 0, 4, 4)
    bit_shifts = (0, 1, 2, 3, 4, 5, 6, 7)
    trit_shifts = (0, 2, 4, 6, 6)
    byte_bias = 128
    adds_fours = True
    has_int32_rows = True
    looks_up_words = True
    tokens = 6

    def ternary_codes(self, builder: Builder, packed: Value) -> list[Value]:
        """Return one vector; quarter p holds the codes of columns 16p..16p+15, times 4^p.

        The 16 bytes go to all quarters and bits 2p..2p+1 stay in quarter p: no shift is needed.
        """
        quarter = load_vector(builder, packed, ir.VectorType(INT8, 16))
        masks = per_quarter(self.bytes_type, (0x03, 0x0C, 0x30, 0xC0))
        return [builder.and_(repeat(builder, quarter, 4), masks)]

    def nibble_codes(self, builder: Builder, packed: Value) -> list[Value]:
        """Return one vector; its second half, the upper nibbles, is times 16."""
        half = load_vector(builder, packed, ir.VectorType(INT8, 32))
        masks = per_quarter(self.bytes_type, (0x0F, 0xF0))
        return [builder.and_(repeat(builder, half, 2), masks)]

    def bit_codes(self, builder: Builder, packed: Value) -> list[Value]:
        """Return one vector; eighth p is bit p, times 2^p."""
        eighth = load_vector(builder, packed, ir.VectorType(INT64, 1))
        masks = per_quarter(self.bytes_type, [1 << bit for bit in range(8)])
        bytes_ = builder.bitcast(repeat(builder, eighth, 8), self.bytes_type)
        return [builder.and_(bytes_, masks)]

    def shuffle_bytes(self, builder: Builder, table: Value, keys: Value) -> Value:
        return call(builder, "llvm.x86.avx512.pshuf.b.512", table.type, [table, keys])

    def look_up_64(self, builder: Builder, table: Sequence[int], indices: Value) -> Value:
        """Look up by ``vpermt2w``, of each lane the lower 16 bits."""
        kind = ir.VectorType(INT16, 32)
        halves = [ir.Constant(kind, [*table[begin : begin + 32]]) for begin in (0, 32)]
        found = self.look_up_words(builder, halves, builder.bitcast(indices, kind))
        return builder.and_(builder.bitcast(found, indices.type), splat(indices.type, 0xFFFF))

    def look_up_words(self, builder: Builder, tables: Values, keys: Value) -> Value:
        """Look up by ``vpermw`` or ``vpermt2w``: by the lowest five or six bits."""
        if len(tables) == 1:
            return call(builder, "llvm.x86.avx512.permvar.hi.512", keys.type, [tables[0], keys])
        arguments = [tables[0], keys, tables[1]]
        return call(builder, "llvm.x86.avx512.vpermi2var.hi.512", keys.type, arguments)

    def dot_int16(self, builder: Builder, total: Value, a: Value, b: Value) -> Value:
        pairs = [builder.bitcast(words, total.type) for words in (a, b)]
        return call(builder, "llvm.x86.avx512.vpdpwssd.512", total.type, [total, *pairs])

    def trit_codes(self, builder: Builder, packed: Value) -> list[list[Value]]:
        """Return groups of one vector, whose codes stay where the fours have them: no shift."""
        (vector,) = self.byte_vectors(builder, packed)
        fours, lasts = self.unpack_trits(builder, vector)
        parts = [(fours, 0x03), (fours, 0x0C), (fours, 0x30), (fours, 0xC0), (lasts, 0xC0)]
        return [[builder.and_(part, splat(part.type, mask))] for part, mask in parts]

    def dot_codes(self, builder: Builder, total: Value, codes: Values, x: Values) -> Value:
        return dot_unsigned(builder, total, codes, x)

    def dot_bytes(self, builder: Builder, total: Value, weights: Values, x: Values) -> Value:
        return dot_unsigned(builder, total, self.biased(builder, weights), x)

    def shift_words_right(self, builder: Builder, words: Value, counts: Value) -> Value:
        return call(builder, "llvm.x86.avx512.psrlv.w.512", words.type, [words, counts])

    def look_up_ints(self, builder: Builder, table: Value, places: Value) -> Value:
        all_lanes = splat(ir.VectorType(ir.IntType(1), self.lanes), 1)
        name, size = "llvm.x86.avx512.mask.gather.dpi.512", INT32(4)
        arguments = [ir.Constant(places.type, None), table, places, all_lanes, size]
        return call(builder, name, places.type, arguments)

    def biased(self, builder: Builder, weights: Values) -> list[Value]:
        """Make the weights unsigned."""
        return flip_sign_bits(builder, weights)


UNIT = Avx512Vnni()
