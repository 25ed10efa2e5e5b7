"""Bytes taken apart and put side by side, as LLVM."""

from edgellm.runtime.kernels.simd._unit import Builder, Value, shuffle, splat

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
