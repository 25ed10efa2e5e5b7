"""AVX2 with VNNI (Alder Lake, Zen 5 and later): 32 products an instruction, without AVX-512."""

from edgellm.runtime.kernels.simd._bytes import dot_unsigned, flip_sign_bits
from edgellm.runtime.kernels.simd._unit import (
    Builder,
    Value,
    Values,
    VectorUnit,
)
from edgellm.runtime.kernels.simd.avx2 import Avx2


class AvxVnni(Avx2):
    """``vpdpbusd`` on 256 bits; the ternary codes are laid out as for AVX2."""

    features = ("avx2", "avxvnni")
    rank = 30
    byte_bias = 128
    adds_fours = True
    multiplies_words = False
    looks_up_ternary = False
    int8_columns = VectorUnit.int8_columns
    int8_vector = VectorUnit.int8_vector
    dot_levels = VectorUnit.dot_levels

    def dot_codes(self, builder: Builder, total: Value, codes: Values, x: Values) -> Value:
        return dot_unsigned(builder, total, codes, x)

    def dot_bytes(self, builder: Builder, total: Value, weights: Values, x: Values) -> Value:
        return dot_unsigned(builder, total, self.biased(builder, weights), x)

    def biased(self, builder: Builder, weights: Values) -> list[Value]:
        """Make the weights unsigned."""
        return flip_sign_bits(builder, weights)


UNIT = AvxVnni()
