"""AVX-512 with AMX (Sapphire Rapids and later): 16,384 products an instruction, of many tokens."""

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
            "BitLinear",
            "CodebookLinear",
            "EncoderAttention",
            "GroupLinear",
            "Int8Linear",
            "ShiftAddLinear",
            "TritLinear",
        }
    )


UNIT = Avx512Amx()
