"""What an operator amounts to, for devices that cost it and for estimates of energy.

Each operator's file says it in ``WORK``: a product, attention, elements, or bytes that move.
"""

from collections.abc import Callable, Mapping

from edgellm.device import Attention, Elementwise, MatMul, Move, Work

Sizes = Mapping[str, int]
"""By the letters of the operator's schema, and its attributes by their names."""
Rule = Callable[[Sizes], Work]


def product(weight_bits: float, rows: str = "T", outputs: str = "N") -> Rule:
    """A product with weights that have one scale an output."""
    return lambda sizes: MatMul(
        m=sizes[rows], k=sizes["K"], n=sizes[outputs], weight_bits=weight_bits
    )


def elements(kind: str, rows: str = "T", columns: str = "N", *, binary: bool = False) -> Rule:
    """Something done to each element."""
    return lambda sizes: Elementwise(
        kind=kind, elements=sizes[rows] * sizes[columns], binary=binary
    )


def moved(*letters: str, size: int = 1) -> Rule:
    """Bytes that are copied: the product of these letters, times the bytes of an element."""

    def rule(sizes: Sizes) -> Work:
        total = size
        for letter in letters:
            total *= sizes[letter]
        return Move(bytes=total)

    return rule


def full_attention(heads: str) -> Rule:
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
