"""AVX-512 with AMX (Sapphire Rapids and later): 16,384 products an instruction, of many tokens."""

from edgellm.runtime.kernels.simd._unit import INT8, Builder, Value, call, constant_bytes
from edgellm.runtime.kernels.simd.avx512_vbmi import Avx512Vbmi


class Avx512Amx(Avx512Vbmi):
    """``tdpbsud``: 16 rows of signed bytes times a panel of unsigned ones (``vector/_amx``).

    Few tokens run as without, and so do operators that have no product of many.
    """

    features = (*Avx512Vbmi.features, "amx-tile", "amx-int8")
    rank = 60
    matrix_tiles = True
    base = "avx512_vbmi"
    operators = frozenset(
        {
            "Attention",
            "BitLinear",
            "CodebookLinear",
            "ColumnBitLinear",
            "EncoderAttention",
            "GatedBitLinear",
            "GatedTritLinear",
            "GroupLinear",
            "Int8Linear",
            "ShiftAddLinear",
            "TrellisLinear",
            "TritLinear",
        }
    )

    def signed_field(self, builder: Builder, packed: Value, field: int) -> Value:
        """Return -1, 0 and 1 from the codes 0, 1 and 2, all at once (``vgf2p8affineqb``).

        The instruction makes each bit of a byte from a choice of its bits, by exclusive or. Bit 0
        is the complement of the code's lower bit, all others are that of both.
        """
        rows = [3 << 2 * field] * 7 + [1 << 2 * field]  # for bit 7 first
        matrix = constant_bytes(rows * (packed.type.count // len(rows)))
        name = "llvm.x86.vgf2p8affineqb.512"
        return call(builder, name, packed.type, [packed, matrix, INT8(0xFF)])


UNIT = Avx512Amx()
