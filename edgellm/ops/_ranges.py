"""Ranges of attributes that several operators have."""

MANTISSA = (0, 2**31 - 1)
EXPONENT = (-4096, 4096)
SHIFT = (-4096, 4096)
"""Of a result that goes through a dynamic scale, which has an exponent of its own."""
RIGHT_SHIFT = (1, 62)
FRAME = (1, 31)
"""Fraction bits."""

UNIT = (1, 65_535)
"""Of a shifted exponential: what stands for 1."""
SHIFT_EXP = {"unit": UNIT, "n": (1, 30), "bits": (2, 16), "half_bit": (0, 1)}
"""Attributes of operators that shift exponentials, as I-ViT does."""
NORM = {
    "epsilon_mantissa": MANTISSA,
    "epsilon_exponent": EXPONENT,
    "gain_mantissa": MANTISSA,
    "gain_exponent": EXPONENT,
}
"""Attributes of RMSNorm and LayerNorm."""
