"""Bytes taken apart, put side by side and multiplied, as LLVM."""

from edgellm.runtime.kernels.simd._unit import Builder, Value, Values, call, shuffle, splat

FIELDS = 4
"""Codes of two bits in a byte."""


def field_of(builder: Builder, packed: Value, field: int) -> Value:
    """Return bits 2 * field and 2 * field + 1 of each byte."""
    if field > 0:
        packed = builder.lshr(packed, splat(packed.type, 2 * field))
    return builder.and_(packed, splat(packed.type, 3)) if field < FIELDS - 1 else packed


def unpack(builder: Builder, a: Value, b: Value) -> list[Value]:
    """Return the elements of two vectors side by side, of the low and the high half of 128 bits."""
    count = a.type.count
    each = 128 // a.type.element.width
    return [
        shuffle(
            builder,
            a,
            b,
            [
                start + i + of
                for start in range(half, count, each)
                for i in range(each // 2)
                for of in (0, count)
            ],
        )
        for half in (0, each // 2)
    ]


def dot_unsigned(builder: Builder, total: Value, unsigned: Values, signed: Values) -> Value:
    """Add to each int32 lane the products of four unsigned and four signed bytes (``vpdpbusd``)."""
    name = f"llvm.x86.avx512.vpdpbusd.{32 * total.type.count}"
    for a, b in zip(unsigned, signed, strict=True):
        parts = [total, builder.bitcast(a, total.type), builder.bitcast(b, total.type)]
        total = call(builder, name, total.type, parts)
    return total


def flip_sign_bits(builder: Builder, vectors: Values) -> list[Value]:
    """Return int8 + 128 as unsigned bytes."""
    return [builder.xor(vector, splat(vector.type, 128)) for vector in vectors]
