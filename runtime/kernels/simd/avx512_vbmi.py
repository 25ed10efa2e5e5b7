"""AVX-512 with VNNI and VBMI (Ice Lake, Zen 4 and later): tables of 64 bytes."""

from edgellm.runtime.kernels.simd import _trits
from edgellm.runtime.kernels.simd._unit import Builder, Value, call, constant_bytes, splat
from edgellm.runtime.kernels.simd.avx512_vnni import Avx512Vnni


class Avx512Vbmi(Avx512Vnni):
    """``vpermb`` looks up by the lower six bits of each byte, whatever the others are."""

    features = (*Avx512Vnni.features, "avx512vbmi")
    rank = 50
    reads_trits_fast = True

    def unpack_trits(self, builder: Builder, packed: Value) -> tuple[Value, Value]:
        """Look up in two tables, and in a third for the last codes of rare bytes."""
        rare = builder.icmp_unsigned(">=", packed, splat(packed.type, _trits.RARE))
        usual, others, lasts = (
            _permute(builder, table, packed)
            for table in (_trits.FOURS_64, _trits.RARE_FOURS_64, _trits.RARE_LASTS_64)
        )
        return builder.select(rare, others, usual), builder.select(rare, lasts, packed)


def _permute(builder: Builder, table: tuple[int, ...], indices: Value) -> Value:
    name = "llvm.x86.avx512.permvar.qi.512"
    return call(builder, name, indices.type, [constant_bytes(table), indices])


UNIT = Avx512Vbmi()
