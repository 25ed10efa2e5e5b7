"""What each operator amounts to, for devices that cost it: a product, attention, elements, bytes.

An operator that is not in these tables has no cost, and asking for it is an error.
"""

from collections.abc import Callable, Mapping

from edgellm.device import Attention, Elementwise, MatMul, Move, Work
from edgellm.errors import UnsupportedOpError

Sizes = Mapping[str, int]
"""By the letters of the operator's schema, and its attributes by their names."""
Rule = Callable[[Sizes], Work]

TERM_BITS = 8
SCALE_BITS = 16
ZERO_BITS = 8


def _product(bits: float, outputs: str = "N", rows: str = "T") -> Rule:
    return lambda sizes: MatMul(m=sizes[rows], k=sizes["K"], n=sizes[outputs], weight_bits=bits)


def _columns(sizes: Sizes) -> Work:
    return MatMul(m=sizes["T"], k=sizes["K"], n=4 * sizes["S"] * sizes["W"], weight_bits=2)


def _look_up(sizes: Sizes) -> Work:
    return MatMul(m=sizes["T"], k=sizes["K"], n=64 * sizes["B"], weight_bits=2)


def _grouped(sizes: Sizes) -> Work:
    return MatMul(
        m=sizes["T"],
        k=sizes["K"],
        n=sizes["N"],
        weight_bits=sizes["P"],
        group_size=sizes["group_size"],
        group_bits=SCALE_BITS + ZERO_BITS,
    )


def _shift_add(sizes: Sizes) -> Work:
    return MatMul(
        m=sizes["T"],
        k=sizes["K"],
        n=sizes["N"],
        weight_bits=sizes["P"],
        group_size=sizes["group_size"],
        group_bits=sizes["P"] * sizes["S"] * TERM_BITS,
    )


def _attention(sizes: Sizes) -> Work:
    return Attention(
        tokens=sizes["T"],
        length=sizes["L"],
        heads=sizes["M"] // sizes["D"],
        kv_heads=sizes["H"],
        head_dim=sizes["D"],
        window=sizes["window"],
    )


def _whole_sequences(heads: str) -> Rule:
    """Attention of sequences that are as long as each other."""

    def rule(sizes: Sizes) -> Work:
        length = sizes["T"] // max(sizes["B"], 1)
        return Attention(
            tokens=length,
            length=length,
            heads=sizes[heads],
            kv_heads=sizes[heads],
            head_dim=sizes["M"] // sizes[heads],
            sequences=sizes["B"],
            causal=False,
        )

    return rule


def _elements(kind: str, rows: str = "T", columns: str = "N", *, binary: bool = False) -> Rule:
    return lambda sizes: Elementwise(
        kind=kind, elements=sizes[rows] * sizes[columns], binary=binary
    )


def _bytes(*letters: str, size: int = 1) -> Rule:
    def rule(sizes: Sizes) -> Work:
        total = size
        for letter in letters:
            total *= sizes[letter]
        return Move(bytes=total)

    return rule


RULES: dict[str, Rule] = {
    "BitLinear": _product(2),
    "ColumnBitLinear": _columns,
    "GatedBitLinear": _product(2),
    "GroupLinear": _grouped,
    "Int4LogitsHead": _product(4, "V", "R"),
    "Int8Linear": _product(8),
    "LookUpBitLinear": _look_up,
    "LogitsHead": _product(8, "V", "R"),
    "PlanarLogitsHead": _product(8, "V", "R"),
    "ShiftAddLinear": _shift_add,
    "TritLinear": _product(1.6),
    "Attention": _attention,
    "EncoderAttention": _whole_sequences("heads"),
    "ShiftmaxAttention": _whole_sequences("H"),
    "HeadRmsNorm": _elements("norm", "T", "M"),
    "ILayerNorm": _elements("norm"),
    "L2Normalize": _elements("norm"),
    "LayerNormQuantize": _elements("norm"),
    "RmsNorm": _elements("norm"),
    "RmsNormQuantize": _elements("norm"),
    "Shiftmax": _elements("softmax", "T", "L"),
    "AbsmaxQuantize": _elements("quantize"),
    "ActivationQuantize": _elements("activation"),
    "SequenceQuantize": _elements("quantize", "T", "M"),
    "DyadicRequantize": _elements("requantize"),
    "DyadicRequantizeWide": _elements("requantize"),
    "Requantize": _elements("requantize"),
    "RequantizeBias": _elements("requantize"),
    "AddBias": _elements("add"),
    "DyadicAdd": _elements("add", binary=True),
    "ImageTokens": _elements("add", binary=True),
    "ResidualAdd": _elements("add", binary=True),
    "ResidualAddBias": _elements("add", binary=True),
    "ShiftGelu": _elements("activation"),
    "SiluGate": _elements("activation", binary=True),
    "SquaredReluGate": _elements("activation", binary=True),
    "GatedRecurrence": _elements("recurrence", binary=True),
    "RotaryEmbedding": _elements("rotary", "T", "M"),
    "MeanPool": _elements("pool"),
    "CacheAppend": _bytes("T", "M"),
    "Embedding": _bytes("T", "N"),
    "PlanarEmbedding": _bytes("T", "H", size=2),
    "TextEmbedding": _bytes("T", "N"),
    "ExtractPatches": _bytes("B", "R", "P", "S", "K"),
    "SelectRows": _bytes("B", "N", size=4),
    "TakeRows": _bytes("L", "N"),
}


def work_of(op_type: str, sizes: Sizes) -> Work:
    """Return what an operator amounts to.

    Args:
        op_type: an operator.
        sizes: of its letters, and its attributes.

    Raises:
        UnsupportedOpError: it has no rule: nothing is free by default.
    """
    if op_type not in RULES:
        raise UnsupportedOpError(f"{op_type} has no rule in runtime/operator_work.py")
    return RULES[op_type](sizes)
