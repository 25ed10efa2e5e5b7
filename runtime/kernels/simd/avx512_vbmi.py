"""AVX-512 with VNNI, VBMI, GFNI (Ice Lake, Zen 4 and later): tables of 64 bytes, bit matrices."""

from collections.abc import Sequence

from edgellm.runtime.kernels.simd import _trits
from edgellm.runtime.kernels.simd._unit import INT8, Builder, Value, call, constant_bytes, splat
from edgellm.runtime.kernels.simd.avx512_vnni import Avx512Vnni


class Avx512Vbmi(Avx512Vnni):
    """``vpermb`` looks up by the lower six bits of each byte, whatever the others are."""

    features = (*Avx512Vnni.features, "avx512vbmi", "gfni")
    rank = 50
    base = "avx512_vnni"
    operators = frozenset(
        {
            "GatedTritLinear",
            "GroupLinear",
            "PlanarLogitsHead",
            "ShiftAddLinear",
            "TrellisLinear",
            "TritLinear",
        }
    )
    reads_trits_fast = True
    turns_bits = True

    def unpack_trits(self, builder: Builder, packed: Value) -> tuple[Value, Value]:
        """Look up in two tables, and in a third for the last codes of rare bytes."""
        rare = builder.icmp_unsigned(">=", packed, splat(packed.type, _trits.RARE))
        usual, others, lasts = (
            _permute(builder, table, packed)
            for table in (_trits.FOURS_64, _trits.RARE_FOURS_64, _trits.RARE_LASTS_64)
        )
        return builder.select(rare, others, usual), builder.select(rare, lasts, packed)

    def look_up_nibbles(self, builder: Builder, table: Sequence[int], keys: Value) -> Value:
        """Look up in a table of 64 that repeats: no mask is needed."""
        return _permute(builder, [*table] * 4, keys)

    def turn_bits(self, builder: Builder, vector: Value) -> Value:
        """Multiply the bit matrix of the identity with those of the vector."""
        identity = constant_bytes([1 << i for i in range(8)] * (vector.type.count // 8))
        name = f"llvm.x86.vgf2p8affineqb.{8 * vector.type.count}"
        return call(builder, name, vector.type, [identity, vector, INT8(0)])


def _permute(builder: Builder, table: Sequence[int], indices: Value) -> Value:
    name = "llvm.x86.avx512.permvar.qi.512"
    return call(builder, name, indices.type, [constant_bytes(table), indices])


UNIT = Avx512Vbmi()
